"""What `trioworker start` leaves behind when it is killed or told to leave, and what the next one makes of it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import command
import httpx
import pytest
import trio
from command import COMPLETES, Command, Launcher, Prefect, patience_for

launch = command.launch
prefect = command.prefect

pytestmark = pytest.mark.process

# Notes its process, is Running, writes something, waits, and completes.
TALKS = """
note('pid', os.getpid())
become('RUNNING')
print('before', flush=True)
wait_for('go')
print('after', flush=True)
become('COMPLETED')
"""

# The command, but that it looks for what others have left every second, and at each of that once more after a while,
# within which a test has to let happen what is to happen before.
QUICK = (
    sys.executable,
    "-c",
    """
import runpy
import trioworker.runs.flow_run
# Before others take it from there.
trioworker.runs.flow_run.IN_FLIGHT_SECONDS = 15.0
import trioworker.worker
trioworker.worker._LEDGER_SECONDS = 1.0
runpy.run_module("trioworker", run_name="__main__", alter_sys=True)
""",
)


class Site:
    """A work pool, and the workers of one name that serve it one after the other.

    Attributes:
        name: of the workers; empty for none.
        pool: the work pool.
        ledgers: where the ledgers are, below `PREFECT_HOME`.
    """

    def __init__(self, launch: Launcher, prefect: Prefect, pool: str, home: Path) -> None:
        self.name = "the-worker"
        self.pool = pool
        self.ledgers = home / "trioworker" / "ledgers"
        self._launch = launch
        self.prefect = prefect

    async def worker(self, *options: str | Path, program: Any = QUICK, api: str | None = None) -> Command:
        """Start one, and wait until it polls."""
        name = ("--name", self.name) if self.name else ()
        return await self._launch.worker(
            "-p", self.pool, *name, *options, program=program, api=api or self.prefect.url
        )

    async def run(self, script: str = TALKS) -> str:
        return await self.prefect.run(await self.prefect.deployment(self.pool, script))

    async def running(self, *options: str | Path, script: str = TALKS) -> tuple[Command, str]:
        """A worker, and a run that is Running."""
        run = await self.run(script)
        worker = await self.worker(*options)
        await self.prefect.reached(run, "Running", worker)
        return worker, run

    async def kill(self, worker: Command) -> None:
        """Kill a worker, but nothing that it has started."""
        worker.send(signal.SIGKILL)
        assert await worker.exit_code() == -signal.SIGKILL

    def process(self, number: int = -1) -> int:
        """The process of the run that was started last, or in this place."""
        return int(self.prefect.noted("pid")[number][0])

    def kill_process(self) -> None:
        os.kill(self.process(), signal.SIGKILL)

    async def states(self, run: str) -> list[str]:
        """The names of a run's states, oldest first."""
        return [state["name"] for state in await self._history(run)]

    async def messages(self, run: str) -> list[str]:
        """What a run's states say, oldest first."""
        return [state["message"] or "" for state in await self._history(run)]

    async def _history(self, run: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.prefect.call("GET", f"flow_run_states/?flow_run_id={run}")
        return sorted(found, key=lambda state: str(state["timestamp"]))

    def locks(self) -> list[Path]:
        """One for each worker that lives, or has left something."""
        return sorted(self.ledgers.rglob("*.lock"))

    def files(self) -> list[Path]:
        """The ledgers on disk."""
        return sorted(self.ledgers.rglob("*.sqlite"))


def rewrite(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the only entry of a ledger that nobody owns."""
    with closing(sqlite3.connect(file)) as connection:
        ((attempt, document),) = connection.execute("SELECT attempt, document FROM entries").fetchall()
        entry = json.loads(document)
        change(entry)
        connection.execute("UPDATE entries SET document = ? WHERE attempt = ?", (json.dumps(entry), attempt))
        connection.commit()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False


@pytest.fixture
async def site(launch: Launcher, prefect: Prefect, process_environment: dict[str, str]) -> Site:
    return Site(launch, prefect, await prefect.pool(), Path(process_environment["PREFECT_HOME"]))


class TestKilledWhileARunGoesOn:
    async def test_next_worker_watches_it_until_it_completes(self, launch: Launcher, site: Site) -> None:
        first, run = await site.running()
        await first.line_with("before")
        await site.kill(first)
        second = await site.worker()
        await second.line_with("Taking up 1 flow run whose end is not settled.")
        await second.line_with(f"goes on in process {site.process()}, which worker 'the-worker' has started")
        assert await site.prefect.state_name(run) == "Running"
        site.prefect.go()
        await site.prefect.reached(run, "Completed", second)
        # It still writes to where its first worker has written.
        await first.line_with("after")
        assert await second.stop() == 0
        assert len(site.prefect.noted("pid")) == 1

    async def test_next_worker_counts_its_slot(self, launch: Launcher, site: Site) -> None:
        first, run = await site.running()
        await site.kill(first)
        waiting = await site.run("become('RUNNING')\nbecome('COMPLETED')")
        second = await site.worker("--limit", "1")
        await second.line_with("goes on in process")
        await site.prefect.next_heartbeat(site.pool)
        assert await site.prefect.state_name(waiting) in {"Scheduled", "Late"}
        site.prefect.go()
        await site.prefect.reached(run, "Completed", second)
        await site.prefect.reached(waiting, "Completed", second)
        assert await second.stop() == 0

    async def test_run_that_was_cancelled_meanwhile_is_ended(self, launch: Launcher, site: Site) -> None:
        first, run = await site.running(
            script="note('pid', os.getpid())\nchild = subprocess.Popen(['sleep', '300'])\n"
            "become('RUNNING')\nchild.wait()"
        )
        await site.kill(first)
        await site.prefect.cancel(run)
        second = await site.worker()
        await site.prefect.reached(run, "Cancelled", second)
        assert not lives(site.process())
        assert await second.stop() == 0
        assert launch.processes() == []

    async def test_it_can_be_cancelled_later(self, launch: Launcher, site: Site) -> None:
        first, run = await site.running()
        await site.kill(first)
        second = await site.worker()
        await second.line_with("goes on in process")
        await site.prefect.cancel(run)
        await site.prefect.reached(run, "Cancelled", second)
        assert not lives(site.process())
        assert await second.stop() == 0

    async def test_process_that_is_killed_while_nobody_watches(self, launch: Launcher, site: Site) -> None:
        first, run = await site.running()
        await site.kill(first)
        site.kill_process()
        await launch.all_gone()
        assert await site.prefect.state_name(run) == "Running"
        second = await site.worker()
        message = await site.prefect.reached(run, "Crashed", second)
        assert message == (
            f"Flow run's process ({site.process()}) has ended, and how, nobody knows: worker 'the-worker', which had"
            " started it, was gone by then."
        )
        assert await second.stop() == 0

    async def test_process_that_is_killed_while_the_next_one_watches(
        self, launch: Launcher, site: Site
    ) -> None:
        first, run = await site.running()
        await site.kill(first)
        second = await site.worker()
        await second.line_with("goes on in process")
        site.kill_process()
        assert "how, nobody knows" in await site.prefect.reached(run, "Crashed", second)
        assert await second.stop() == 0

    async def test_run_that_completes_while_nobody_watches_stays_so(
        self, launch: Launcher, site: Site
    ) -> None:
        first, run = await site.running()
        await site.kill(first)
        site.prefect.go()
        await site.prefect.reached(run, "Completed")
        await launch.all_gone()
        second = await site.worker()
        await second.line_with("Taking up 1 flow run")
        assert await second.stop() == 0
        assert await site.prefect.state_name(run) == "Completed"

    async def test_what_its_process_has_started_is_ended_with_it(self, launch: Launcher, site: Site) -> None:
        """A run that has crashed may be run again, and is to meet with nothing of itself then."""
        first, run = await site.running(
            script="note('pid', os.getpid())\nchild = subprocess.Popen(['sleep', '300'])\n"
            "note('child', child.pid)\nbecome('RUNNING')\nchild.wait()"
        )
        await site.kill(first)
        site.kill_process()
        child = int(site.prefect.noted("child")[0][0])
        assert lives(child)
        second = await site.worker()
        await site.prefect.reached(run, "Crashed", second)
        assert not lives(child)
        assert await second.stop() == 0


class Holding:
    """Stands between a worker and the server, and holds back the first request with a certain text.

    Attributes:
        url: where the API is for the worker.
        held: set when that request is there.
        released: lets it go on to the server, also when whoever has sent it is gone.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.held = trio.Event()
        self.released = trio.Event()


async def hold_back(
    to: str, text: bytes, *, task_status: trio.TaskStatus[Holding] = trio.TASK_STATUS_IGNORED
) -> None:
    target = httpx.URL(to)

    async def serve(stream: trio.SocketStream) -> None:
        beyond = await trio.open_tcp_stream(target.host, target.port or 80)
        async with stream, beyond, trio.open_nursery() as nursery:
            nursery.start_soon(answer, stream, beyond)
            # Whoever is killed does not say goodbye.
            with suppress(trio.BrokenResourceError):
                async for chunk in stream:
                    if text in chunk and not holding.held.is_set():
                        holding.held.set()
                        await holding.released.wait()
                        if chunk.startswith(b"POST "):
                            # The server has closed the connection meanwhile, over which it heard nothing.
                            await ask(bytes(chunk))
                            break
                    await beyond.send_all(chunk)
                await beyond.send_eof()

    async def ask(request: bytes) -> None:
        async with await trio.open_tcp_stream(target.host, target.port or 80) as fresh:
            await fresh.send_all(request)
            await fresh.receive_some()

    async def answer(stream: trio.SocketStream, beyond: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async for chunk in beyond:
                await stream.send_all(chunk)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    holding = Holding(f"http://127.0.0.1:{port}{target.path}")
    task_status.started(holding)
    await trio.serve_listeners(serve, listeners)


class TestKilledBeforeARunHasBegun:
    async def test_next_worker_gives_it_back_and_completes_it(self, launch: Launcher, site: Site) -> None:
        run = await site.run(COMPLETES)
        async with trio.open_nursery() as nursery:
            holding: Holding = await nursery.start(hold_back, site.prefect.url, b'"Submitting"')
            first = await site.worker(api=holding.url)
            await holding.held.wait()
            assert await site.prefect.state_name(run) == "Pending"
            await site.kill(first)
            second = await site.worker()
            await site.prefect.reached(run, "Completed", second)
            assert await second.stop() == 0
            nursery.cancel_scope.cancel()
        states = await site.states(run)
        assert states == [
            "Scheduled",
            "Pending",
            "Scheduled",
            "Pending",
            "Submitting",
            "Running",
            "Completed",
        ]
        assert "Given back by worker 'the-worker'" in (await site.messages(run))[2]

    async def test_claim_that_arrives_after_somebody_else_has_completed_the_run_changes_nothing(
        self, launch: Launcher, site: Site
    ) -> None:
        """The request was on its way when the worker was killed, and the next one has found the run unclaimed."""
        run = await site.run(COMPLETES)
        async with trio.open_nursery() as nursery:
            holding: Holding = await nursery.start(hold_back, site.prefect.url, b'"PENDING"')
            first = await site.worker(api=holding.url)
            await holding.held.wait()
            await site.kill(first)
            second = await site.worker()
            await site.prefect.reached(run, "Completed", second)
            holding.released.set()
            with patience_for("the claim to be put back", second):
                # Two claims, and the state from before the second one.
                while (await site.states(run))[-2:] != ["Pending", "Completed"]:  # noqa: ASYNC110 - nothing tells us
                    await trio.sleep(0.1)
            assert await second.stop() == 0
            nursery.cancel_scope.cancel()
        assert (await site.states(run)).count("Running") == 1


class TestOnShutdown:
    async def test_left_run_is_watched_by_the_next_worker(self, launch: Launcher, site: Site) -> None:
        first, run = await site.running("--on-shutdown", "leave")
        first.send(signal.SIGTERM)
        await first.line_with("Send it again to leave them now.")
        first.send(signal.SIGTERM)
        assert await first.exit_code() == 0
        assert first.lines_with("Leaving 1 flow run running, for the worker that comes next.")
        assert first.lines_with("Cut off 1 flow run: left running.")
        assert await site.prefect.state_name(run) == "Running"
        assert lives(site.process())
        second = await site.worker()
        await second.line_with("goes on in process")
        site.prefect.go()
        await site.prefect.reached(run, "Completed", second)
        assert await second.stop() == 0
        assert len(site.prefect.noted("pid")) == 1

    async def test_rescheduled_run_is_dead_and_then_executed_again(
        self, launch: Launcher, site: Site
    ) -> None:
        first, run = await site.running(
            "--on-shutdown",
            "reschedule",
            "--drain-timeout",
            "0",
            "--kill-grace",
            "1",
            script="signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + TALKS,
        )
        first.send(signal.SIGTERM)
        assert await first.exit_code() == 1
        assert first.lines_with("Then any worker may take it again.")
        assert first.lines_with("Cut off 1 flow run: offered to any worker again.")
        assert not lives(site.process())
        assert await site.prefect.state_name(run) in {"AwaitingRetry", "Late"}
        site.prefect.go()
        second = await site.worker()
        await site.prefect.reached(run, "Completed", second)
        assert await second.stop() == 0
        assert len(site.prefect.noted("pid")) == 2
        assert site.files() == []

    async def test_crashed_run_leaves_nothing(self, launch: Launcher, site: Site) -> None:
        first, run = await site.running("--drain-timeout", "0")
        assert await first.stop() == 1
        assert await site.prefect.state_name(run) == "Crashed"
        assert first.lines_with("Cut off 1 flow run: reported as crashed.")
        assert site.files() == []

    async def test_nothing_is_left_where_no_ledger_can_be_kept(self, launch: Launcher, site: Site) -> None:
        file = site.prefect.directory / "file"
        file.touch()
        worker, run = await site.running(
            "--on-shutdown", "leave", "--drain-timeout", "0", "--ledger", file / "ledgers"
        )
        assert await worker.stop() == 1
        assert worker.lines_with(
            "Stopping 1 flow run now, since the next worker would not know of it: SIGTERM"
        )
        assert await site.prefect.state_name(run) == "Crashed"

    @pytest.mark.parametrize("policy", ["crash", "reschedule", "leave"])
    async def test_stop_without_runs_is_a_good_end(self, launch: Launcher, site: Site, policy: str) -> None:
        worker = await site.worker("--on-shutdown", policy)
        assert await worker.stop() == 0
        assert not worker.lines_with("Cut off")


class TestWhoseRunsTheyAre:
    async def test_worker_of_the_same_name_takes_over_from_one_that_is_killed_in_its_drain(
        self, launch: Launcher, site: Site
    ) -> None:
        """A rolling restart: the second is there before the first one goes."""
        first, run = await site.running()
        second = await site.worker()
        assert len(site.locks()) == 2
        first.send(signal.SIGTERM)
        await first.line_with("Received SIGTERM: taking no more flow runs")
        assert "goes on in process" not in second.output
        await site.kill(first)
        await second.line_with("goes on in process")
        site.prefect.go()
        await site.prefect.reached(run, "Completed", second)
        assert await second.stop() == 0

    async def test_worker_without_a_name_takes_over_from_another_one_of_its_pool(
        self, launch: Launcher, site: Site
    ) -> None:
        site.name = ""
        first, run = await site.running()
        await site.kill(first)
        second = await site.worker()
        await second.line_with("goes on in process")
        site.prefect.go()
        await site.prefect.reached(run, "Completed", second)
        assert await second.stop() == 0

    async def test_worker_of_another_name_does_not(self, launch: Launcher, site: Site) -> None:
        first, run = await site.running()
        await site.kill(first)
        site.name = "another"
        second = await site.worker()
        with patience_for("its first heartbeat", second):
            while "another" not in await site.prefect.online(site.pool):  # noqa: ASYNC110 - nothing tells us
                await trio.sleep(0.1)
        assert "Taking up" not in second.output
        site.prefect.go()
        await site.prefect.reached(run, "Completed", second)
        assert await second.stop() == 0
        await launch.all_gone()
        launch.forget_temporary_files()

    async def test_worker_that_stood_still_goes_on_with_its_runs(self, launch: Launcher, site: Site) -> None:
        first, run = await site.running()
        first.send(signal.SIGSTOP)
        second = await site.worker()
        site.prefect.go()
        await site.prefect.reached(run, "Completed", second)
        first.send(signal.SIGCONT)
        assert await first.stop() == 0
        assert await second.stop() == 0
        assert "Taking up" not in first.output + second.output
        assert await site.prefect.state_name(run) == "Completed"

    async def test_process_of_the_same_number_is_a_stranger_after_the_machine_was_started_anew(
        self, launch: Launcher, site: Site
    ) -> None:
        first, run = await site.running()
        await site.kill(first)

        def before_the_boot(entry: dict[str, Any]) -> None:
            details = json.loads(entry["trace"][1])
            details["machine"]["boot"] = "another"
            entry["trace"][1] = json.dumps(details)

        (file,) = site.files()
        rewrite(file, before_the_boot)
        second = await site.worker()
        assert "how, nobody knows" in await site.prefect.reached(run, "Crashed", second)
        assert lives(site.process())
        assert await second.stop() == 0
        site.kill_process()
        await launch.all_gone()


class TestWhereItIs:
    async def test_directory_is_private_and_gone_when_nothing_is_in_it(
        self, launch: Launcher, site: Site
    ) -> None:
        worker, run = await site.running()
        (file,) = site.files()
        for path in (file.parent, file):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        site.prefect.go()
        await site.prefect.reached(run, "Completed", worker)
        assert await worker.stop() == 0
        assert list(site.ledgers.iterdir()) == []

    async def test_option_says_where(self, launch: Launcher, site: Site, tmp_path: Path) -> None:
        default, site.ledgers = site.ledgers, tmp_path / "elsewhere"
        first, run = await site.running("--ledger", site.ledgers)
        await site.kill(first)
        assert len(site.files()) == 1
        assert not default.exists()
        second = await site.worker("--ledger", site.ledgers)
        await second.line_with("goes on in process")
        site.prefect.go()
        await site.prefect.reached(run, "Completed", second)
        assert await second.stop() == 0

    async def test_without_one_nobody_takes_over(self, launch: Launcher, site: Site) -> None:
        first, run = await site.running("--no-ledger")
        assert not site.ledgers.exists()
        await site.kill(first)
        second = await site.worker()
        assert "Taking up" not in second.output
        site.prefect.go()
        await site.prefect.reached(run, "Completed", second)
        assert await second.stop() == 0
        await launch.all_gone()
        launch.forget_temporary_files()

    async def test_where_and_nowhere_is_a_contradiction(self, launch: Launcher, tmp_path: Path) -> None:
        refused = await launch("start", "-p", "pool", "--ledger", tmp_path, "--no-ledger")
        assert await refused.exit_code() != 0
        assert refused.lines_with("--ledger says where, and --no-ledger that there is to be none")

    async def test_one_that_cannot_be_kept_is_said_once_and_the_worker_works(
        self, launch: Launcher, site: Site
    ) -> None:
        file = site.prefect.directory / "file"
        file.touch()
        worker = await site.worker("--ledger", file / "ledgers")
        for _ in range(3):
            await site.prefect.reached(await site.run(COMPLETES), "Completed", worker)
        assert await worker.stop() == 0
        (line,) = worker.lines_with("No ledger can be kept")
        assert "Not a directory" in line


FLOW = """
import os, pathlib, time
from prefect import flow

here = pathlib.Path(HERE)

def note(name, *words):
    with open(here / name, "a") as file:
        print(*words, file=file)

def crashed(flow, flow_run, state):
    note("hook", flow_run.name, state.name)

@flow(log_prints=True, on_crashed=[crashed])
def talk():
    note("pid", os.getpid())
    print("before")
    while not (here / "go").exists():
        time.sleep(0.05)
    print("after")
"""


class TestStockFlow:
    """A flow of Prefect's, in a process that was forked from the worker's template, or has supervised itself."""

    @pytest.fixture(params=["--warm-start", "--no-warm-start"])
    def start(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    async def running(self, site: Site, *options: str) -> tuple[Command, str]:
        """A worker, and a run that has logged something."""
        (site.prefect.directory / "talking.py").write_text(f"HERE = {str(site.prefect.directory)!r}\n{FLOW}")
        deployment = await site.prefect.deployment(
            site.pool, path=str(site.prefect.directory), entrypoint="talking.py:talk"
        )
        run = await site.prefect.run(deployment)
        worker = await site.worker(*options)
        await site.prefect.reached(run, "Running", worker)
        await worker.line_with("before")
        return worker, run

    async def test_is_adopted_and_completes(self, launch: Launcher, site: Site, start: str) -> None:
        first, run = await self.running(site, start)
        await site.kill(first)
        second = await site.worker(start)
        await second.line_with("goes on in process")
        site.prefect.go()
        await site.prefect.reached(run, "Completed", second)
        await first.line_with("after")
        await site.prefect.logged(run, "before", "goes on in process", "after")
        assert await second.stop() == 0

    async def test_is_left_adopted_and_cancelled(self, launch: Launcher, site: Site, start: str) -> None:
        first, run = await self.running(site, start, "--on-shutdown", "leave", "--drain-timeout", "0")
        assert await first.stop() == 0
        second = await site.worker(start)
        await second.line_with("goes on in process")
        await site.prefect.cancel(run)
        with patience_for("the cancellation", second):
            # Its engine hears no more of what is intended, and takes it for a crash at first.
            while await site.prefect.state_name(run) != "Cancelled":  # noqa: ASYNC110 - nothing tells us
                await trio.sleep(0.05)
        assert not lives(site.process())
        assert await second.stop() == 0

    async def test_is_told_that_it_is_rescheduled(self, launch: Launcher, site: Site, start: str) -> None:
        first, run = await self.running(site, start, "--on-shutdown", "reschedule", "--drain-timeout", "0")
        assert await first.stop() == 1
        assert "Crashed" not in await site.states(run)
        site.prefect.go()
        second = await site.worker(start)
        await site.prefect.reached(run, "Completed", second)
        assert await second.stop() == 0
        assert len(site.prefect.noted("pid")) == 2

    async def test_has_its_hooks_called_by_the_next_worker(
        self, launch: Launcher, site: Site, start: str
    ) -> None:
        first, run = await self.running(site, start)
        await site.kill(first)
        site.kill_process()
        second = await site.worker(start)
        await site.prefect.reached(run, "Crashed", second)
        with patience_for("the hook", second):
            while not (site.prefect.directory / "hook").exists():  # noqa: ASYNC110 - nothing tells us
                await trio.sleep(0.05)
        assert site.prefect.noted("hook")[0][1] == "Crashed"
        assert await second.stop() == 0


class TestFunctions:
    async def test_call_ends_with_its_worker_and_the_next_one_says_so(
        self, launch: Launcher, site: Site
    ) -> None:
        site.pool = await site.prefect.pool(type="trio")
        deployment = await site.prefect.deployment(site.pool)
        flow_name = (await site.prefect.call("GET", f"deployments/{deployment}"))["name"]
        (launch._directory / "calls.py").write_text(
            f"import trio, trioworker\n\napp = trioworker.TrioFlows()\n\n\n@app.flow(name={flow_name!r})\n"
            "async def wait() -> None:\n    await trio.sleep_forever()\n"
        )
        run = await site.prefect.run(deployment)
        first = await site.worker("--flows", "calls:app")
        await site.prefect.reached(run, "Running", first)
        await site.kill(first)
        second = await site.worker("--flows", "calls:app")
        message = await site.prefect.reached(run, "Crashed", second)
        assert "worker 'the-worker', which had started it, was gone by then" in message
        assert await second.stop() == 0
