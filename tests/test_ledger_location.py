"""Where ledgers are and whose they are: real files, threads and processes."""

# ruff: noqa: ASYNC240 - nothing else goes on that could be held up

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn, Self
from uuid import UUID, uuid4

import attrs
import pytest
import trio
import trio.testing
from conftest import clean_environment
from ledger_entries import entry, full_entry, names
from process_support import descriptors

from trioworker.ledger.entry import Stage
from trioworker.ledger.file import LedgerFile
from trioworker.ledger.ledger import Ledger, LedgerError
from trioworker.ledger.location import _Files, directory_name, open_ledger
from trioworker.notices import Notice

HERE = Path(__file__).parent
POOL_ID = uuid4()
IS_ROOT = os.geteuid() == 0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "ledgers" / "worker"


@pytest.fixture
def notices() -> list[Notice]:
    return []


@asynccontextmanager
async def opened(directory: Path, notices: list[Notice]) -> AsyncIterator[Ledger]:
    with trio.fail_after(60):
        async with open_ledger(directory, notices.append) as ledger:
            yield ledger


def left_behind(directory: Path, number: int, *entries: Any) -> None:
    """A file as a killed worker leaves it."""
    directory.mkdir(parents=True, exist_ok=True)
    file = LedgerFile.take(directory / str(number))
    assert file is not None
    if entries:
        file.write(entries, [])
    file.let_go(remove=False)


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# Names


def made_up(number: int = 0) -> str:
    return f"ProcessWorker {UUID(int=number)}"


def test_workers_of_a_name_have_a_directory_of_their_own() -> None:
    workers = ["alone", "Alone", "alone ", "a/lone", "a:lone", "a lone", ".alone", made_up()]
    assert len({directory_name(worker, "pool", POOL_ID) for worker in workers}) == len(workers)


def test_worker_without_a_name_goes_by_its_pool_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    here = directory_name(made_up(1), "pool", POOL_ID)
    assert here == directory_name(made_up(2), "pool", POOL_ID)
    assert here == directory_name(f"TrioWorker {uuid4()}", "pool", POOL_ID)
    assert here != directory_name(made_up(1), "other", POOL_ID)
    monkeypatch.setattr("trioworker.ledger.location.gethostname", lambda: "elsewhere")
    assert here != directory_name(made_up(1), "pool", POOL_ID)
    named = directory_name("named", "pool", POOL_ID)
    monkeypatch.undo()
    assert named == directory_name("named", "pool", POOL_ID)


@pytest.mark.parametrize("worker", ["named", made_up()])
def test_workers_of_other_pools_and_servers_share_nothing(worker: str) -> None:
    """Two servers may have pools of one name, but not of one id."""
    ids = [POOL_ID, uuid4(), None]
    assert len({directory_name(worker, "pool", pool_id) for pool_id in ids}) == len(ids)


def test_name_that_only_looks_made_up_is_one() -> None:
    own = [f"Worker-{uuid4()}", f"{made_up()} 2", f"my {made_up()}", made_up().upper()]
    assert len({directory_name(worker, "pool", POOL_ID) for worker in own}) == len(own)


ODD = [
    "",
    ".",
    "..",
    "../../etc",
    "/",
    "a/b\\c",
    "nul\0l",
    "line\nfeed",
    "röte",
    "\N{FOX FACE}",
    "con",
    "-rf",
    "~",
    "$HOME",
    "%s",
    "x" * 5000,
    "\N{FOX FACE}" * 500,
    "\udcff",
    "\ud800",
]


@pytest.mark.parametrize("worker", ODD)
async def test_any_name_makes_a_directory_in_its_place(
    tmp_path: Path, notices: list[Notice], worker: str
) -> None:
    name = directory_name(worker, "pool", POOL_ID)
    place = tmp_path / name
    assert place.parent.resolve() == tmp_path
    assert place.resolve().parent == tmp_path
    assert name.isascii()
    assert len(name) < 80
    async with opened(place, notices) as ledger:
        await ledger.keep(entry())
        assert files(place) == ["1.lock", "1.sqlite", "1.sqlite-wal"]
    assert notices == []


def test_names_that_differ_in_what_is_cut_off_are_different() -> None:
    assert directory_name("x" * 1000 + "a", "pool", POOL_ID) != directory_name(
        "x" * 1000 + "b", "pool", POOL_ID
    )


