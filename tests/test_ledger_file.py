"""Ledger files on a real disk, with SQLite, and with real processes that own them, and are killed."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import attrs
import pytest
from ledger_entries import entry, full_entry, names
from process_support import descriptors

from trioworker.infrastructure.protocol import Trace
from trioworker.ledger.entry import Entry, Stage
from trioworker.ledger.file import LedgerFile, _decoded, _encoded
from trioworker.ledger.ledger import LedgerError


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "1"


@contextmanager
def taken(base: Path) -> Iterator[LedgerFile]:
    """A file that is owned for the length of a block."""
    file = LedgerFile.take(base)
    assert file is not None
    try:
        yield file
    finally:
        file.let_go(remove=False)


def read(base: Path) -> list[Entry]:
    with taken(base) as file:
        return list(file.read())


@contextmanager
def python_process(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed at the end of the block, if it still lives."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# What is in it


@pytest.mark.parametrize("make", [entry, full_entry])
def test_entry_is_read_as_it_was_written(base: Path, make: Callable[[], Entry]) -> None:
    written = make()
    with taken(base) as file:
        file.write([written], [])
    assert read(base) == [written]


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("trace", [None, Trace(None), Trace("4711", "details")])
def test_every_stage_and_trace_can_be_written(stage: Stage, trace: Trace | None) -> None:
    written = entry(stage=stage, trace=trace)
    assert _decoded(_encoded(written)) == written


def test_name_that_is_no_text_is_kept_as_it_is(base: Path) -> None:
    """As one that was given on a command line in another encoding."""
    written = entry("fox\udcff\0", worker_name="\ud800")
    with taken(base) as file:
        file.write([written], [])
    assert read(base) == [written]


def test_entries_are_read_in_the_order_in_which_they_came(base: Path) -> None:
    first, second, third = entry("first"), entry("second"), entry("third")
    with taken(base) as file:
        file.write([first, second], [])
        file.write([third], [])
        file.write([attrs.evolve(first, stage=Stage.LAUNCHED)], [second.attempt])
    assert names(read(base)) == ["first", "third"]


def test_write_is_done_as_a_whole_or_not_at_all(base: Path) -> None:
    old, new = entry("old"), entry("new")
    with taken(base) as file:
        file.write([old], [])
        assert file._connection is not None
        file._connection.execute(
            "CREATE TRIGGER strike BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'struck'); END"
        )
        with pytest.raises(LedgerError, match="struck"):
            file.write([new], [old.attempt])
        assert names(file.read()) == ["old"]
        file.write([new], [])
    assert names(read(base)) == ["old", "new"]


def test_file_that_nobody_has_written_to_is_not_there(base: Path) -> None:
    with taken(base) as file:
        assert list(file.read()) == []
        assert sorted(path.name for path in base.parent.iterdir()) == ["1.lock"]


def test_nothing_is_left_of_a_file_of_which_nothing_is_needed(base: Path) -> None:
    before = descriptors(os.getpid())
    file = LedgerFile.take(base)
    assert file is not None
    file.write([entry()], [])
    file.let_go(remove=True)
    assert list(base.parent.iterdir()) == []
    assert descriptors(os.getpid()) == before


def test_nobody_else_may_read_any_of_it(base: Path) -> None:
    mask = os.umask(0)
    try:
        with taken(base) as file:
            file.write([entry()], [])
            modes = {path.name: path.stat().st_mode & 0o777 for path in base.parent.iterdir()}
    finally:
        os.umask(mask)
    assert modes == {"1.lock": 0o600, "1.sqlite": 0o600, "1.sqlite-wal": 0o600}


def test_no_descriptors_are_lost(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors(os.getpid())
    for _ in range(5):
        with taken(base) as file:
            file.write([entry()], [])
            assert LedgerFile.take(base) is None
    base.with_suffix(".sqlite").write_bytes(b"garbage" * 1000)
    with taken(base) as file, pytest.raises(LedgerError):
        file.read()
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        patch.setattr(fcntl, "flock", fail)
        with pytest.raises(OSError, match="No locks available"):
            LedgerFile.take(base)
    assert descriptors(os.getpid()) == before


def test_file_stays_small_however_often_it_is_written(base: Path) -> None:
    with taken(base) as file:
        for _ in range(600):
            one = entry()
            file.write([one], [])
            file.write([], [one.attempt])
        sizes = [path.stat().st_size for path in base.parent.iterdir()]
    # SQLite tidies up its log when that has a thousand pages.
    assert sum(sizes) < 8 * 2**20


# Whose it is


def test_it_has_one_owner_at_a_time(base: Path) -> None:
    with taken(base):
        assert LedgerFile.take(base) is None
    with taken(base):
        pass


HOLD = """
import sys
from pathlib import Path
from trioworker.ledger.file import LedgerFile
from ledger_entries import entry
file = LedgerFile.take(Path(sys.argv[1]))
print("nothing" if file is None else "taken", flush=True)
sys.stdin.read()
"""


@pytest.mark.process
def test_file_of_another_process_is_its_own_until_that_is_killed(base: Path) -> None:
    with python_process(HOLD, base) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "taken\n"
        assert LedgerFile.take(base) is None
        owner.kill()
        owner.wait(30)
        with taken(base):
            pass


@pytest.mark.process
def test_child_of_the_owner_does_not_keep_the_file_after_it(base: Path) -> None:
    """What a worker starts goes on when the worker has been killed."""
    child = "import time; time.sleep(600)"
    program = HOLD.replace(
        "sys.stdin.read()",
        f"import subprocess; child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "print(child.pid, flush=True)\nsys.stdin.read()",
    )
    with python_process(program, base) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "taken\n"
        pid = int(owner.stdout.readline())
        owner.kill()
        owner.wait(30)
        try:
            with taken(base):
                pass
        finally:
            os.kill(pid, signal.SIGKILL)


RACE = """
import sys
from pathlib import Path
from trioworker.ledger.file import LedgerFile
base = Path(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    file = LedgerFile.take(base)
    print("nothing" if file is None else "taken", flush=True)
    sys.stdin.readline()
    if file is not None:
        file.let_go(remove=True)
    print("done", flush=True)
"""


@pytest.mark.process
def test_of_those_who_take_it_at_the_same_moment_exactly_one_gets_it(base: Path) -> None:
    """Also when its last owner removes it at that moment."""
    with (
        python_process(RACE, base) as one,
        python_process(RACE, base) as two,
        python_process(RACE, base) as three,
    ):
        rivals = [one, two, three]

        def tell_all() -> None:
            for rival in rivals:
                assert rival.stdin is not None
                rival.stdin.write("\n")
                rival.stdin.flush()

        def hear_all() -> list[str]:
            return [rival.stdout.readline().strip() for rival in rivals if rival.stdout is not None]

        assert hear_all() == ["ready"] * 3
        for _ in range(200):
            owner = LedgerFile.take(base)
            assert owner is not None
            tell_all()
            owner.let_go(remove=True)
            # It may have been too early for all of them.
            assert hear_all().count("taken") <= 1
            tell_all()
            assert hear_all() == ["done"] * 3
        for _ in range(200):
            tell_all()
            assert sorted(hear_all()) == ["nothing", "nothing", "taken"]
            tell_all()
            assert hear_all() == ["done"] * 3
    assert list(base.parent.iterdir()) == []


# Crashes

WRITE = """
import sys
from pathlib import Path
from uuid import UUID
from trioworker.ledger.file import LedgerFile
from ledger_entries import entry
file = LedgerFile.take(Path(sys.argv[1]))
print("ready", flush=True)
before = []
for number in range(10**6):
    now = [entry(f"{number}-{part}") for part in range(3)]
    file.write(now, [one.attempt for one in before])
    before = now
    print(number, flush=True)
"""


@pytest.mark.process
def test_what_a_killed_process_has_been_told_is_kept_is_there(base: Path) -> None:
    """It is killed anywhere in a write. What it acknowledged is there, and of the rest all or nothing."""
    for milliseconds in range(0, 60, 4):
        with python_process(WRITE, base) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            # To hit another moment each time, not to wait for something.
            time.sleep(milliseconds / 1000)
            writer.kill()
            # The last line may be a part of one.
            *lines, _ = writer.stdout.read().split("\n")
        file = LedgerFile.take(base)
        assert file is not None
        found = names(file.read())
        file.let_go(remove=True)
        assert list(base.parent.iterdir()) == []
        acknowledged = int(lines[-1]) if lines else -1
        # The one that was under way may have come just far enough.
        possible = [[f"{number}-{part}" for part in range(3)] for number in (acknowledged, acknowledged + 1)]
        assert found in (possible if lines else [[], possible[1]])


# Damage


def nothing(_: Path) -> None:
    """Leave it as it is."""


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(10_000))


def text(path: Path) -> None:
    path.write_text("These are not the entries that you are looking for.")


def damaged_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"SQLite format 4\0")


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def damaged_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    path.joinpath("something").touch()


def executed(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def other_database(path: Path) -> None:
    executed(path, "DROP TABLE entries", "CREATE TABLE others (name TEXT)")


def other_columns(path: Path) -> None:
    executed(path, "DROP TABLE entries", "CREATE TABLE entries (attempt TEXT)", "PRAGMA user_version = 0")


def from_the_future(path: Path) -> None:
    executed(path, "PRAGMA user_version = 2")


def from_long_ago(path: Path) -> None:
    executed(path, "PRAGMA user_version = -1")


DOCUMENTS = {
    "no JSON": "{",
    "another JSON": "[]",
    "nothing": "null",
    "an empty object": "{}",
    "deep": "[" * 100_000,
    "a number of many digits": "1" * 10_000,
    "no id": _encoded(entry()).replace('"attempt": "', '"attempt": "x'),
    "no stage": _encoded(entry()).replace("claimed", "enchanted"),
    "no fate": _encoded(full_entry()).replace("SCHEDULED", "DOOMED"),
    "no moment": _encoded(full_entry()).replace("2026-", "soon-"),
    "ids in place of an id": _encoded(entry(deployment_id=None)).replace(
        '"deployment_id": null', '"deployment_id": []'
    ),
    "no list of ids": _encoded(entry()).replace('"transition_ids": []', '"transition_ids": 5'),
    "a name that is no text": _encoded(entry()).replace('"red-fox"', "5"),
    "a worker that is no text": _encoded(entry()).replace('"worker"', "null"),
    "a trace that is none": _encoded(full_entry()).replace('"4711", ', ""),
    "a trace of other things": _encoded(full_entry()).replace('"4711"', "4711"),
}


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_document_that_is_no_entry_is_refused(document: str) -> None:
    with pytest.raises(LedgerError, match="an entry cannot be read"):
        _decoded(document)


def unreadable_row(path: Path) -> None:
    executed(path, "UPDATE entries SET document = '{'")


def row_that_is_no_text(path: Path) -> None:
    executed(path, "UPDATE entries SET document = CAST(x'ff' AS TEXT)")


def row_without_document(path: Path) -> None:
    executed(
        path,
        "DROP TABLE entries",
        "CREATE TABLE entries (attempt, document)",
        "INSERT INTO entries VALUES (1, 5)",
    )


DAMAGES = [
    garbage,
    text,
    damaged_header,
    truncated,
    damaged_page,
    directory,
    other_database,
    other_columns,
    from_the_future,
    from_long_ago,
    unreadable_row,
    row_that_is_no_text,
    row_without_document,
]


def spoil(base: Path, damage: Callable[[Path], None]) -> None:
    """Leave a file with entries, of which something is not as it should be."""
    with taken(base) as file:
        file.write([full_entry() for _ in range(20)], [])
    damage(base.with_suffix(".sqlite"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_put_aside_and_a_new_one_begun(base: Path, damage: Callable[[Path], None]) -> None:
    spoil(base, damage)
    with taken(base) as file:
        with pytest.raises(LedgerError):
            file.read()
        aside = file.put_aside()
        assert aside.exists()
        assert list(file.read()) == []
        file.write([entry("new")], [])
    assert names(read(base)) == ["new"]


def test_file_of_the_future_is_kept_for_the_worker_that_knows_it(base: Path) -> None:
    spoil(base, from_the_future)
    with taken(base) as file:
        with pytest.raises(LedgerError, match="format 2, and this trioworker knows only format 1"):
            file.read()
        aside = file.put_aside()
    executed(aside, "PRAGMA user_version = 1")
    aside.rename(base.with_suffix(".sqlite"))
    assert len(read(base)) == 20


def test_what_the_log_of_a_damaged_file_holds_is_put_aside_with_it(base: Path) -> None:
    """Else it would be taken for that of the new one."""
    with taken(base) as file:
        file.write([entry()], [])
        base.with_suffix(".sqlite-journal").write_text("a journal")
        before = {path.suffix for path in base.parent.iterdir()} - {".lock"}
        aside = file.put_aside()
        assert {path.suffix for path in base.parent.iterdir() if path.stem == aside.stem} >= before - {
            ".sqlite-wal"
        }
        assert [path.name for path in base.parent.iterdir() if path.stem == "1"] == ["1.lock"]


@pytest.mark.parametrize("size", [0, 1])
def test_file_of_a_writer_that_had_not_yet_begun_is_no_damage(base: Path, size: int) -> None:
    """The file is made before SQLite has anything to write into it."""
    base.with_suffix(".sqlite").touch()
    if size:
        with closing(sqlite3.connect(base.with_suffix(".sqlite"))) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
    assert read(base) == []
    with taken(base) as file:
        file.write([entry("new")], [])
    assert names(read(base)) == ["new"]


def test_torn_log_loses_what_was_not_acknowledged_alone(base: Path) -> None:
    """As when the machine fails in the middle of a write."""
    wal = base.with_suffix(".sqlite-wal")
    with taken(base) as file:
        file.write([entry("first")], [])
        file.write([entry("second")], [])
        complete = wal.read_bytes()
        snapshot = base.with_suffix(".sqlite").read_bytes()
    for lost in (1, 1000, 4000):
        base.with_suffix(".sqlite").write_bytes(snapshot)
        wal.write_bytes(complete[:-lost])
        assert names(read(base)) == ["first"]


# Trouble with the disk


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process become larger than some bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 5000, 40_000])
def test_write_that_fails_changes_nothing_and_works_when_there_is_room(base: Path, size: int) -> None:
    before = descriptors(os.getpid())
    file = LedgerFile.take(base)
    assert file is not None
    kept: list[str] = []

    def fill() -> None:
        for number in range(100):
            file.write([entry(str(number))], [])
            kept.append(str(number))

    with largest_file(size), pytest.raises(LedgerError):
        fill()
    assert names(file.read()) == kept
    file.write([entry("more")], [])
    assert names(file.read()) == [*kept, "more"]
    file.let_go(remove=False)
    assert names(read(base)) == [*kept, "more"]
    assert descriptors(os.getpid()) == before


def test_error_that_is_told_is_the_first_one(base: Path) -> None:
    """After some, SQLite takes back the transaction itself, and refuses to do so again."""
    with taken(base) as file:
        file.write([entry("one")], [])
        assert file._connection is not None
        file._connection.execute("PRAGMA max_page_count = 5")
        with pytest.raises(LedgerError, match=r"^database or disk is full$"):
            file.write([entry("x" * 100_000)], [])
        assert names(file.read()) == ["one"]


def test_python_without_sqlite_is_told(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    with taken(base) as file:
        assert list(file.read()) == []
        with pytest.raises(LedgerError, match="this Python has no SQLite"):
            file.write([entry()], [])
