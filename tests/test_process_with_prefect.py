"""Flow runs and hooks in processes of Prefect's own, with a real server. Each run costs seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import attrs
import pytest
import trio
from conftest import PrefectServer

from trioworker.api.models import FlowRun
from trioworker.infrastructure.process.infrastructure import ProcessInfrastructure
from trioworker.infrastructure.protocol import Assignment, HookCall, InfrastructureError
from trioworker.settings import Settings

pytestmark = pytest.mark.process

PATIENCE = 180.0

# The module beside it has the name of one of ours, which a hook must not be given instead.
REGISTRY = "WHO = 'of the flow'"

FLOW = """
import os, pathlib, signal, time
from prefect import flow

import registry

here = pathlib.Path(__file__).parent

def note(*words):
    with open(os.environ["NOTES"], "a") as file:
        print(*words, file=file)

def told(kind, flow, flow_run, state):
    same_place = os.getcwd() == str(here)
    note(kind, flow.name, flow_run.name, state.name, registry.WHO, os.environ["OF_JOB"], same_place)

def on_cancellation(flow, flow_run, state):
    told("cancellation", flow, flow_run, state)

async def on_crashed(flow, flow_run, state):
    told("crashed", flow, flow_run, state)

def broken(flow, flow_run, state):
    raise RuntimeError("this hook is broken")

@flow(on_cancellation=[broken, on_cancellation], on_crashed=[broken, on_crashed])
def watched(end: str):
    note("run", os.getcwd() == str(here), registry.WHO)
    if end == "wait":
        os.write(os.open(os.environ["PIPE"], os.O_WRONLY), b"r")
        time.sleep(600)
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@attrs.frozen
class Stage:
    """A deployment of the flow, and the infrastructure that runs it."""

    server: PrefectServer
    directory: Path
    where: ProcessInfrastructure
    deployment_id: str
    pipe: int

    async def flow_run(self, end: str) -> UUID:
        run = await self.server.acall(
            "POST",
            f"deployments/{self.deployment_id}/create_flow_run",
            {"name": "red-fox", "parameters": {"end": end}},
        )
        return UUID(run["id"])

    def assignment(self, run_id: UUID, **configuration: Any) -> Assignment:
        env = {"NOTES": str(self.directory / "notes"), "PIPE": str(self.directory / "pipe"), "OF_JOB": "1"}
        return Assignment(
            flow_run=FlowRun(id=run_id, name="red-fox", flow_id=uuid4()),
            flow_name="hunt",
            name="red-fox",
            labels={},
            configuration={"env": env, **configuration},
            environment={},
        )

    async def call(self, run_id: UUID, kind: Any, state: str) -> HookCall:
        document = await self.server.acall("GET", f"flow_runs/{run_id}")
        return HookCall(
            kind=kind,
            flow_run=document,
            state={"type": state.upper(), "name": state, "message": "for a test"},
        )

    async def state(self, run_id: UUID) -> str:
        document = await self.server.acall("GET", f"flow_runs/{run_id}")
        return str(document["state"]["name"])

    async def log(self, run_id: UUID) -> list[str]:
        lines = await self.server.acall(
            "POST", "logs/filter", {"logs": {"flow_run_id": {"any_": [str(run_id)]}}, "sort": "TIMESTAMP_ASC"}
        )
        # What follows is a traceback, if anything.
        return [line["message"].partition("\n")[0] for line in lines]

    @property
    def notes(self) -> list[str]:
        return (self.directory / "notes").read_text().splitlines()


@pytest.fixture
def stage(prefect_server: PrefectServer, tmp_path: Path) -> Any:
    code = tmp_path / "code"
    code.mkdir()
    (code / "flow.py").write_text(FLOW)
    (code / "registry.py").write_text(REGISTRY)
    flow = prefect_server.call("POST", "flows/", {"name": "watched"})
    deployment = prefect_server.call(
        "POST",
        "deployments/",
        {
            "name": f"process-{uuid4()}",
            "flow_id": flow["id"],
            "entrypoint": "flow.py:watched",
            "path": str(code),
            "parameter_openapi_schema": {"type": "object", "properties": {"end": {"type": "string"}}},
        },
    )
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    settings = Settings.load(prefect_server.environment | {"PREFECT_LOGGING_LEVEL": "INFO"}, tmp_path)
    yield Stage(prefect_server, tmp_path, ProcessInfrastructure(settings, 5.0), deployment["id"], pipe)
    os.close(pipe)


async def test_flow_is_fetched_and_run_in_its_own_process_and_says_how_it_ended(stage: Stage) -> None:
    run_id = await stage.flow_run("well")
    with trio.fail_after(PATIENCE):
        async with stage.where.open_workspace(stage.where.prepare(stage.assignment(run_id))) as job:
            outcome = await stage.where.run(job)
    assert await stage.state(run_id) == "Completed"
    assert outcome.message == "Flow run reported how it ended."
    assert stage.notes == ["run True of the flow"]
    assert any("Downloading flow code from storage" in line for line in await stage.log(run_id))


async def test_flow_that_is_cancelled_leaves_its_state_to_the_worker_which_calls_its_hooks(
    stage: Stage,
) -> None:
    run_id = await stage.flow_run("wait")
    with trio.fail_after(PATIENCE):
        async with stage.where.open_workspace(stage.where.prepare(stage.assignment(run_id))) as job:
            async with trio.open_nursery() as nursery:
                identifier = await nursery.start(stage.where.run, job)
                await trio.lowlevel.wait_readable(stage.pipe)
                await stage.server.acall(
                    "POST", f"flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}, "force": True}
                )
                await stage.where.kill(identifier, 30, intent="cancel")
            await stage.where.run_hooks(job, await stage.call(run_id, "cancellation", "Cancelling"))
    assert await stage.state(run_id) == "Cancelling"
    assert stage.notes[1:] == ["cancellation watched red-fox Cancelling of the flow 1 True"]
    assert "An error was encountered while running hook 'broken'" in await stage.log(run_id)


async def test_hooks_of_a_flow_with_a_command_are_called_in_its_directory_and_environment(
    stage: Stage,
) -> None:
    run_id = await stage.flow_run("kill")
    assignment = stage.assignment(run_id, command=f"{sys.executable} -m prefect.engine")
    with trio.fail_after(PATIENCE):
        async with stage.where.open_workspace(stage.where.prepare(assignment)) as job:
            outcome = await stage.where.run(job)
            await stage.where.run_hooks(job, await stage.call(run_id, "crashed", "Crashed"))
    assert outcome.status_code == -9
    assert stage.notes[1:] == ["crashed watched red-fox Crashed of the flow 1 True"]
    log = await stage.log(run_id)
    assert "Running hook 'broken' in response to entering state 'Crashed'" in log
    assert "An error was encountered while running hook 'broken'" in log
    assert "Hook 'on_crashed' finished running successfully" in log


async def test_flow_that_cannot_be_loaded_has_no_hooks_to_call(stage: Stage) -> None:
    run_id = await stage.flow_run("well")
    (stage.directory / "code" / "flow.py").write_text("raise RuntimeError('no flow here')")
    with trio.fail_after(PATIENCE):
        async with stage.where.open_workspace(
            stage.where.prepare(stage.assignment(run_id, command="true"))
        ) as job:
            with pytest.raises(InfrastructureError, match="ended with status 1"):
                await stage.where.run_hooks(job, await stage.call(run_id, "crashed", "Crashed"))