# Beginning and end


async def test_entries_stay_for_the_next_worker(directory: Path, notices: list[Notice]) -> None:
    one, two = full_entry(), entry("two")
    async with opened(directory, notices) as ledger:
        assert ledger.lasts
        await ledger.keep(one, two)
    async with opened(directory, notices) as ledger:
        assert ledger.entries == (one, two)
        assert ledger.is_inherited(one.attempt)
        await ledger.drop(one.attempt)
    async with opened(directory, notices) as ledger:
        assert ledger.entries == (two,)
        await ledger.drop(two.attempt)
    assert not directory.exists()
    assert notices == []


@pytest.mark.parametrize("how", ["idle", "busy", "cancelled", "failed"])
async def test_nothing_is_left_of_a_worker_with_nothing_in_hand(
    directory: Path, notices: list[Notice], how: str
) -> None:
    before = descriptors(os.getpid())
    failure = ValueError()
    try:
        with trio.CancelScope() as scope:
            async with opened(directory, notices) as ledger:
                assert files(directory) == ["1.lock"]
                if how != "idle":
                    one = entry()
                    await ledger.keep(one)
                    await ledger.drop(one.attempt)
                if how == "cancelled":
                    scope.cancel()
                if how == "failed":
                    raise failure
    except ValueError as error:
        assert error is failure  # noqa: PT017 - from inside of the block
    assert not directory.exists()
    assert descriptors(os.getpid()) == before
    assert notices == []


async def test_worker_that_is_cancelled_at_its_start_leaves_nothing(
    directory: Path, notices: list[Notice]
) -> None:
    before = descriptors(os.getpid())
    for checkpoints in itertools.count():
        entered = False
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def cancel(after: int = checkpoints, scope: trio.CancelScope = scope) -> None:
                    for _ in range(after):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(cancel)
                async with opened(directory, notices):
                    entered = not scope.cancel_called
                    await trio.sleep_forever()
        assert not directory.exists()
        assert descriptors(os.getpid()) == before
        if entered:
            break
    assert notices == []


async def test_what_could_not_be_written_is_tried_once_more_at_the_end(
    directory: Path, notices: list[Notice], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise LedgerError("the disk is full")

    one = entry()
    async with opened(directory, notices) as ledger:
        with monkeypatch.context() as patch:
            patch.setattr(LedgerFile, "write", full)
            await ledger.keep(one)
    assert len(notices) == 2
    async with opened(directory, notices) as ledger:
        assert ledger.entries == (one,)


async def test_idle_worker_imports_no_sqlite(directory: Path) -> None:
    program = """
import sys, trio
from pathlib import Path
from trioworker.ledger.location import open_ledger
from ledger_entries import entry
async def main():
    async with open_ledger(Path(sys.argv[1]), print) as ledger:
        await ledger.adopt_orphaned()
        print("sqlite3" in sys.modules)
        await ledger.keep(entry())
        print("sqlite3" in sys.modules)
trio.run(main)
"""
    assert await said_by(program, directory) == ["False", "True"]


async def said_by(program: str, *arguments: object, prefix: tuple[str, ...] = ()) -> list[str]:
    """The lines of a program that ends well."""
    with trio.fail_after(60):
        done = await trio.run_process(
            [*prefix, sys.executable, "-c", program, *map(str, arguments)],
            capture_stdout=True,
            cwd=HERE,
            env=clean_environment(),
        )
    return done.stdout.decode().splitlines()


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o277])
@pytest.mark.parametrize("existing", [None, 0o755, 0o777, 0o500])
async def test_nobody_else_may_look_into_the_directory(
    directory: Path, notices: list[Notice], mask: int, existing: int | None
) -> None:
    directory.parent.mkdir()
    if existing is not None:
        directory.mkdir()
        directory.chmod(existing)
    before = os.umask(mask)
    try:
        async with opened(directory, notices) as ledger:
            assert directory.stat().st_mode & 0o777 == 0o700
            await ledger.keep(entry())
    finally:
        os.umask(before)
    assert notices == []


