"""Flows that write down all that they find: in a flow, an async one, a task, a flow in a flow."""

import json

import probe
import seen_in_interpreter
import seen_in_libraries
import seen_in_process
from prefect import flow, task

# The modules first, since to look at other things takes further ones.
_SECTIONS = (
    seen_in_interpreter.modules,
    seen_in_process.descriptors,
    seen_in_process.relations,
    seen_in_process.kernel,
    seen_in_process.limits,
    seen_in_process.signals,
    seen_in_process.threads,
    seen_in_interpreter.module_files,
    seen_in_interpreter.system,
    seen_in_interpreter.main_module,
    seen_in_interpreter.streams,
    seen_in_interpreter.place_and_time,
    seen_in_interpreter.environment,
    seen_in_interpreter.machinery,
    seen_in_libraries.logging_tree,
    seen_in_libraries.logging_module,
    seen_in_libraries.settings,
    seen_in_libraries.prefect,
    seen_in_libraries.processes,
    seen_in_libraries.others,
)


def take() -> None:
    """Write down everything."""
    seen_in_process.settle()
    seen = {look.__name__.replace("_", " "): look() for look in _SECTIONS}
    probe.output(probe.this_run(), "snapshot").write_text(json.dumps(seen))


@task  # type: ignore[untyped-decorator]
def look_around() -> None:
    """Write down everything."""
    take()


@flow  # type: ignore[untyped-decorator]
def in_flow() -> None:
    """See what a flow sees."""
    take()
    probe.take()


@flow  # type: ignore[untyped-decorator]
async def in_async_flow() -> None:
    """See what an async flow sees."""
    take()
    probe.take()


@flow  # type: ignore[untyped-decorator]
def in_task() -> None:
    """See what a task sees."""
    look_around()
    probe.take()


@flow  # type: ignore[untyped-decorator]
def in_submitted_task() -> None:
    """See what a task sees that runs beside its flow."""
    look_around.submit().result()
    probe.take()


@flow  # type: ignore[untyped-decorator]
def in_subflow() -> None:
    """See what a flow in a flow sees."""
    in_flow()
