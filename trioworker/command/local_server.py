"""A real Prefect server on this machine, as a child process that lives as long as a `with` block.

The listening socket is made here and handed to the server. So a port that was chosen is had, it stays the
same over restarts, whoever connects before the server is up (again) waits in the socket's queue instead of
being refused, and an answer on that port can come from no other server.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs
import trio

from trioworker.errors import WorkerError, sole_errors_bare
from trioworker.lean_attrs import frozen
from trioworker.process_group import ProcessGroup
from trioworker.sqlite_in_server import RELEASE_FAILED_STATEMENTS

__all__ = ["LocalServer", "LocalServerError", "RestartPolicy", "open_local_server"]

LOG_NAME: Final = "trioworker-server.log"

GRACE: Final = 5.0
"""Seconds that a server has to end after SIGTERM, unless it is told otherwise. It seldom needs two."""

_NOT_INSTALLED: Final = 69
"""Exit status of `_SERVE` when the interpreter lacks Prefect (EX_UNAVAILABLE of sysexits.h)."""

_LINES_SHOWN: Final = 15

_KILLING: Final = 5.0
"""Seconds, on top of its grace, after which we no longer wait for a server that was sent SIGKILL."""

_ASK_AGAIN: Final = 0.25
"""Seconds between two health checks; the first, which waits in the socket's queue, nearly always does."""

# Runs in the server's process, under the given interpreter, whatever its version. This is what `prefect
# server start` runs, but on a socket that is open already, and ending when our end of its stdin does: the
# server must not outlive even a worker that was killed.
_SERVE: Final = f"""
import importlib.util, os, signal, socket, sys, threading, time

if sys.path[0] == "":  # the working directory, where any file may bear a module's name
    del sys.path[0]
if importlib.util.find_spec("prefect") is None or importlib.util.find_spec("uvicorn") is None:
    sys.exit({_NOT_INSTALLED})

def end_with_parent():
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(float(sys.argv[2]))
    os.killpg(0, signal.SIGKILL)

threading.Thread(target=end_with_parent, daemon=True).start()
{RELEASE_FAILED_STATEMENTS}
import uvicorn
from prefect.settings import get_current_settings

settings = get_current_settings().server
server = uvicorn.Server(
    uvicorn.Config(
        "prefect.server.api.server:create_app",
        factory=True,
        workers=1,
        log_level=settings.logging_level.lower(),
        timeout_keep_alive=settings.api.keepalive_timeout,
        timeout_graceful_shutdown=2,
    )
)
server.run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
"""


class LocalServerError(WorkerError):
    """The local Prefect server could not be started, or not be kept running; the message says why."""


@frozen
class RestartPolicy:
    """How a server that died is started again.

    Attributes:
        give_up_after: Deaths in a row after which it is left dead.
        steady_after: Seconds in use after which a death is no longer in a row with those before.
        first_delay: Seconds before the first restart in a row; they double with each further one.
        longest_delay: Seconds that the delay grows to.
    """

    give_up_after: int = 5
    steady_after: float = 60.0
    first_delay: float = 0.5
    longest_delay: float = 15.0

    def delay(self, deaths: int) -> float:
        """Seconds to wait after so many deaths in a row (1 or more)."""
        return min(self.first_delay * 2.0 ** (deaths - 1), self.longest_delay)


@frozen
class LocalServer:
    """A Prefect server that runs for as long as its `open_local_server` block.

    Attributes:
        url: What `PREFECT_API_URL` should be: `http://HOST:PORT/api`.
        dashboard_url: Where a browser finds the dashboard.
        log: The file with the server's output.
    """

    url: str
    dashboard_url: str
    log: Path
    _keeper: _Keeper = attrs.field(repr=False, eq=False)

    @property
    def pid(self) -> int | None:
        """The server's process as it is now, leader of its own session; None while it is down."""
        return None if self._keeper.group is None else self._keeper.group.pid


def _ignore(_text: str, /) -> None:
    pass


