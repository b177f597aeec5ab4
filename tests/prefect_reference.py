"""A program: what Prefect itself makes of job configurations and environments, in a process of its own.

It reads a JSON object of lists from standard input and writes what Prefect made of each to standard output, in JSON.
"""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace
from typing import Any
from unittest import mock
from uuid import UUID

import anyio
import prefect.runner._starter_engine as engine_module
import prefect.workers.base as base_module
from prefect.client.schemas.objects import Flow, FlowRun
from prefect.runner._starter_engine import EngineCommandStarter
from prefect.runner._workspace_starter import WorkspaceResolvingEngineCommandStarter
from prefect.workers.process import ProcessJobConfiguration


def configuration(fields: dict[str, Any]) -> dict[str, Any]:
    """What a job configuration becomes, or that it is refused."""
    try:
        made = ProcessJobConfiguration(**fields)
    except Exception as error:  # noqa: BLE001
        return {"refused": type(error).__name__}
    working_dir = None if made.working_dir is None else str(made.working_dir.resolve())
    return {
        "command": made.command,
        "env": made.env,
        "stream_output": made.stream_output,
        "working_dir": working_dir,
    }


def environment(case: dict[str, Any]) -> dict[str, str]:
    """What the process of a flow run finds in its environment."""
    settings = SimpleNamespace(to_environment_variables=lambda **_: case["settings"])
    with (
        mock.patch.dict(os.environ, case["worker"], clear=True),
        mock.patch.object(base_module, "get_current_settings", return_value=settings),
        mock.patch.object(engine_module, "get_current_settings", return_value=settings),
        mock.patch.object(engine_module, "run_process", mock.AsyncMock()) as run_process,
    ):
        flow_run, starter = _prepare(case)
        anyio.run(starter.start, flow_run)
        made: dict[str, str] = run_process.call_args.kwargs["env"]
        return made


def _prepare(case: dict[str, Any]) -> tuple[Any, Any]:
    """Do as `ProcessWorker.run` does up to the start of the process."""
    names = case["attribution"]
    flow_run = FlowRun(
        id=UUID(names["PREFECT__FLOW_RUN_ID"]),
        name="red-fox",
        flow_id=UUID(names["PREFECT__FLOW_ID"]),
        deployment_id=UUID(names["PREFECT__DEPLOYMENT_ID"]),
    )
    job = ProcessJobConfiguration(command=case["command"], env=case["job"])
    job.prepare_for_flow_run(
        flow_run,
        SimpleNamespace(id=flow_run.deployment_id, name=names["PREFECT__DEPLOYMENT_NAME"], updated=None),
        Flow(id=flow_run.flow_id, name=names["PREFECT__FLOW_NAME"]),
        worker_name=names["PREFECT__WORKER_NAME"],
        worker_id=UUID(names["PREFECT__WORKER_ID"]),
    )
    if case["command"] is not None:
        return flow_run, EngineCommandStarter(command=job.command, env=job.env)
    starter = WorkspaceResolvingEngineCommandStarter(
        workspace_root=engine_module.Path("/nowhere"), environment=job.env
    )
    return flow_run, starter


def main() -> None:
    """Answer."""
    questions = json.load(sys.stdin)
    answers = {
        "configurations": [configuration(fields) for fields in questions.get("configurations", [])],
        "environments": [environment(case) for case in questions.get("environments", [])],
    }
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
