"""How `trioworker start` ends: on signals, at once or after its runs, and what becomes of those."""

from __future__ import annotations

import signal
import time

import command
import pytest
from command import AT_ONCE, COMPLETES, WAITS, Command, Launcher, Prefect, free_port

launch = command.launch
prefect = command.prefect

pytestmark = pytest.mark.process

# With a child that no SIGTERM ends, nor the script itself once that child is there.
STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "300"])
become('RUNNING')
child.wait()
"""

# With a child that SIGTERM ends, as it does the script.
COMPLIANT = """
child = subprocess.Popen(["sleep", "300"])
become('RUNNING')
child.wait()
"""


async def start_with_run(
    launch: Launcher, prefect: Prefect, script: str, *options: str, terminal: bool = False
) -> tuple[Command, str]:
    """A worker with a run that is Running."""
    pool = await prefect.pool()
    run = await prefect.run(await prefect.deployment(pool, script))
    worker = await launch.worker("-p", pool, *options, api=prefect.url, terminal=terminal)
    await prefect.reached(run, "Running", worker)
    return worker, run


async def start_idle(
    launch: Launcher, prefect: Prefect, *, ignored: signal.Signals | None = None
) -> tuple[Command, str]:
    """A worker without runs, and its pool."""
    pool = await prefect.pool()
    return await launch.worker("-p", pool, api=prefect.url, ignored=ignored), pool


class TestFirstSignal:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    async def test_running_flow_is_completed(
        self, launch: Launcher, prefect: Prefect, number: signal.Signals
    ) -> None:
        worker, run = await start_with_run(launch, prefect, WAITS)
        worker.send(number)
        await worker.line_with(
            f"Received {number.name}: taking no more flow runs, and waiting up to 20 s for 1 flow run to end."
        )
        assert await prefect.state_name(run) == "Running"
        prefect.go()
        assert await worker.exit_code() == 0
        assert await prefect.state_name(run) == "Completed"
        assert launch.processes() == []
        assert worker.output.splitlines()[-1].endswith("stopped!")

    async def test_nothing_new_is_begun_during_the_drain_but_the_heart_beats_on(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        pool = await prefect.pool()
        deployment = await prefect.deployment(pool, WAITS)
        first = await prefect.run(deployment)
        worker = await launch.worker("-p", pool, api=prefect.url, PREFECT_WORKER_HEARTBEAT_SECONDS="1")
        await prefect.reached(first, "Running", worker)
        worker.send(signal.SIGTERM)
        await worker.line_with("Received SIGTERM")
        late = await prefect.run(deployment)
        # From one heartbeat to the next there would be a poll, if there still were any.
        for _ in range(2):
            await prefect.next_heartbeat(pool)
        prefect.go()
        assert await worker.exit_code() == 0
        assert await prefect.state_name(first) == "Completed"
        assert await prefect.state_name(late) == "Scheduled"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_idle_worker_ends_at_once(
        self, launch: Launcher, prefect: Prefect, number: signal.Signals
    ) -> None:
        worker, _ = await start_idle(launch, prefect)
        begin = time.monotonic()
        worker.send(number)
        assert await worker.exit_code() == 0
        assert time.monotonic() - begin < AT_ONCE
        assert worker.lines_with(f"Received {number.name}: stopping; no flow run is going on.")

    async def test_waiting_for_the_api_is_ended_at_once(self, launch: Launcher) -> None:
        worker = await launch("start", "-p", "any", api=f"http://127.0.0.1:{free_port()}/api")
        await worker.line_with("The Prefect API does not answer")
        begin = time.monotonic()
        assert await worker.stop() == 0
        assert time.monotonic() - begin < AT_ONCE
        assert "started!" not in worker.output

    async def test_start_of_a_local_server_is_ended_with_it(self, launch: Launcher) -> None:
        worker = await launch("start", "-p", "any", "--local-server")
        await worker.line_with("Starting a local Prefect server")
        assert await worker.stop() == 0
        assert launch.processes() == []
        assert "started!" not in worker.output

    async def test_ctrl_c_at_a_terminal_does_not_reach_the_flow(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        script = "signal.signal(signal.SIGINT, lambda *_: note('interrupted'))\n" + WAITS
        worker, run = await start_with_run(launch, prefect, script, terminal=True)
        await worker.type("\x03")
        await worker.line_with("Received SIGINT: taking no more flow runs")
        prefect.go()
        assert await worker.exit_code() == 0
        assert await prefect.state_name(run) == "Completed"
        assert not (prefect.directory / "interrupted").exists()


class TestInheritedSignals:
    async def test_hangup_is_ignored_under_nohup(self, launch: Launcher, prefect: Prefect) -> None:
        worker, pool = await start_idle(launch, prefect, ignored=signal.SIGHUP)
        worker.send(signal.SIGHUP)
        run = await prefect.run(await prefect.deployment(pool, COMPLETES))
        await prefect.reached(run, "Completed", worker)
        assert await worker.stop() == 0
        assert "SIGHUP" not in worker.output

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_worker_in_the_background_of_a_script_can_be_stopped(
        self, launch: Launcher, prefect: Prefect, number: signal.Signals
    ) -> None:
        worker, _ = await start_idle(launch, prefect, ignored=signal.SIGINT)
        worker.send(number)
        assert await worker.exit_code() == 0
        assert worker.lines_with(f"Received {number.name}")


class TestFurtherSignals:
    async def test_second_signal_ends_the_runs_within_the_kill_grace(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        worker, run = await start_with_run(launch, prefect, STUBBORN, "--kill-grace", "1")
        worker.send(signal.SIGTERM)
        await worker.line_with("Received SIGTERM: taking no more flow runs")
        begin = time.monotonic()
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 1
        assert 1 <= time.monotonic() - begin < 1 + AT_ONCE
        assert launch.processes() == []
        assert "was stopped before the flow run had ended" in await prefect.reached(run, "Crashed")
        assert worker.lines_with("Stopping 1 flow run now: SIGTERM, and SIGKILL after 1 s.")

    async def test_second_signal_need_not_wait_for_the_grace_of_a_run_that_complies(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        worker, run = await start_with_run(launch, prefect, COMPLIANT, "--kill-grace", "30")
        worker.send(signal.SIGINT)
        await worker.line_with("Received SIGINT: taking no more flow runs")
        begin = time.monotonic()
        worker.send(signal.SIGINT)
        assert await worker.exit_code() == 1
        assert time.monotonic() - begin < AT_ONCE
        assert launch.processes() == []
        await prefect.reached(run, "Crashed")

    async def test_third_signal_kills_at_once(self, launch: Launcher, prefect: Prefect) -> None:
        worker, _ = await start_with_run(launch, prefect, STUBBORN, "--kill-grace", "30")
        worker.send(signal.SIGTERM)
        await worker.line_with("Received SIGTERM: taking no more flow runs")
        worker.send(signal.SIGTERM)
        await worker.line_with("Stopping 1 flow run now")
        begin = time.monotonic()
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 1
        assert time.monotonic() - begin < AT_ONCE
        assert launch.processes() == []
        assert worker.lines_with("Received SIGTERM once more: killing 1 flow run and leaving.")


class TestDrainTimeout:
    async def test_runs_that_outlast_it_are_ended(self, launch: Launcher, prefect: Prefect) -> None:
        worker, run = await start_with_run(
            launch, prefect, STUBBORN, "--drain-timeout", "0.5", "--kill-grace", "0.5"
        )
        begin = time.monotonic()
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 1
        assert 1 <= time.monotonic() - begin < 1 + AT_ONCE
        assert launch.processes() == []
        await prefect.reached(run, "Crashed")

    async def test_no_drain_ends_them_at_once(self, launch: Launcher, prefect: Prefect) -> None:
        worker, run = await start_with_run(
            launch, prefect, STUBBORN, "--drain-timeout", "0", "--kill-grace", "0"
        )
        begin = time.monotonic()
        worker.send(signal.SIGTERM)
        assert await worker.exit_code() == 1
        assert time.monotonic() - begin < AT_ONCE
        assert launch.processes() == []
        await prefect.reached(run, "Crashed")


class TestLostOutput:
    @pytest.mark.parametrize("terminal", [False, True])
    async def test_run_is_completed_when_nobody_reads_any_more(
        self, launch: Launcher, prefect: Prefect, *, terminal: bool
    ) -> None:
        """As in `trioworker start | head`, or when the window of the terminal is closed."""
        worker, run = await start_with_run(launch, prefect, WAITS, terminal=terminal)
        worker.hang_up()
        if not terminal:  # to whom its terminal's end has come as a SIGHUP
            worker.send(signal.SIGTERM)
        prefect.go()
        assert await worker.exit_code() == 0
        assert await prefect.state_name(run) == "Completed"
        assert launch.processes() == []


class TestKilledWorker:
    async def test_flow_that_prints_is_completed_all_the_same(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        script = (
            "become('RUNNING')\nwait_for('go')\n"
            "for number in range(2000): print('line', number, flush=True)\nbecome('COMPLETED')"
        )
        worker, run = await start_with_run(launch, prefect, script)
        worker.send(signal.SIGKILL)
        assert await worker.exit_code() == -signal.SIGKILL
        prefect.go()
        await prefect.reached(run, "Completed", worker)
        await worker.line_with("line 1999")
        await launch.all_gone()
        launch.forget_temporary_files()


class TestCancellation:
    async def test_cancelled_run_and_its_children_are_gone(self, launch: Launcher, prefect: Prefect) -> None:
        worker, run = await start_with_run(launch, prefect, COMPLIANT)
        own = [process for process in launch.processes() if process.split()[0] == str(worker.pid)]
        await prefect.cancel(run)
        await prefect.reached(run, "Cancelled", worker)
        assert launch.processes() == own
        assert await worker.stop() == 0

    async def test_run_can_be_cancelled_during_the_drain(self, launch: Launcher, prefect: Prefect) -> None:
        worker, run = await start_with_run(launch, prefect, COMPLIANT)
        worker.send(signal.SIGTERM)
        await worker.line_with("Received SIGTERM: taking no more flow runs")
        await prefect.cancel(run)
        assert await worker.exit_code() == 0
        assert await prefect.state_name(run) == "Cancelled"
        assert launch.processes() == []


class TestInheritedChildSignal:
    async def test_exit_status_of_runs_is_known_though_sigchld_was_inherited_as_ignored(
        self, launch: Launcher, prefect: Prefect
    ) -> None:
        """Else the kernel would reap the processes of runs before anybody has asked how they ended."""
        pool = await prefect.pool()
        run = await prefect.run(await prefect.deployment(pool, "become('RUNNING')\nsys.exit(3)"))
        worker = await launch.worker("-p", pool, api=prefect.url, ignored=signal.SIGCHLD)
        assert "status code: 3" in await prefect.reached(run, "Crashed", worker)
        assert await worker.stop() == 0
