"""Cases about runs that are cancelled, deleted, or held back."""

from __future__ import annotations

import os
import signal
import time

import trio
from play import Case, Play
from registry import collect

CASES: list[Case] = []
case = collect(CASES)


@case(early=True)
async def cancelled_while_scheduled(play: Play) -> None:
    """Cancelled before there was a worker."""
    run = await play.schedule(await play.deploy("plain.py:plain"))
    await play.cancel(run)
    await play.workers()
    await play.rest(run)


@case(early=True)
async def cancelling_while_pending(play: Play) -> None:
    """Claimed by a worker that is gone, without infrastructure, and cancelled."""
    run = await play.schedule(await play.deploy("plain.py:plain"))
    await play.become(run, "PENDING")
    await play.cancel(run)
    play.remarks.append(f"at first: {(await play.state(run))[1]}")
    await play.workers()
    await play.rest(run)


@case(early=True)
async def cancelling_with_infrastructure(play: Play) -> None:
    """Claimed by a worker that is gone, with an infrastructure of its, and cancelled."""
    run = await play.schedule(await play.deploy("plain.py:plain"))
    await play.become(run, "PENDING")
    # No process can have this number.
    await play.stage.rest.call("PATCH", f"flow_runs/{run}", {"infrastructure_pid": "99999999"})
    await play.cancel(run)
    play.remarks.append(f"at first: {(await play.state(run))[1]}")
    await play.workers()
    await play.rest(run)


@case()
async def cancelled_in_foreign_hands(play: Play) -> None:
    """Claimed by somebody else, without infrastructure, and cancelled while there is a worker."""
    run = await play.schedule(await play.deploy("plain.py:plain"), ahead=3600)
    await play.become(run, "PENDING")
    await play.cancel(run)
    await play.rest(run)


@case()
async def cancelled_in_foreign_infrastructure(play: Play) -> None:
    """Claimed by somebody else, with an infrastructure of theirs, and cancelled while there is a worker."""
    run = await play.schedule(await play.deploy("plain.py:plain"), ahead=3600)
    await play.become(run, "PENDING")
    await play.stage.rest.call("PATCH", f"flow_runs/{run}", {"infrastructure_pid": "99999999"})
    await play.cancel(run)
    await play.rest(run)


@case("narrow")
async def cancelled_at_the_limit(play: Play) -> None:
    """Cancelled while it waits for the worker's only slot."""
    deployment = await play.deploy("ends.py:waits")
    first = await play.schedule(deployment)
    await play.begun(first)
    second = await play.schedule(deployment)
    await play.cancel(second)
    third = await play.schedule(deployment)
    play.let_go(first)
    await play.begun(third)
    play.let_go(third)
    await play.rest(first, second, third)


@case()
async def cancelled_while_running(play: Play) -> None:
    """Cancelled while it runs."""
    run = await play.schedule(await play.deploy("ends.py:waits"))
    await play.begun(run)
    await play.cancel(run)
    await play.rest(run)


@case()
async def cancelled_with_hooks(play: Play) -> None:
    """Cancellation hooks."""
    run = await play.schedule(await play.deploy("hooked.py:hooked"), parameters={"end": "wait"})
    await play.begun(run)
    await play.cancel(run)
    await play.rest(run)


@case(cold=True)
async def cancelled_with_hooks_and_command(play: Play) -> None:
    """Cancellation hooks of a run whose command is explicit."""
    deployment = await play.deploy("hooked.py:hooked", variables={"command": "python -m prefect.engine"})
    run = await play.schedule(deployment, parameters={"end": "wait"})
    await play.begun(run)
    await play.cancel(run)
    await play.rest(run)


@case(slow=True)
async def cancelled_with_stubborn_child(play: Play) -> None:
    """Cancelled, with a child that ignores SIGTERM."""
    run = await play.schedule(await play.deploy("ends.py:has_stubborn_child"))
    await play.begun(run)
    asked = time.monotonic()
    await play.cancel(run)
    await play.rest(run)
    seconds = time.monotonic() - asked
    play.remarks.append("over after " + ("about half a minute" if seconds > 25 else "a moment"))
    play.remarks.append(f"children left: {len(play.children(run))}")


@case(slow=True)
async def cancelled_while_ignoring_sigterm(play: Play) -> None:
    """Cancelled, while the flow itself ignores SIGTERM."""
    run = await play.schedule(await play.deploy("ends.py:ignores_sigterm"))
    await play.begun(run)
    await play.cancel(run)
    await play.rest(run)


@case()
async def cancelled_bare_command(play: Play) -> None:
    """Cancelled, while its command is no flow."""
    deployment = await play.deploy("plain.py:plain", variables={"command": "sleep 600"})
    run = await play.schedule(deployment)
    with play.patience("the command to have started"):
        while not (await play.stage.rest.call("GET", f"flow_runs/{run}"))["infrastructure_pid"]:  # noqa: ASYNC110
            await trio.sleep(0.2)
    await play.cancel(run)
    await play.rest(run)


@case()
async def cancelled_by_force(play: Play) -> None:
    """Set to Cancelled at once while it runs, and then let go."""
    run = await play.schedule(await play.deploy("ends.py:waits"))
    await play.begun(run)
    await play.become(run, "CANCELLED")
    play.let_go(run)
    await play.rest(run)


