"""Flows with much to do: many tasks, results that are kept, tasks that nobody waits for."""

import asyncio
import os
import random
import time
from pathlib import Path

import probe
from prefect import flow, task

# To no effect, since Prefect has read its settings long before; and it shall have none on anybody else.
os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
os.environ["PREFECT_RESULTS_PERSIST_BY_DEFAULT"] = "true"


@task  # type: ignore[untyped-decorator]
def square(number: int) -> int:
    """A task for a thread."""
    time.sleep(random.random() / 100)  # noqa: S311 - not about secrets
    return number * number


@task  # type: ignore[untyped-decorator]
async def cube(number: int) -> int:
    """A task for the event loop."""
    await asyncio.sleep(random.random() / 100)  # noqa: S311 - the same
    return number**3


@flow  # type: ignore[untyped-decorator]
def has_many_tasks(count: int) -> None:
    """Run many tasks in threads."""
    probe.take()
    total = sum(square.map(range(count)).result())
    probe.note(probe.this_run(), f"total: {total}")


@flow  # type: ignore[untyped-decorator]
async def awaits_many_tasks(count: int) -> None:
    """Run many tasks in the event loop."""
    probe.take()
    total = sum(await asyncio.gather(*(cube(number) for number in range(count))))
    probe.note(probe.this_run(), f"total: {total}")


@task(persist_result=True)  # type: ignore[untyped-decorator]
def secret() -> int:
    """A task whose result is kept."""
    return 42


@flow(persist_result=True)  # type: ignore[untyped-decorator]
def keeps_results() -> int:
    """Keep results, and find them again instead of computing them."""
    probe.take()
    state = secret(return_state=True)
    kept = state.data.metadata if hasattr(state.data, "metadata") else None
    probe.note(
        probe.this_run(), f"kept: {state.result()}, {type(state.data).__name__}, {type(kept).__name__}"
    )
    probe.note(probe.this_run(), f"once more: {secret(return_state=True).name}")
    storage = Path(os.environ["PREFECT_HOME"]) / "storage"
    probe.note(probe.this_run(), f"stored: {storage.is_dir()}")
    return 7


@flow  # type: ignore[untyped-decorator]
async def leaves_a_task() -> None:
    """Do not wait for a task of the event loop."""
    probe.take()
    run = probe.this_run()

    async def goes_on() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            probe.note(run, "the task was ended")

    leaves_a_task.kept = asyncio.create_task(goes_on())
    await asyncio.sleep(0)


@flow  # type: ignore[untyped-decorator]
async def waits() -> None:
    """Wait in the event loop until told to go on."""
    run = probe.this_run()
    probe.flush_log()
    probe.take()
    try:
        while not probe.output(run, "go").exists():  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.05)
    finally:
        probe.note(run, "the flow was ended")
