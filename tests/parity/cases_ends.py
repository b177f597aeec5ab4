"""Cases about how flows end."""

from __future__ import annotations

import os
import signal

from play import Case, Play
from registry import collect

CASES: list[Case] = []
case = collect(CASES)


@case()
async def prints(play: Play) -> None:
    """Prints and log lines."""
    await play.once("plain.py:prints")


@case()
async def large_output(play: Play) -> None:
    """50 MB on standard output."""
    await play.once("plain.py:floods", megabytes=50)


@case()
async def asynchronous(play: Play) -> None:
    """An async flow."""
    await play.once("plain.py:awaits")


@case()
async def retries(play: Play) -> None:
    """A flow that succeeds at the second attempt."""
    await play.once("plain.py:retries")


@case()
async def subflow(play: Play) -> None:
    """A flow that calls another, which runs a task."""
    await play.once("plain.py:nests")


@case()
async def fails(play: Play) -> None:
    """An exception."""
    await play.once("ends.py:fails")


@case()
async def sys_exit_0(play: Play) -> None:
    """`sys.exit(0)`."""
    await play.once("ends.py:exits", code=0)


@case()
async def sys_exit_3(play: Play) -> None:
    """`sys.exit(3)`."""
    await play.once("ends.py:exits", code=3)


@case()
async def os_exit_0(play: Play) -> None:
    """`os._exit(0)`, of which nobody hears."""
    await play.once("ends.py:vanishes", code=0)


@case()
async def os_exit_3(play: Play) -> None:
    """`os._exit(3)`."""
    await play.once("ends.py:vanishes", code=3)


@case()
async def os_exit_137(play: Play) -> None:
    """`os._exit(137)`, which looks like a kill for memory."""
    await play.once("ends.py:vanishes", code=137)


@case()
async def sigsegv(play: Play) -> None:
    """SIGSEGV."""
    await play.once("ends.py:is_killed", by="SIGSEGV")


@case()
async def sigkill(play: Play) -> None:
    """SIGKILL."""
    await play.once("ends.py:is_killed", by="SIGKILL")


@case(lossy=True)
async def sigterm_from_outside(play: Play) -> None:
    """SIGTERM that is nobody's wish to cancel."""
    run = await play.schedule(await play.deploy("ends.py:waits"))
    os.kill(await play.begun(run), signal.SIGTERM)
    await play.rest(run)


@case()
async def suspended(play: Play) -> None:
    """`suspend_flow_run`."""
    await play.once("ends.py:suspends")


@case()
async def paused(play: Play) -> None:
    """`pause_flow_run`, and resumed."""
    run = await play.schedule(await play.deploy("ends.py:pauses"))
    await play.until_state(run, "PAUSED")
    await play.stage.rest.call("POST", f"flow_runs/{run}/resume")
    await play.rest(run)


@case()
async def child_left_after_success(play: Play) -> None:
    """A flow that completes while a detached child of its goes on."""
    run = await play.once("ends.py:leaves_child_behind", detached=True)
    play.remarks.append(f"children left: {len(play.children(run))}")


@case()
async def child_holds_output(play: Play) -> None:
    """A flow that completes while a child of its goes on that holds its standard error."""
    run = await play.once("ends.py:leaves_child_behind", detached=False)
    play.remarks.append(f"children left: {len(play.children(run))}")
    play.remarks.append(f"seen to its end meanwhile: {await play.is_executed(run)}")
    for child in play.children(run):
        os.kill(child, signal.SIGKILL)
    await play.rest(run)


@case()
async def child_left_after_failure(play: Play) -> None:
    """A flow that exits with an error while a child of its goes on."""
    run = await play.once("ends.py:fails_with_child")
    play.remarks.append(f"children left: {len(play.children(run))}")


@case()
async def hooks_on_completion(play: Play) -> None:
    """Completion hooks, one of which fails."""
    await play.once("hooked.py:hooked", end="well")


@case()
async def hooks_on_failure(play: Play) -> None:
    """Failure hooks."""
    await play.once("hooked.py:hooked", end="fail")


@case()
async def hooks_on_sys_exit(play: Play) -> None:
    """Crash hooks after `sys.exit(3)`."""
    await play.once("hooked.py:hooked", end="exit")


@case()
async def hooks_on_crash(play: Play) -> None:
    """Crash hooks after `os._exit(3)`."""
    await play.once("hooked.py:hooked", end="vanish")


@case()
async def hooks_on_kill(play: Play) -> None:
    """Crash hooks after SIGKILL."""
    await play.once("hooked.py:hooked", end="kill")


@case(lossy=True)
async def hooks_on_sigterm(play: Play) -> None:
    """Crash hooks after SIGTERM from outside."""
    run = await play.schedule(await play.deploy("hooked.py:hooked"), parameters={"end": "wait"})
    os.kill(await play.begun(run), signal.SIGTERM)
    await play.rest(run)


@case(cold=True)
async def hooks_on_crash_with_command(play: Play) -> None:
    """Crash hooks of a run whose command is explicit."""
    deployment = await play.deploy("hooked.py:hooked", variables={"command": "python -m prefect.engine"})
    await play.rest(await play.schedule(deployment, parameters={"end": "vanish"}))


@case()
async def hooks_on_crash_of_stand_in(play: Play) -> None:
    """Crash hooks of a run whose command is not a flow."""
    deployment = await play.deploy("hooked.py:hooked", variables={"command": "sh -c 'exit 6'"})
    await play.rest(await play.schedule(deployment, parameters={"end": "well"}))
