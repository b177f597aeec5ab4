"""How the hooks of a flow are called: never here, always in a process like the one that ran the flow."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

import attrs
import trio

from trioworker.infrastructure.process.job import ProcessJob
from trioworker.infrastructure.process.start import Origin, machine_errors_explained
from trioworker.infrastructure.process.supervisor import read_manifest
from trioworker.infrastructure.process.workspace import write_private
from trioworker.infrastructure.protocol import HookCall, InfrastructureError
from trioworker.lean_attrs import frozen

__all__ = ["HookProcess", "open_hook_process"]

_SCRIPT: Final = Path(__file__).with_name("call_hooks.py")

_OF_MANIFEST: Final = Origin(
    program="the program of the hook_command in the manifest of the workspace",
    directory="the working_directory in the manifest of the workspace",
)


@frozen(kw_only=True)
class HookProcess:
    """The process that calls the hooks, ready to be started.

    Attributes:
        command: the program and its arguments.
        environment: the whole environment of the process.
        directory: where it starts.
        origin: where its program and directory come from.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = attrs.field(repr=False)
    directory: Path
    origin: Origin


@asynccontextmanager
async def open_hook_process(python: str, job: ProcessJob, call: HookCall) -> AsyncIterator[HookProcess]:
    """Keep the documents that the process reads, for as long as it goes on.

    Args:
        python: the interpreter of the flow.
        job: the job that ran the flow, with its workspace.
        call: which hooks, and what they are told.

    Raises:
        InfrastructureFullError: there is no room for the documents just now.
        InfrastructureError: the hooks cannot be called.
    """
    process = await _hook_process(python, job, call)
    private = job.opened_workspace.private
    documents = {
        private / f"flow-run-{uuid4()}.json": call.flow_run,
        private / f"state-{uuid4()}.json": call.state,
    }
    try:
        with machine_errors_explained("what the hooks are told cannot be written"):
            for path, document in documents.items():
                await trio.to_thread.run_sync(write_private, path, json.dumps(document))
        yield attrs.evolve(process, command=(*process.command, *map(str, documents)))
    finally:
        for path in documents:
            # They go with the directory in any case.
            with suppress(OSError):
                path.unlink(missing_ok=True)


async def _hook_process(python: str, job: ProcessJob, call: HookCall) -> HookProcess:
    workspace = job.opened_workspace
    if workspace.manifest is None and not job.environment:
        raise InfrastructureError(
            "the flow was started by an earlier worker, and with what, nobody knows any more"
        )
    if workspace.manifest is None:
        return HookProcess(
            command=(python, str(_SCRIPT), call.kind),
            environment=job.environment,
            directory=workspace.root,
            origin=Origin(program=f"the interpreter {python!r}", directory="the directory of the run"),
        )
    manifest = await read_manifest(workspace.manifest)
    if manifest.hook_command is None:
        raise InfrastructureError("what runs the flow is not a Python that could call its hooks")
    return HookProcess(
        command=(*manifest.hook_command, call.kind, str(workspace.manifest)),
        environment=manifest.environment,
        directory=manifest.working_directory,
        origin=_OF_MANIFEST,
    )