@pytest.mark.parametrize("mask", [0o000, 0o022])
async def test_nobody_else_may_put_another_one_in_its_place(
    tmp_path: Path, notices: list[Notice], mask: int
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    before = os.umask(mask)
    try:
        async with opened(home / "trioworker" / "ledgers" / "worker", notices):
            for made in (home / "trioworker", home / "trioworker" / "ledgers"):
                assert made.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)
    assert home.stat().st_mode & 0o777 == 0o755


# Places where there can be none

NO_LEDGER = "Flow runs go on without it; but should this worker be killed"


async def test_file_in_place_of_the_directory_is_said_once(directory: Path, notices: list[Notice]) -> None:
    directory.parent.mkdir()
    directory.write_text("mine")
    async with opened(directory, notices) as ledger:
        assert not ledger.lasts
        await ledger.keep(entry())
        await ledger.adopt_orphaned()
    (notice,) = notices
    assert notice.warning
    assert notice.message.startswith(f"No ledger can be kept in {directory}: File exists. {NO_LEDGER}")
    assert directory.read_text() == "mine"


@pytest.mark.skipif(not IS_ROOT, reason="only root can give a directory away")
async def test_directory_of_another_user_is_not_used(directory: Path, notices: list[Notice]) -> None:
    """It may have read it, and may remove it at any moment."""
    directory.mkdir(parents=True)
    os.chown(directory, 65534, 65534)
    mode = directory.stat().st_mode
    async with opened(directory, notices) as ledger:
        assert not ledger.lasts
        await ledger.keep(entry())
        assert files(directory) == []
    (notice,) = notices
    assert "it belongs to another user" in notice.message
    assert directory.stat().st_mode == mode


OTHER_USER = """
import os, sys, trio
from pathlib import Path
from trioworker.ledger.location import open_ledger
from ledger_entries import entry
if os.geteuid() == 0:
    os.setuid(65534)
async def main():
    async with open_ledger(Path(sys.argv[1]), lambda notice: print(notice.message)) as ledger:
        print(ledger.lasts)
        await ledger.keep(entry())
trio.run(main)
"""


async def test_directory_that_cannot_be_made_is_said_once() -> None:
    """Below one that may not be written to; root may write everywhere."""
    message, lasts = await said_by(OTHER_USER, "/proc/sys/ledgers/worker")
    assert message.startswith("No ledger can be kept in /proc/sys/ledgers/worker: ")
    assert lasts == "False"