@asynccontextmanager
async def open_local_server(
    *,
    python: str,
    home: Path | None,
    environment: Mapping[str, str],
    port: int | None = None,
    preferred_port: int | None = None,
    host: str = "127.0.0.1",
    on_notice: Callable[[str], None] = _ignore,
    ready_within: float = 120.0,
    grace: float = GRACE,
    restarts: RestartPolicy | None = None,
) -> AsyncIterator[LocalServer]:
    """Run a Prefect server during the block; entered when it answers.

    The server is in a session of its own, out of reach of the terminal's Ctrl-C, and outlives the block's
    clean-up: also when the block is cancelled, the server is ended after it, not with it. When the server
    dies it is started again, on the same port; requests sent meanwhile wait. No process is left behind,
    however the block ends, not even by SIGKILL of this process.

    Args:
        python: The interpreter to run it with, in which Prefect is installed.
        home: The server's `PREFECT_HOME`, made if missing; there it keeps its SQLite database and its log.
            None for the environment's, or else Prefect's default.
        environment: The environment of the server. Prefect's settings in it apply, except for the server's
            own address; usage statistics are off unless it says otherwise.
        port: The port to use, and no other.
        preferred_port: The port to use if it is free; otherwise any free one.
        host: The address to listen on.
        on_notice: Called with each line that a user should see: start, readiness, a death.
        ready_within: Seconds that a start may take. With a new database Prefect needs about ten.
        grace: Seconds that the server has to end after SIGTERM.
        restarts: How a server that died is started again.

    Raises:
        LocalServerError: It cannot be started; or, out of the block, which is then cancelled, it died too
            often.
    """
    listener = await _listen(host, port, preferred_port)
    with listener, _lifeline() as lifeline:
        dashboard_url = _url(host, listener.getsockname()[1])
        url = f"{dashboard_url}/api"
        log = _prepare_log(home, environment)
        keeper = _Keeper(
            python=python,
            environment=_server_environment(environment, home=home, host=host, url=url),
            url=url,
            listener=listener,
            lifeline=lifeline,
            log=log,
            on_notice=on_notice,
            ready_within=ready_within,
            grace=grace,
            restarts=restarts if restarts is not None else RestartPolicy(),
        )
        try:
            on_notice("Starting a local Prefect server ...")
            await keeper.start()
            on_notice(f"Local Prefect server is ready at {dashboard_url}")
            server = LocalServer(url=url, dashboard_url=dashboard_url, log=log, keeper=keeper)
            async with _beside(keeper.keep_running):
                yield server
        finally:
            with trio.move_on_after(grace + _KILLING, shield=True):
                await keeper.stop()


