"""The base job template of the process infrastructure, with the fields of Prefect's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["DEFAULT_BASE_JOB_TEMPLATE"]


def _nullable_text(title: str, description: str, **more: str) -> dict[str, Any]:
    return {
        "anyOf": [{"type": "string", **more}, {"type": "null"}],
        "default": None,
        "description": description,
        "title": title,
    }


DEFAULT_BASE_JOB_TEMPLATE: Final[Mapping[str, Any]] = {
    "job_configuration": {
        name: f"{{{{ {name} }}}}"
        for name in ("command", "env", "labels", "name", "stream_output", "working_dir")
    },
    "variables": {
        "type": "object",
        "properties": {
            "name": _nullable_text("Name", "Name of the run's infrastructure."),
            "env": {
                "type": "object",
                "title": "Environment Variables",
                "description": "Environment variables of the flow run's process.",
                "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
            "labels": {
                "type": "object",
                "title": "Labels",
                "description": "Labels of the run's infrastructure.",
                "additionalProperties": {"type": "string"},
            },
            "command": _nullable_text(
                "Command", "What starts the flow run. Leave it empty for Prefect's engine."
            ),
            "stream_output": {
                "type": "boolean",
                "default": True,
                "title": "Stream Output",
                "description": "Whether the flow run writes to the worker's standard output, or nowhere.",
            },
            "working_dir": _nullable_text(
                "Working Directory",
                "Where the flow run's process starts. Leave it empty for a temporary directory.",
                format="path",
            ),
        },
    },
}