@case(early=True)
async def deployment_deleted_before_the_claim(play: Play) -> None:
    """A deployment that is deleted before there is a worker."""
    deployment = await play.deploy("plain.py:plain")
    run = await play.schedule(deployment)
    await play.delete(f"deployments/{deployment}")
    await play.workers()
    await play.rest(run)


@case()
async def deployment_deleted_while_running(play: Play) -> None:
    """A deployment that is deleted while its flow runs."""
    deployment = await play.deploy("ends.py:waits")
    run = await play.schedule(deployment)
    await play.begun(run)
    await play.delete(f"deployments/{deployment}")
    play.let_go(run)
    await play.rest(run)


@case()
async def deployment_deleted_then_cancelled(play: Play) -> None:
    """A deployment that is deleted while its flow runs, which is cancelled then."""
    deployment = await play.deploy("ends.py:waits")
    run = await play.schedule(deployment)
    await play.begun(run)
    await play.delete(f"deployments/{deployment}")
    await play.cancel(run)
    await play.rest(run)


@case()
async def run_deleted_while_running(play: Play) -> None:
    """A run that is deleted while it runs."""
    run = await play.schedule(await play.deploy("ends.py:waits"))
    await play.begun(run)
    # What is in the log by then is deleted with the run.
    await play.logged(run, "submitted to infrastructure", "Beginning flow run")
    await play.delete(f"flow_runs/{run}")
    play.let_go(run)
    await play.rest(run)


@case()
async def run_deleted_then_crashed(play: Play) -> None:
    """A run that is deleted while it runs, and whose process fails then."""
    run = await play.schedule(await play.deploy("hooked.py:hooked"), parameters={"end": "wait"})
    pid = await play.begun(run)
    # What is in the log by then is deleted with the run.
    await play.logged(run, "submitted to infrastructure", "Beginning flow run")
    await play.delete(f"flow_runs/{run}")
    os.kill(pid, signal.SIGKILL)
    await play.rest(run)


@case(slow=True)
async def deployment_concurrency_limit(play: Play) -> None:
    """Two runs of a deployment that may have one at a time."""
    deployment = await play.deploy("ends.py:waits", concurrency_limit=1)
    first = await play.schedule(deployment)
    await play.begun(first)
    second = await play.schedule(deployment)
    await play.until_state(second, "AwaitingConcurrencySlot")
    play.let_go(first)
    play.let_go(second)
    await play.begun(second)
    await play.rest(first, second)


@case()
async def deployment_concurrency_cancels_new(play: Play) -> None:
    """The same, where whatever is too much is cancelled."""
    deployment = await play.deploy(
        "ends.py:waits", concurrency_limit=1, concurrency_options={"collision_strategy": "CANCEL_NEW"}
    )
    first = await play.schedule(deployment)
    await play.begun(first)
    second = await play.schedule(deployment)
    await play.until_state(second, "CANCELLED")
    play.let_go(first)
    await play.rest(first, second)


@case()
async def deployment_deleted_after_the_poll(play: Play) -> None:
    """A deployment that is deleted when the worker has just heard of its run."""
    deployment = await play.deploy("plain.py:plain")

    async def delete(_: str) -> None:
        await play.delete(f"deployments/{deployment}")

    play.stage.gate.at_poll[deployment] = delete
    await play.rest(await play.schedule(deployment))


@case()
async def deployment_deleted_after_the_claim(play: Play) -> None:
    """A deployment that is deleted when the worker has just claimed its run."""
    deployment = await play.deploy("plain.py:plain")

    async def delete(_: str) -> None:
        await play.delete(f"deployments/{deployment}")

    play.stage.gate.at_claim[deployment] = delete
    await play.rest(await play.schedule(deployment))


@case()
async def run_deleted_after_the_poll(play: Play) -> None:
    """A run that is deleted when the worker has just heard of it."""
    deployment = await play.deploy("plain.py:plain")

    async def delete(run: str) -> None:
        await play.delete(f"flow_runs/{run}")

    play.stage.gate.at_poll[deployment] = delete
    await play.rest(await play.schedule(deployment))


@case()
async def run_deleted_after_the_claim(play: Play) -> None:
    """A run that is deleted when the worker has just claimed it."""
    deployment = await play.deploy("plain.py:plain")

    async def delete(run: str) -> None:
        await play.delete(f"flow_runs/{run}")

    play.stage.gate.at_claim[deployment] = delete
    await play.rest(await play.schedule(deployment))


@case()
async def cancelled_after_the_poll(play: Play) -> None:
    """A run that is cancelled when the worker has just heard of it."""
    deployment = await play.deploy("plain.py:plain")
    play.stage.gate.at_poll[deployment] = play.cancel
    await play.rest(await play.schedule(deployment))


@case()
async def cancelled_after_the_claim(play: Play) -> None:
    """A run that is cancelled when the worker has just claimed it."""
    deployment = await play.deploy("plain.py:plain")
    play.stage.gate.at_claim[deployment] = play.cancel
    await play.rest(await play.schedule(deployment))
