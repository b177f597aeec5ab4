"""What is agreed with Prefect's workspace supervisor, which prepares a flow's code in the run's own process.

The supervisor finds in a configuration file which run it is to prepare and where. It fetches the code, leaves a
manifest of what it has prepared, and then becomes Prefect's engine. The manifest is what a flow's hooks are called
by later.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import attrs
import trio
from cattrs import BaseValidationError, Converter, transform_error

from trioworker.infrastructure.process.job import PrefectModule
from trioworker.infrastructure.process.start import machine_errors_explained
from trioworker.infrastructure.process.workspace import Workspace, write_private
from trioworker.infrastructure.protocol import InfrastructureError
from trioworker.job.json_types import type_name
from trioworker.lean_attrs import frozen

__all__ = ["Manifest", "read_manifest", "supervise", "with_manifest"]


@frozen(kw_only=True)
class Manifest:
    """What the supervisor says of a workspace that is ready.

    Attributes:
        working_directory: where the flow runs.
        hook_command: what calls a hook of the flow; None if the flow is run by something other than Python.
        environment: what the flow finds in its environment.
    """

    working_directory: Path
    hook_command: tuple[str, ...] | None
    environment: Mapping[str, str] = attrs.field(repr=False)


_MANIFEST: Final = "workspace.json"


def with_manifest(workspace: Workspace) -> Workspace:
    """A workspace that an earlier worker has left, with the manifest that is in it, if there is one."""
    manifest = workspace.private / _MANIFEST
    return attrs.evolve(workspace, manifest=manifest) if manifest.exists() else workspace


async def supervise(workspace: Workspace, flow_run_id: UUID) -> tuple[PrefectModule, Workspace]:
    """What prepares and runs a flow run, and the workspace in which it finds what it is to do.

    Raises:
        InfrastructureFullError: there is no room for that just now.
        InfrastructureError: its configuration cannot be written.
    """
    configuration = workspace.private / "supervisor.json"
    manifest = workspace.private / _MANIFEST
    document = {
        "flow_run_id": str(flow_run_id),
        "workspace_root": str(workspace.root),
        "manifest_path": str(manifest),
        "command": None,
    }
    with machine_errors_explained("the configuration of its workspace cannot be written"):
        await trio.to_thread.run_sync(write_private, configuration, json.dumps(document))
    module = PrefectModule("prefect.runner._workspace_supervisor", (str(configuration),))
    return module, attrs.evolve(workspace, manifest=manifest)


async def read_manifest(path: Path) -> Manifest:
    """What the supervisor has prepared.

    Raises:
        InfrastructureError: nothing yet, or nothing that can be understood.
    """
    try:
        with machine_errors_explained(f"the manifest {path} cannot be read"):
            text = await trio.to_thread.run_sync(_read, path)
    except InfrastructureError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise InfrastructureError("the flow run ended before its workspace was ready") from error
        raise
    # What is wrong with it is told by place and type: its values are those of the run's environment.
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_prefects("it is no JSON") from error
    try:
        return _CONVERTER.structure(document, Manifest)
    except (BaseValidationError, TypeError, ValueError, AttributeError) as error:
        raise _not_prefects("; ".join(transform_error(error, path="manifest"))) from error


def _read(path: Path) -> bytes:
    return path.read_bytes()


def _not_prefects(reason: str) -> InfrastructureError:
    return InfrastructureError(f"the manifest of its workspace is not what Prefect writes: {reason}")


def _text(value: Any, _: Any) -> str:
    # By default numbers and mappings would become text, and a text a list of its characters.
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {type_name(value)}")
    return value


def _words(value: Any, _: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not (isinstance(value, list) and value):
        raise TypeError(f"expected a list of words, got {type_name(value)}")
    return tuple(_text(word, str) for word in value)


def _make_converter() -> Converter:
    converter = Converter()
    converter.register_structure_hook(str, _text)
    converter.register_structure_hook(Path, lambda value, _: Path(_text(value, str)))
    converter.register_structure_hook(tuple[str, ...] | None, _words)
    return converter


_CONVERTER: Final = _make_converter()
