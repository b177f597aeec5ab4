"""What becomes of the command, and of its exit code, when what it has to say cannot be written."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import clean_environment

from trioworker.__main__ import _let_go_of_unread_output
from trioworker.command.unread_output import waiting_for_nobody

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


class Pipe:
    """A pipe that is full, with the stream of a worker at its one end."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        self.filled = 0
        with suppress(BlockingIOError):
            while True:
                self.filled += os.write(self.writer, b"x" * 4096)
        # A flow run would find that strange.
        os.set_blocking(self.writer, True)
        # As Python makes its standard streams.
        self.stream = waiting_for_nobody(open(self.writer, "w", encoding="utf-8", closefd=False))  # noqa: SIM115

    def read(self) -> str:
        """What has come, but for what has filled it."""
        read = b""
        os.set_blocking(self.reader, False)
        with suppress(BlockingIOError):
            while chunk := os.read(self.reader, 65536):
                read += chunk
        skipped, self.filled = self.filled, 0
        return read[skipped:].decode()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.read()
    pipe.stream.close()
    os.close(pipe.reader)
    os.close(pipe.writer)


def test_lines_wait_for_somebody_to_read_and_nobody_waits_for_that(pipe: Pipe) -> None:
    for number in range(100):
        print(f"line {number}", file=pipe.stream, flush=True)
    assert pipe.read() == ""
    print("line 100", file=pipe.stream, flush=True)
    assert pipe.read() == "".join(f"line {number}\n" for number in range(101))


def test_line_longer_than_the_room_there_is_comes_in_parts(pipe: Pipe) -> None:
    long = "y" * 200_000
    print(long, file=pipe.stream, flush=True)
    come = pipe.read()
    while len(come) <= len(long):
        pipe.stream.write("")
        pipe.stream.buffer.flush()
        come += pipe.read()
    assert come == f"{long}\n"


def test_lines_that_are_too_many_to_be_kept_are_counted(pipe: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    line = "z" * 1023
    for _ in range(1024 + 7):
        print(line, file=pipe.stream, flush=True)
    come = pipe.read()
    assert caplog.messages == []
    while not caplog.messages:
        print("more", file=pipe.stream, flush=True)
        come += pipe.read()
    assert caplog.messages == ["7 lines of the worker were dropped, since nobody read its output"]
    assert come.count(f"{line}\n") == 1024


def test_reader_that_is_gone_is_told_to_whoever_writes(pipe: Pipe) -> None:
    print("kept", file=pipe.stream, flush=True)
    reader, pipe.reader = pipe.reader, os.open(os.devnull, os.O_RDONLY)
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        print("lost", file=pipe.stream, flush=True)
    with suppress(BrokenPipeError):
        pipe.stream.close()


def test_end_waits_a_second_for_somebody_to_read(pipe: Pipe) -> None:
    print("kept", file=pipe.stream, flush=True)
    begin = time.monotonic()
    pipe.stream.close()
    assert time.monotonic() - begin >= 1
    assert pipe.read() == ""


@pytest.mark.parametrize("stream", [None, io.StringIO(), Tee(), closed()])
def test_what_is_no_standard_stream_is_left_as_it_is(stream: object) -> None:
    assert waiting_for_nobody(stream) is stream


def test_file_is_left_as_it_is(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        assert waiting_for_nobody(file) is file
