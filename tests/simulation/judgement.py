"""What must hold in the end, when all faults are over and everything had its time."""

from __future__ import annotations

from collections.abc import Iterator

from trioworker.api.models import StateType
from trioworker.testing.records import Run

from .world import World

__all__ = ["open_questions"]


def open_questions(world: World) -> list[str]:
    """What is not as it must be in the end; nothing if all is well."""
    return [*_of_runs(world), *_of_processes(world), *_of_workers(world)]


def _of_runs(world: World) -> Iterator[str]:
    for run in world.server._runs.values():
        if not world.monitor.is_exempt(run.public.id) and not _has_come_to_its_end(world, run):
            yield f"run {str(run.public.id)[:4]} is left {run.state.label}"
        if world.monitor.is_exempt(run.public.id):
            continue
        reported = world.monitor.ended_as.get(run.public.id)
        overruled = run.state.type is StateType.CANCELLED and run.public.id in world.monitor.cancelled
        if reported is not None and run.state.label != reported and not overruled:
            yield f"run {str(run.public.id)[:4]} was {reported}, but is {run.state.label}"
        if run.state.type is StateType.CANCELLED and run.public.id not in world.monitor.cancelled:
            yield f"run {str(run.public.id)[:4]} is Cancelled, though nobody has wished so"


def _has_come_to_its_end(world: World, run: Run) -> bool:
    # Those of which nobody knows keep their slots.
    waits = run.state.label == "AwaitingConcurrencySlot" and bool(world.monitor.stranded)
    return run.state.type.is_final or run.state.label == "Suspended" or waits


def _of_processes(world: World) -> Iterator[str]:
    for leader in world.machine.leaders:
        run = world.server._runs.get(leader.flow_run_id)
        if world.monitor.is_exempt(leader.flow_run_id):
            continue
        # What a run has started may go on after a good end.
        well_ended = run is None or leader.reported in {"Completed", "Suspended"}
        # Nobody finds what is left of a process that has ended before anybody knew its number.
        well_ended |= not leader.noted
        if leader.lives or not well_ended:
            state = "deleted" if run is None else run.state.label
            what = "the process" if leader.lives else "a child of the process"
            yield f"{what} {leader.pid} of run {str(leader.flow_run_id)[:4]} lives, which is {state}"


def _of_workers(world: World) -> Iterator[str]:
    alive = world.alive
    if len(alive) != 1:
        yield f"{len(alive)} workers live"
    for incarnation in alive:
        worker = incarnation.worker
        if worker.runs_in_hand:
            yield f"worker {incarnation.number} has {worker.runs_in_hand} runs in hand"
        if worker.status().free != world.limit:
            yield f"worker {incarnation.number} has {worker.status().free} free slots of {world.limit}"
        ledger = incarnation.owner.ledger
        if ledger is None:
            yield f"worker {incarnation.number} has not come to open its ledger"
        elif ledger.entries:
            yield f"the ledger of worker {incarnation.number} holds {len(ledger.entries)} entries"
    if world.keeps_ledger and world.directory.entries:
        yield f"{len(world.directory.entries)} entries are on the disk"