async def test_worker_without_a_thread_goes_on_without_a_ledger(
    directory: Path, notices: list[Notice], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_thread(*_: object, **__: object) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", no_thread)
        async with opened(directory, notices) as ledger:
            assert not ledger.lasts
            await ledger.keep(entry())
    (notice,) = notices
    assert "no thread can be started just now" in notice.message


async def test_ledger_is_let_go_if_there_is_no_thread_for_it(
    directory: Path, notices: list[Notice], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_thread(*_: object, **__: object) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")

    before = descriptors(os.getpid())
    async with opened(directory, notices) as ledger:
        one = entry()
        await ledger.keep(one)
        await ledger.drop(one.attempt)
        monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
    assert descriptors(os.getpid()) == before
    assert not directory.exists()


async def test_directory_that_another_worker_removes_is_made_anew(
    directory: Path, notices: list[Notice], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two workers the one ends, with nothing in hand, while the other begins."""
    take, times = LedgerFile.take, []

    def removed_before(base: Path) -> LedgerFile | None:
        times.append(base)
        if len(times) <= 3:
            base.parent.rmdir()
        return take(base)

    monkeypatch.setattr(LedgerFile, "take", removed_before)
    async with opened(directory, notices) as ledger:
        assert ledger.lasts
        await ledger.keep(entry())
    assert notices == []


# Several workers


async def test_workers_at_the_same_time_take_siblings(directory: Path, notices: list[Notice]) -> None:
    async with AsyncExitStack() as stack:
        ledgers = [await stack.enter_async_context(opened(directory, notices)) for _ in range(3)]
        for number, ledger in enumerate(ledgers):
            await ledger.keep(entry(str(number)))
        for ledger in ledgers:
            await ledger.adopt_orphaned()
        assert [names(ledger.entries) for ledger in ledgers] == [["0"], ["1"], ["2"]]
        for ledger in ledgers:
            await ledger.drop(ledger.entries[0].attempt)
        assert files(directory)[::3] == ["1.lock", "2.lock", "3.lock"]
    assert not directory.exists()
    assert notices == []


async def test_next_worker_takes_what_several_have_left(directory: Path, notices: list[Notice]) -> None:
    for number in (1, 2, 7):
        left_behind(directory, number, entry(f"{number}a"), entry(f"{number}b"))
    left_behind(directory, 3)
    async with opened(directory, notices) as ledger:
        assert names(ledger.entries) == ["1a", "1b", "2a", "2b", "7a", "7b"]
        assert all(ledger.is_inherited(one.attempt) for one in ledger.entries)
        assert files(directory) == ["1.lock", "1.sqlite", "1.sqlite-wal"]
    async with opened(directory, notices) as ledger:
        assert len(ledger.entries) == 6
        await ledger.drop(*[one.attempt for one in ledger.entries])
    assert not directory.exists()
    assert notices == []


async def test_running_worker_takes_what_its_sibling_has_left(directory: Path, notices: list[Notice]) -> None:
    async with opened(directory, notices) as first:
        await first.keep(entry("first"))
        async with opened(directory, notices) as second:
            await second.keep(entry("second"))
            await first.adopt_orphaned()
            assert names(first.entries) == ["first"]
        await first.adopt_orphaned()
        assert names(first.entries) == ["first", "second"]
        async with opened(directory, notices) as third:
            assert not third.entries
    async with opened(directory, notices) as last:
        assert names(last.entries) == ["first", "second"]
    assert notices == []


async def test_worker_that_fails_while_it_takes_over_leaves_nothing_twice(
    directory: Path, notices: list[Notice]
) -> None:
    """Both files have the entries then, and the newer of both counts."""
    old = entry()
    new = attrs.evolve(old, stage=Stage.LAUNCHED)
    left_behind(directory, 1, new)
    left_behind(directory, 2, old)
    async with opened(directory, notices) as ledger:
        assert ledger.entries == (new,)
    assert notices == []


async def test_many_at_once_share_what_is_left_among_them(directory: Path, notices: list[Notice]) -> None:
    for number in range(1, 9):
        left_behind(directory, number, entry(str(number)))
    everything: list[str] = []
    done = trio.Event()

    async def live(*, task_status: trio.TaskStatus[None]) -> None:
        async with opened(directory, notices) as ledger:
            await ledger.adopt_orphaned()
            task_status.started()
            await done.wait()
            everything.extend(names(ledger.entries))

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as starting:
            for _ in range(5):
                starting.start_soon(nursery.start, live)
        done.set()
    assert sorted(everything) == [str(number) for number in range(1, 9)]
    assert notices == []


LIVE = """
import sys, trio
from pathlib import Path
from trioworker.ledger.location import open_ledger
from ledger_entries import entry, names

async def main():
    print("ready", flush=True)
    await trio.to_thread.run_sync(sys.stdin.readline)
    async with open_ledger(Path(sys.argv[1]), lambda notice: print(notice.message, flush=True)) as ledger:
        for word in sys.argv[2:]:
            await ledger.keep(entry(word))
        await ledger.adopt_orphaned()
        print(",".join(names(ledger.entries)), flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)

trio.run(main)
"""


class Live:
    """A process that has a ledger from when it is told to until it is killed."""

    def __init__(self, directory: Path, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", LIVE, str(directory), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE,
            env=clean_environment(),
        )
        assert self.line() == "ready"

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def kill(self) -> None:
        self._process.kill()
        with self._process:
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@pytest.mark.process
async def test_of_two_that_adopt_at_the_same_moment_one_gets_each_entry(
    directory: Path, notices: list[Notice]
) -> None:
    for attempt in range(5):
        for number in range(1, 7):
            left_behind(directory, number, entry(f"{attempt}-{number}"))
        with Live(directory) as one, Live(directory) as two:
            for live in (one, two):
                live.go()
            found = [name for live in (one, two) for name in live.line().split(",") if name]
            assert sorted(found) == [f"{attempt}-{number}" for number in range(1, 7)]
        shutil.rmtree(directory)


@pytest.mark.process
async def test_entries_of_a_killed_worker_go_to_the_next_and_to_a_running_one(
    directory: Path, notices: list[Notice]
) -> None:
    with Live(directory, "killed-1", "killed-2") as doomed:
        doomed.go()
        assert doomed.line() == "killed-1,killed-2"
        async with opened(directory, notices) as running:
            assert not running.entries
            doomed.kill()
            await running.adopt_orphaned()
            assert names(running.entries) == ["killed-1", "killed-2"]
    async with opened(directory, notices) as later:
        assert names(later.entries) == ["killed-1", "killed-2"]
    assert notices == []


# Damage and trouble


def spoil(directory: Path, number: int) -> None:
    left_behind(directory, number, entry())
    directory.joinpath(f"{number}.sqlite").write_text("This is not what it was any more.")


async def test_damaged_file_is_put_aside_and_said_once(directory: Path, notices: list[Notice]) -> None:
    spoil(directory, 1)
    async with opened(directory, notices) as ledger:
        assert ledger.lasts
        await ledger.keep(entry("new"))
        await ledger.adopt_orphaned()
    async with opened(directory, notices) as ledger:
        assert names(ledger.entries) == ["new"]
    (notice,) = notices
    assert notice.warning
    (aside,) = [path for path in directory.iterdir() if "damaged" in path.name and path.suffix == ".sqlite"]
    assert notice.message.startswith(f"A ledger in {directory} cannot be read (file is not a database)")
    assert aside.name in notice.message
    assert aside.read_text() == "This is not what it was any more."


async def test_damaged_file_of_another_is_put_aside_and_in_nobodys_way(
    directory: Path, notices: list[Notice]
) -> None:
    for number in (2, 4):
        spoil(directory, number)
    for number in (1, 3, 5):
        left_behind(directory, number, entry(str(number)))
    async with opened(directory, notices) as ledger:
        assert names(ledger.entries) == ["1", "3", "5"]
    assert len(notices) == 2


@pytest.mark.parametrize("trouble", ["no lock", "not to be put aside"])
async def test_file_of_another_that_cannot_be_had_is_said_once_and_in_nobodys_way(
    directory: Path, notices: list[Notice], monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """Nor does it end the worker."""
    before = descriptors(os.getpid())
    for number in (1, 3):
        left_behind(directory, number, entry(str(number)))
    if trouble == "no lock":
        directory.joinpath("2.lock").mkdir()
    else:
        spoil(directory, 2)

        def refuse(_: object) -> NoReturn:
            raise LedgerError("Read-only file system")

        monkeypatch.setattr(LedgerFile, "put_aside", refuse)
    async with opened(directory, notices) as ledger:
        assert ledger.lasts
        await ledger.adopt_orphaned()
        assert names(ledger.entries) == ["1", "3"]
        assert files(directory)[:3] == ["1.lock", "1.sqlite", "1.sqlite-wal"]
        assert "2.lock" in files(directory)
        assert "3.lock" not in files(directory)
        (notice,) = notices
        assert "2.lock" in notice.message
        # It is there all the same, and had when that is possible again.
        if trouble == "no lock":
            directory.joinpath("2.lock").rmdir()
            left_behind(directory, 2, entry("2"))
        monkeypatch.undo()
        await ledger.adopt_orphaned()
        assert names(ledger.entries) == (["1", "3", "2"] if trouble == "no lock" else ["1", "3"])
    assert descriptors(os.getpid()) == before


FULL_DISK = """
import json, os, sys, trio
from pathlib import Path
from trioworker.ledger.location import open_ledger
from ledger_entries import entry, names

directory, filler, said = Path("disk", "ledger"), Path("disk", "filler"), []

def fill():
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return

def note(what):
    print(json.dumps([what, [notice.message for notice in said]]))
    said.clear()

async def main():
    if sys.argv[1] == "from the start":
        fill()
    async with open_ledger(directory, said.append) as ledger:
        await ledger.keep(entry("before"))
        note(ledger.lasts)
        if sys.argv[1] == "later":
            fill()
        for number in range(200):
            await ledger.keep(entry("full"))
        await ledger.drop(*[one.attempt for one in ledger.entries[1:-1]])
        note(ledger.lasts)
        filler.unlink()
        await ledger.adopt_orphaned()
        note(ledger.lasts)
        await ledger.keep(entry("after"))
    note(sorted(os.listdir(directory)))
    async with open_ledger(directory, said.append) as ledger:
        note(names(ledger.entries))

trio.run(main)
"""

MOUNTED = (
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "sh",
    "-ec",
    'mkdir "$0"/disk; mount -t tmpfs -o size=256k none "$0"/disk; export PYTHONPATH="$PWD"; cd "$0"; exec "$@"',
)


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.process
@pytest.mark.skipif(not can_mount(), reason="file systems can only be mounted in a user namespace")
@pytest.mark.parametrize("when", ["from the start", "later"])
async def test_full_disk_is_said_once_and_everything_written_when_it_has_room(
    tmp_path: Path, when: str
) -> None:
    lines = await said_by(FULL_DISK, when, prefix=(*MOUNTED, str(tmp_path)))
    before, full, room, left, found = (json.loads(line) for line in lines)
    assert before[0] == (when == "later")
    assert full[0] is False
    told: list[str] = before[1] + full[1]
    (warning,) = told
    assert warning.startswith("The ledger cannot be kept in disk/ledger: ")
    assert "full" in warning
    assert room == [True, ["The ledger is kept again, in disk/ledger."]]
    assert left == [["1.lock", "1.sqlite"], []]
    assert found == [["before", "full", "after"], []]


READ_ONLY = """
import json, subprocess, trio
from pathlib import Path
from trioworker.ledger.location import open_ledger
from ledger_entries import entry, names

directory, said = Path("disk", "ledger"), []

async def main():
    async with open_ledger(directory, said.append) as ledger:
        await ledger.keep(entry("before"))
    subprocess.run(["mount", "-o", "remount,ro", "disk"], check=True)
    async with open_ledger(directory, said.append) as ledger:
        await ledger.keep(entry("read-only"))
        print(json.dumps([ledger.lasts, [notice.message for notice in said]]))
    subprocess.run(["mount", "-o", "remount,rw", "disk"], check=True)
    async with open_ledger(directory, said.append) as ledger:
        print(json.dumps(names(ledger.entries)))

trio.run(main)
"""


@pytest.mark.process
@pytest.mark.skipif(not can_mount(), reason="file systems can only be mounted in a user namespace")
async def test_read_only_disk_is_said_once_and_what_is_on_it_stays(tmp_path: Path) -> None:
    lines = await said_by(READ_ONLY, prefix=(*MOUNTED, str(tmp_path)))
    (lasts, warnings), found = (json.loads(line) for line in lines)
    assert lasts is False
    (warning,) = warnings
    assert warning.startswith(f"No ledger can be kept in disk/ledger: Read-only file system. {NO_LEDGER}")
    assert found == ["before"]


# Threads


async def test_many_changes_at_once_are_few_writes(
    directory: Path, notices: list[Notice], monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    write = LedgerFile.write

    def count(self: LedgerFile, kept: Any, dropped: Any) -> None:
        writes.append(len(kept))
        write(self, kept, dropped)

    monkeypatch.setattr(LedgerFile, "write", count)
    async with opened(directory, notices) as ledger:
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(ledger.keep, entry(str(number)))
        assert len(writes) <= 2
        assert sum(writes) == 200
    async with opened(directory, notices) as ledger:
        assert len(ledger.entries) == 200


async def test_cancelled_change_is_written_if_it_had_begun_and_its_file_is_not_harmed(
    directory: Path, notices: list[Notice]
) -> None:
    """A thread cannot be interrupted; the scope that is cancelled is left when it is done."""
    async with opened(directory, notices) as ledger:
        for checkpoints in range(6):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    for part in range(3):
                        nursery.start_soon(ledger.keep, entry(f"{checkpoints}-{part}"))
                    for _ in range(checkpoints):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
        kept = set(names(ledger.entries))
    async with opened(directory, notices) as ledger:
        assert set(names(ledger.entries)) == kept
    assert len(kept) >= 15
    assert notices == []


async def test_file_is_used_by_one_thread_at_a_time(
    directory: Path, notices: list[Notice], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = 0
    most = 0
    in_thread = _Files._in_thread

    async def watched(self: _Files, function: Any) -> Any:
        def counted() -> Any:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            try:
                return function()
            finally:
                inside -= 1

        return await in_thread(self, counted)

    monkeypatch.setattr(_Files, "_in_thread", watched)
    left_behind(directory, 5, entry())
    async with opened(directory, notices) as ledger, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ledger.keep, entry())
            nursery.start_soon(ledger.adopt_orphaned)
    assert most == 1
