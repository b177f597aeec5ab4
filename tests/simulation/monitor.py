"""What must hold at every moment of an episode."""

from __future__ import annotations

from uuid import UUID

import attrs

from trioworker.api.models import State, StateType
from trioworker.testing.records import Run

from .machine import Machine, Process

__all__ = ["Monitor"]


@attrs.define(eq=False)
class Monitor:
    """Watches all runs and processes of an episode.

    Attributes:
        machine: where the processes are.
        violations: what must not be, in the order in which it was seen.
        history: what has happened to runs and processes, for whoever looks into a violation.
        claimed: the runs that a worker has ever claimed.
        begun: how often a body has begun, by run and claim.
        ended_as: how the last process that came to its end has said that its run ended.
        stranded: runs of which the disk did not know what a worker knew that is gone: of those less is promised.
        rescheduled: runs that somebody has scheduled anew while a process of theirs was alive.
    """

    machine: Machine
    violations: list[str] = attrs.field(factory=list)
    claimed: set[UUID] = attrs.field(factory=set)
    begun: dict[tuple[UUID, UUID | None], int] = attrs.field(factory=dict)
    ended_as: dict[UUID, str] = attrs.field(factory=dict)
    stranded: set[UUID] = attrs.field(factory=set)
    rescheduled: set[UUID] = attrs.field(factory=set)
    cancelled: set[UUID] = attrs.field(factory=set)

    def is_exempt(self, flow_run_id: UUID) -> bool:
        """Whether of a run less is promised."""
        return flow_run_id in self.stranded or flow_run_id in self.rescheduled

    def complain(self, flow_run_id: UUID, problem: str) -> None:
        """Take down what must not be."""
        if not self.is_exempt(flow_run_id):
            self.violations.append(f"run {str(flow_run_id)[:8]}: {problem}")

    def state_changed(self, run: Run) -> None:
        """A state was recorded."""
        state, flow_run_id = run.state, run.public.id
        of_worker = state.state_details.transition_id is not None
        if of_worker and state.type is StateType.PENDING and state.label == "Pending":
            self.claimed.add(flow_run_id)
        alive = self.machine.alive_of(flow_run_id)
        if run.waits_for_worker and alive and of_worker:
            self.complain(flow_run_id, f"offered as {state.label} while {_described(alive)} lives")
        leaders = [process for process in alive if process.leader is None and process.released.is_set()]
        if of_worker and state.type.is_final and leaders:
            self.complain(
                flow_run_id, f"ended as {state.label} by a worker while {_described(leaders)} lives"
            )
        if of_worker and state.type is StateType.CRASHED and self.ended_as.get(flow_run_id) is not None:
            self.complain(flow_run_id, f"ended as {state.label}, though it was {self.ended_as[flow_run_id]}")

    def started(self, process: Process) -> None:
        """A process was started that leads a group."""
        others = [each for each in self.machine.alive_of(process.flow_run_id) if each is not process]
        if others:
            self.complain(
                process.flow_run_id, f"process {process.pid} was started while {_described(others)} lives"
            )

    def body_begins(self, run: Run | None, process: Process) -> None:
        """A process executes the body of its run from now on."""
        flow_run_id = process.flow_run_id
        claim = None if run is None else last_claim(run.states)
        number = self.begun[flow_run_id, claim] = self.begun.get((flow_run_id, claim), 0) + 1
        if number > 1:
            self.complain(flow_run_id, f"begun {number} times for one claim")
        if (end := self.ended_as.get(flow_run_id)) is not None:
            self.complain(flow_run_id, f"begun once more after it was {end}")

    def reported(self, process: Process, name: str) -> None:
        """A process has come to its run's end, or to a rest."""
        process.reported = name
        if name != "Suspended":
            self.ended_as[process.flow_run_id] = name


def last_claim(states: list[State]) -> UUID | None:
    """The transition id of a run's last claim."""
    for state in reversed(states):
        if state.type is StateType.PENDING and state.label == "Pending":
            return state.state_details.transition_id
    return None


def _described(processes: list[Process]) -> str:
    return ", ".join(
        f"process {process.pid}" if process.leader is None else f"its child {process.pid}"
        for process in processes
    )
