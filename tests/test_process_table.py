"""What /proc tells of real processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trioworker import process_table
from trioworker.process_table import ProcessStatus

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not process_table.is_there(), reason="only Linux has such a table"),
]


@contextmanager
def child(*command: str, ready: bool = True, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a session of its own, which has said a line if it is to be ready."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=environment
    ) as process:
        try:
            if ready:
                assert process.stdout is not None
                assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def look_up(pid: int) -> ProcessStatus:
    process = process_table.look_up(pid)
    assert process is not None
    return process


def test_process_is_told_with_group_session_and_start() -> None:
    with child("cat", ready=False) as process:
        pid = process.pid
        found = look_up(pid)
        assert (found.pid, found.lives, found.group, found.session) == (pid, True, pid, pid)
        assert look_up(os.getpid()).started <= found.started
        now = float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK")
        assert now - 100 * os.sysconf("SC_CLK_TCK") < found.started <= now + 1
        assert pid in process_table.process_ids()
        assert look_up(pid) == found


def test_zombie_does_not_live_but_has_its_start_still() -> None:
    with child("cat", ready=False) as process:
        started = look_up(process.pid).started
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        zombie = look_up(process.pid)
        assert not zombie.lives
        assert zombie.started == started
        assert not process_table.lives(process.pid)
        assert process_table.environment_of(process.pid) <= {b""}
    assert process_table.look_up(process.pid) is None
    assert not process_table.lives(process.pid)
    assert process_table.environment_of(process.pid) == frozenset()


@pytest.mark.parametrize("name", ["a) Z 1 (b", ") Z", "((", "a b", "line\nfeed"])
def test_name_of_a_process_is_not_taken_for_what_follows_it(tmp_path: Path, name: str) -> None:
    program = tmp_path / name
    shutil.copy(shutil.which("cat") or "", program)
    with child(str(program), ready=False) as process:
        found = look_up(process.pid)
        assert found.lives
        assert found.group == found.session == process.pid


def test_process_whose_main_thread_has_ended_lives_as_long_as_the_others() -> None:
    program = """
import ctypes, sys, threading
threading.Thread(target=sys.stdin.read).start()
print("ready", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""
    with child(sys.executable, "-c", program) as process:
        until = time.monotonic() + 30
        while Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z":
            assert time.monotonic() < until
        assert process_table.lives(process.pid)


def test_environment_is_that_of_the_start() -> None:
    program = "import os; os.environ['LATER'] = '1'; print('ready', flush=True); input()"
    with child(sys.executable, "-c", program, NAME="a value", OTHER="x=y") as process:
        found = process_table.environment_of(process.pid)
    assert {b"NAME=a value", b"OTHER=x=y"} <= found
    assert b"LATER=1" not in found


def test_environment_that_we_may_not_know_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert process_table.environment_of(1) == frozenset()


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 10**30])
def test_number_that_nobody_can_have_is_nobody(pid: int) -> None:
    assert process_table.look_up(pid) is None
    assert not process_table.lives(pid)
