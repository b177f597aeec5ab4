"""What becomes of the exit code when the last words of the command cannot be written."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import clean_environment

from trioworker.__main__ import _let_go_of_unread_output

# Without a line end, and so not written before the end.
SAYS = """
import sys
from trioworker.__main__ import main
sys.stdout.write("last words")
sys.argv[1:] = ["--version"]
main()
"""


def exit_code(stdout: int) -> int:
    return subprocess.run(
        [sys.executable, "-c", SAYS],
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        env=clean_environment(),
        check=False,
    ).returncode


class Tee:
    """What people put in the place of standard output, with as little as `print` needs."""

    def __init__(self) -> None:
        self.flushed = 0

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        self.flushed += 1


class Dead(Tee):
    def flush(self) -> None:
        raise BrokenPipeError


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.process
def test_of_a_full_disk_python_tells() -> None:
    with Path("/dev/full").open("w") as full:
        assert exit_code(full.fileno()) == 120


@pytest.mark.parametrize("stream", [None, closed(), Tee(), Dead(), 1])
def test_nothing_that_stands_in_for_standard_output_is_in_the_way(
    monkeypatch: pytest.MonkeyPatch, stream: object
) -> None:
    last = Tee()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", last)
    _let_go_of_unread_output()
    assert last.flushed == 1
