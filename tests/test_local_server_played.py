"""What is done with a local server that serves, dies or hangs: its process is played, its socket is a real one.

That a real process does as these is in `test_local_server`.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import played_kernel
import pytest
import trio
import trio.lowlevel
from played_kernel import PlayedKernel, PlayedProcess, ending

from trioworker.command import local_server
from trioworker.command.local_server import LocalServer, LocalServerError, RestartPolicy, open_local_server

kernel = played_kernel.kernel

IMPATIENT = RestartPolicy(give_up_after=3, first_delay=0.001, longest_delay=0.002)

STARTING = "Starting a local Prefect server ..."


@attrs.define
class PlayedServer:
    """What the processes of a server do.

    Attributes:
        answers: the status of each answer that one process gives; the last is repeated.
        lives_for: how many answers a process gives before it ends; None for any number.
        last_words: what it writes when it ends.
        status: how it ends.
        asked: the paths that were asked for.
    """

    answers: tuple[int, ...] = (200,)
    lives_for: int | None = None
    last_words: str = ""
    status: int = 5
    asked: list[str] = attrs.field(factory=list)

    async def program(self, process: PlayedProcess) -> int:
        (number,) = process.arguments["pass_fds"]
        with socket.socket(fileno=os.dup(process.descriptor(number))) as inherited:
            inherited.setblocking(False)
            listener = trio.socket.from_stdlib_socket(inherited)
            answered = 0
            while self.lives_for is None or answered < self.lives_for:
                stream = trio.SocketStream((await listener.accept())[0])
                async with stream:
                    await self._answer(stream, self.answers[min(answered, len(self.answers) - 1)])
                answered += 1
        process.write(self.last_words)
        return self.status

    async def _answer(self, stream: trio.SocketStream, status: int) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await stream.receive_some()
        self.asked.append(request.split(b" ")[1].decode())
        await stream.send_all(b"HTTP/1.1 %d Word\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % status)


@attrs.define(eq=False)
class Stage:
    """A home for the server, and what is said of it."""

    kernel: PlayedKernel
    home: Path
    environment: dict[str, str] = attrs.field(factory=dict)
    notices: list[str] = attrs.field(factory=list)
    _news: trio.Event = attrs.field(factory=trio.Event)

    @asynccontextmanager
    async def opened(self, **options: Any) -> AsyncIterator[LocalServer]:
        every = {
            "python": sys.executable,
            "home": self.home,
            "environment": self.environment,
            "on_notice": self.hear,
            "restarts": IMPATIENT,
            **options,
        }
        with trio.fail_after(30):
            async with open_local_server(**every) as server:
                yield server

    def hear(self, notice: str) -> None:
        self.notices.append(notice)
        self._news.set()

    async def said(self, number: int) -> None:
        """Returns when there have been so many notices."""
        while len(self.notices) < number:
            self._news = trio.Event()
            await self._news.wait()

    def alive(self) -> list[PlayedProcess]:
        return [process for process in self.kernel.started if self.kernel.is_there(process)]

    async def refused(self, **options: Any) -> str:
        """What is said of a server that does not even begin."""
        with pytest.raises(LocalServerError) as caught:
            async with self.opened(**options):
                pytest.fail("entered")
        assert self.alive() == []
        return str(caught.value)


@pytest.fixture
def stage(kernel: PlayedKernel, tmp_path: Path) -> Stage:
    return Stage(kernel, tmp_path / "home")


@contextmanager
def occupied_port() -> Iterator[int]:
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", 0))
        occupant.listen()
        yield occupant.getsockname()[1]


# While it is well


async def test_block_is_entered_when_the_server_answers_and_left_when_it_has_ended(stage: Stage) -> None:
    server_played = PlayedServer()
    stage.kernel.program = server_played.program
    async with stage.opened() as server:
        (process,) = stage.kernel.started
        pid = server.pid
        assert pid == process.pid
        assert server_played.asked == ["/api/health"]
        assert server.url == f"{server.dashboard_url}/api"
        assert stage.kernel.signals == []
    assert process.status == -signal.SIGTERM
    assert server.pid is None
    assert stage.alive() == []
    assert stage.notices == [STARTING, f"Local Prefect server is ready at {server.dashboard_url}"]


async def test_server_that_answers_but_not_well_is_asked_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_server, "_ASK_AGAIN", 0)
    server_played = PlayedServer(answers=(503, 404, 200))
    stage.kernel.program = server_played.program
    async with stage.opened():
        assert server_played.asked == ["/api/health"] * 3


async def test_server_gets_the_environment_but_for_its_own_address(stage: Stage) -> None:
    stage.kernel.program = PlayedServer().program
    stage.environment = {
        "PREFECT_API_URL": "https://elsewhere.example/api",
        "PREFECT_HOME": "/elsewhere",
        "PREFECT_SERVER_API_BASE_PATH": "/v2",
        "PREFECT_SERVER_LOGGING_LEVEL": "INFO",
        "PREFECT__FLOW_RUN_ID": "not-yours",
        "DO_NOT_TRACK": "0",
    }
    async with stage.opened() as server:
        environment = stage.kernel.started[0].arguments["env"]
        assert environment == {
            "PREFECT_API_URL": server.url,
            "PREFECT_HOME": str(stage.home),
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            "PREFECT_SERVER_API_PORT": server.dashboard_url.rpartition(":")[2],
            "PREFECT_SERVER_API_BASE_PATH": "/api",
            "PREFECT_SERVER_LOGGING_LEVEL": "INFO",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT__SERVER_FINAL": "1",
            "DO_NOT_TRACK": "0",
        }


async def test_server_without_a_home_of_its_own_has_that_of_the_environment(
    stage: Stage, tmp_path: Path
) -> None:
    stage.kernel.program = PlayedServer().program
    stage.environment = {"PREFECT_HOME": str(tmp_path / "theirs")}
    async with stage.opened(home=None) as server:
        assert server.log == tmp_path / "theirs" / local_server.LOG_NAME
        assert stage.kernel.started[0].arguments["env"]["PREFECT_HOME"] == str(tmp_path / "theirs")


async def test_server_notices_the_end_of_this_process_by_its_standard_input(stage: Stage) -> None:
    """The writing end of which is nowhere but here, and closed in the end."""
    stage.kernel.program = PlayedServer().program
    async with stage.opened():
        lifeline = os.dup(stage.kernel.started[0].arguments["stdin"])
        os.set_blocking(lifeline, False)
        with pytest.raises(BlockingIOError):
            os.read(lifeline, 1)
    assert os.read(lifeline, 1) == b""
    os.close(lifeline)


async def test_error_of_the_block_leaves_bare(stage: Stage) -> None:
    stage.kernel.program = PlayedServer().program
    with pytest.raises(ZeroDivisionError):
        async with stage.opened():
            _ = 1 / 0
    assert stage.alive() == []


async def test_server_is_kept_running_until_a_cancelled_block_has_cleaned_up(stage: Stage) -> None:
    stage.kernel.program = PlayedServer().program
    with trio.CancelScope() as scope:
        async with stage.opened():
            try:
                scope.cancel()
                await trio.sleep_forever()
            finally:
                with trio.fail_after(30, shield=True):
                    stage.kernel.started[0].end(-signal.SIGKILL)
                    await stage.said(4)
    assert scope.cancelled_caught
    assert stage.notices[3].startswith("Local Prefect server is ready again")
    assert stage.alive() == []


# A start that fails


async def test_server_that_ends_at_once_is_reported_with_the_end_of_its_log(stage: Stage) -> None:
    lines = "\n".join(f"line {number}" for number in range(40))
    stage.kernel.program = PlayedServer(lives_for=0, last_words=lines, status=3).program
    message = await stage.refused()
    assert message.startswith("the local Prefect server ended before it answered (exit status 3); the end of")
    assert str(stage.home / local_server.LOG_NAME) in message
    assert [line.strip() for line in message.splitlines()[1:]] == [
        f"line {number}" for number in range(25, 40)
    ]
    assert len(stage.kernel.started) == 1
    assert stage.notices == [STARTING]


@pytest.mark.parametrize(
    ("status", "how"), [(0, "exit status 0"), (-signal.SIGKILL, "SIGKILL"), (-40, "signal 40")]
)
async def test_server_that_wrote_nothing_is_reported_by_its_end(stage: Stage, status: int, how: str) -> None:
    stage.kernel.program = ending(status)
    log = stage.home / local_server.LOG_NAME
    message = await stage.refused()
    assert message == (
        f"the local Prefect server ended before it answered ({how}); it wrote nothing to its log {log}"
    )


async def test_interpreter_without_prefect_is_told_so(stage: Stage) -> None:
    stage.kernel.program = ending(69)
    message = await stage.refused(python="/their/python")
    assert message == "Prefect is not installed for /their/python: pip install 'trioworker[local]'"


async def test_interpreter_that_cannot_be_started_is_named(stage: Stage) -> None:
    stage.kernel.refusal = OSError(errno.ENOENT, "No such file or directory")
    message = await stage.refused(python="/no/such/python")
    assert message == "the local Prefect server cannot be started: /no/such/python: No such file or directory"


async def test_server_that_does_not_answer_in_time_is_reported_and_ended(stage: Stage) -> None:
    message = await stage.refused(ready_within=0.02)
    assert "the local Prefect server did not answer at http://127.0.0.1:" in message
    assert "within 0.02 s; it wrote nothing" in message
    assert stage.kernel.started[0].status == -signal.SIGTERM


async def test_cancelled_while_it_starts_it_leaves_no_process(stage: Stage) -> None:
    with trio.CancelScope() as scope:

        async def cancel(process: PlayedProcess) -> int:
            process.tidies_up = 0.001
            scope.cancel()
            await trio.sleep_forever()

        stage.kernel.program = cancel
        async with stage.opened():
            pytest.fail("entered")
    assert scope.cancelled_caught
    assert [process.status for process in stage.kernel.started] == [-signal.SIGTERM]
    assert stage.alive() == []


async def test_home_that_cannot_be_written_is_told_so(stage: Stage) -> None:
    stage.home.touch()
    assert f"cannot write its log {stage.home}" in await stage.refused()
    assert stage.kernel.started == []


# Dying later


async def test_server_that_dies_comes_back_on_the_same_socket(stage: Stage) -> None:
    stage.kernel.program = PlayedServer().program
    async with stage.opened() as server:
        first = stage.kernel.started[0]
        first.end(-signal.SIGKILL)
        await stage.said(4)
        second = stage.kernel.started[1]
        assert server.pid == second.pid
        assert first.arguments["pass_fds"] == second.arguments["pass_fds"]
        assert not stage.kernel.is_there(first)
    assert stage.notices[2:] == [
        "The local Prefect server ended by itself (SIGKILL); starting it again ...",
        f"Local Prefect server is ready again at {server.url}",
    ]


async def test_server_that_keeps_dying_is_left_alone_and_the_block_cancelled(stage: Stage) -> None:
    stage.kernel.program = PlayedServer(lives_for=1, last_words="out of luck").program
    with pytest.raises(
        LocalServerError, match="failed 3 times in a row and is left alone now; the"
    ) as caught:
        async with stage.opened():
            await trio.sleep_forever()
    assert "it ended by itself (exit status 5)" in str(caught.value)
    # Of the last one only, not of those before it in the same file.
    assert str(caught.value).count("out of luck") == 1
    assert len(stage.kernel.started) == 3
    assert stage.alive() == []


async def test_start_that_fails_counts_as_a_death(stage: Stage) -> None:
    async def end_for_good() -> None:
        stage.kernel.program = ending(3)
        stage.kernel.started[0].end(5)
        await trio.sleep_forever()

    stage.kernel.program = PlayedServer().program
    with pytest.raises(LocalServerError, match=r"failed 3 times in a row .*ended before it answered"):
        async with stage.opened():
            await end_for_good()
    assert len(stage.kernel.started) == 3


async def test_restart_that_does_not_answer_is_ended_before_the_next(stage: Stage) -> None:
    """They would share the socket."""
    others_alive: list[int] = []

    async def mute(_: PlayedProcess) -> int:
        others_alive.append(len(stage.alive()) - 1)
        await trio.sleep_forever()

    async def fall_mute(server: LocalServer) -> None:
        stage.kernel.program = mute
        server._keeper.ready_within = 0.01
        stage.kernel.started[0].end(5)
        await trio.sleep_forever()

    stage.kernel.program = PlayedServer().program
    with pytest.raises(LocalServerError, match=r"failed 3 times in a row .*did not answer at"):
        async with stage.opened() as server:
            await fall_mute(server)
    assert others_alive == [0, 0]
    assert stage.alive() == []


async def test_deaths_of_servers_that_had_served_for_long_are_not_in_a_row(stage: Stage) -> None:
    stage.kernel.program = PlayedServer(lives_for=1).program
    steady_at_once = attrs.evolve(IMPATIENT, steady_after=0)
    async with stage.opened(restarts=steady_at_once):
        while len(stage.kernel.started) <= 2 * IMPATIENT.give_up_after:  # noqa: ASYNC110  (nothing tells)
            await trio.sleep(0.001)
        stage.kernel.program = PlayedServer().program


# Where it listens


async def test_taken_port_that_was_asked_for_is_an_error(stage: Stage) -> None:
    with occupied_port() as port:
        message = await stage.refused(port=port)
    assert message.startswith(f"port {port} of 127.0.0.1 is taken by another program")
    assert stage.kernel.started == []


async def test_taken_port_that_was_preferred_is_replaced_and_a_free_one_used(stage: Stage) -> None:
    stage.kernel.program = PlayedServer().program
    with occupied_port() as port:
        async with stage.opened(preferred_port=port) as server:
            assert not server.dashboard_url.endswith(f":{port}")
    for options in ({"preferred_port": port}, {"port": port}):
        async with stage.opened(**options) as server:
            assert server.url == f"http://127.0.0.1:{port}/api"


async def test_address_of_another_machine_is_named(stage: Stage) -> None:
    # From the block that is set aside for documentation.
    message = await stage.refused(host="192.0.2.1")
    assert message.startswith("the local Prefect server cannot listen on 192.0.2.1: Cannot assign")
    message = await stage.refused(host="192.0.2.1", port=4200)
    assert message.startswith("the local Prefect server cannot listen on port 4200 of 192.0.2.1: ")