@asynccontextmanager
async def _beside(service: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run a service during the block, and until the block's clean-up is over: then it is cancelled.

    An error of one of them ends the other and leaves bare.
    """
    scope = trio.CancelScope(shield=True)

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        with scope:
            task_status.started()
            await service()

    with sole_errors_bare():
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            try:
                yield
            finally:
                scope.cancel()


@attrs.define
class _Keeper:
    """Starts the server, again if need be, and stops it."""

    python: str
    environment: Mapping[str, str]
    url: str
    listener: socket.socket
    lifeline: int
    log: Path
    on_notice: Callable[[str], None]
    ready_within: float
    grace: float
    restarts: RestartPolicy
    group: ProcessGroup | None = None
    log_start: int = 0

    async def start(self) -> None:
        """Start the server and wait until it answers; when that fails, nothing is left running."""
        try:
            self.group = await self._spawn()
            await self._wait_until_ready(self.group)
        except BaseException:
            with trio.move_on_after(self.grace + _KILLING, shield=True):
                await self.stop()
            raise

    async def stop(self) -> None:
        """End the server's whole group, if there is one; cancelled, without grace."""
        if self.group is None:
            return
        group, self.group = self.group, None
        await group.terminate(self.grace)

    async def keep_running(self) -> None:
        """Start the server again whenever it dies, until that seems pointless."""
        deaths = 0
        while True:
            ready_at = trio.current_time()
            failure = await self._death()
            if trio.current_time() - ready_at >= self.restarts.steady_after:
                deaths = 0
            deaths = await self._bring_back(deaths + 1, failure)

    async def _death(self) -> LocalServerError:
        """Wait until the server ends by itself, and clear up behind it."""
        assert self.group is not None  # noqa: S101  (for the type checker: it was started)
        status = await self.group.wait()
        await self.stop()
        how = _how_it_ended(status)
        self.on_notice(f"The local Prefect server ended by itself ({how}); starting it again ...")
        return self._error(f"it ended by itself ({how})")

    async def _bring_back(self, deaths: int, failure: LocalServerError) -> int:
        """Start the server until it answers; how many deaths in a row that makes."""
        while deaths < self.restarts.give_up_after:
            await trio.sleep(self.restarts.delay(deaths))
            try:
                await self.start()
            except LocalServerError as error:
                failure = error
                deaths += 1
            else:
                self.on_notice(f"Local Prefect server is ready again at {self.url}")
                return deaths
        raise LocalServerError(
            f"the local Prefect server failed {deaths} times in a row and is left alone now;"
            f" the last time: {failure}"
        )

    async def _spawn(self) -> ProcessGroup:
        descriptor = self.listener.fileno()
        with self.log.open("ab") as output:
            self.log_start = output.tell()
            try:
                return await ProcessGroup.start(
                    [self.python, "-c", _SERVE, str(descriptor), str(self.grace)],
                    env=self.environment,
                    stdin=self.lifeline,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[descriptor],
                )
            except OSError as error:
                raise LocalServerError(
                    f"the local Prefect server cannot be started: {self.python}: {error.strerror}"
                ) from error

    async def _wait_until_ready(self, group: ProcessGroup) -> None:
        answered = False
        status: int | None = None

        async def watch() -> None:
            nonlocal status
            status = await group.wait()
            nursery.cancel_scope.cancel()

        with trio.move_on_after(self.ready_within):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                await _healthy(f"{self.url}/health", within=self.ready_within)
                answered = True
                nursery.cancel_scope.cancel()
        if answered:
            return
        if status is None:
            raise self._error(
                f"the local Prefect server did not answer at {self.url} within {self.ready_within:g} s"
            )
        if status == _NOT_INSTALLED:
            raise LocalServerError(
                f"Prefect is not installed for {self.python}: pip install 'trioworker[local]'"
            )
        raise self._error(f"the local Prefect server ended before it answered ({_how_it_ended(status)})")

    def _error(self, message: str) -> LocalServerError:
        """An error with the end of what the server, as started last, wrote to its log."""
        with self.log.open("rb") as log:
            log.seek(self.log_start)
            lines = log.read().decode(errors="replace").splitlines()
        if not lines:
            return LocalServerError(f"{message}; it wrote nothing to its log {self.log}")
        shown = "".join(f"\n    {line}" for line in lines[-_LINES_SHOWN:])
        return LocalServerError(f"{message}; the end of its log {self.log}:{shown}")


async def _healthy(url: str, *, within: float) -> None:
    """Wait until a health check answers 200; a single one may take so many seconds."""
    import httpx  # noqa: PLC0415  (costs 100 ms)

    # No proxy, and an empty TLS context: to load the certificates would cost more than all else here.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    async with httpx.AsyncClient(trust_env=False, timeout=within, verify=context) as client:
        while True:
            with suppress(httpx.TransportError):
                response = await client.get(url)
                if response.status_code == 200:
                    return
            await trio.sleep(_ASK_AGAIN)


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # a real-time signal
        return f"signal {-status}"


async def _listen(host: str, port: int | None, preferred_port: int | None) -> socket.socket:
    """A listening socket on the port asked for, the preferred one or a free one.

    Raises:
        LocalServerError: The host is unknown or not of this machine, or the port is taken.
    """
    try:
        found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        family, _, _, _, (address, *_) = found[0]
        if port is not None:
            return _bound(family, str(address), port)
        if preferred_port is not None:
            with suppress(OSError):
                return _bound(family, str(address), preferred_port)
        return _bound(family, str(address), 0)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise LocalServerError(
                f"port {port} of {host} is taken by another program: choose another port for the local"
                " Prefect server"
            ) from error
        where = host if port is None else f"port {port} of {host}"
        raise LocalServerError(
            f"the local Prefect server cannot listen on {where}: {error.strerror}"
        ) from error


def _bound(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Else the port of a server just ended stays unusable for a minute.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    return listener


@contextmanager
def _lifeline() -> Iterator[int]:
    """The reading end of a pipe whose writing end is open only here, for as long as this process lives."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(writing)
        os.close(reading)


def _url(host: str, port: int) -> str:
    """Where to reach, from this machine, what listens on a host and port."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"http://{address}:{port}" if address.version == 4 else f"http://[{address}]:{port}"


def _server_environment(
    environment: Mapping[str, str], *, home: Path | None, host: str, url: str
) -> dict[str, str]:
    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # Among it is the dashboard's question for a newer version.
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    # Names with two underscores are Prefect's notes to its own child processes, such as "you are flow run X".
    kept = {name: value for name, value in environment.items() if not name.startswith("PREFECT__")}
    own = {
        # Else the dashboard would show what the user's, or the active profile's, API has.
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_API_HOST": host,
        "PREFECT_SERVER_API_PORT": url.rsplit(":", 1)[1].removesuffix("/api"),
        "PREFECT_SERVER_API_BASE_PATH": "/api",
        "PREFECT__SERVER_FINAL": "1",
    }
    if home is not None:
        own["PREFECT_HOME"] = str(home.absolute())
    return {**defaults, **kept, **own}


def _prepare_log(home: Path | None, environment: Mapping[str, str]) -> Path:
    """The server's log, emptied, in its `PREFECT_HOME`."""
    directory = home or Path(environment.get("PREFECT_HOME") or "~/.prefect").expanduser()
    log = directory.absolute() / LOG_NAME
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
    except OSError as error:
        raise LocalServerError(
            f"the local Prefect server cannot write its log {log}: {error.strerror}"
        ) from error
    return log
