"""The work pools that each side has, and their base job templates."""

from __future__ import annotations

from typing import Any

import attrs

# A template that has something of its own at every place, and accepts job variables of any type.
_LOOSE_TEMPLATE: dict[str, Any] = {
    "job_configuration": {
        "command": "{{ command }}",
        "env": "{{ env }}",
        "labels": "{{ labels }}",
        "name": "{{ name }}",
        "stream_output": "{{ stream_output }}",
        "working_dir": "{{ working_dir }}",
    },
    "variables": {
        "type": "object",
        "properties": {name: {"title": name} for name in ("command", "env", "labels", "name", "working_dir")}
        | {"stream_output": {"type": "boolean", "default": True}},
    },
}
_LEVELS_TEMPLATE: dict[str, Any] = {
    "job_configuration": {
        "command": "{{ command }}",
        "env": {
            "PARITY_FIXED": "fixed by the template",
            "PARITY_RENDERED": "a {{ flavour }} one, {{ flavour }} as can be",
            "PARITY_HOST": "{{ $PARITY_FROM_WORKER }}",
            "PARITY_NOWHERE": "{{ nowhere }}",
            "PARITY_NUMBER": "{{ number }}",
        },
        "labels": "{{ labels }}",
        "name": "{{ name }}",
        "stream_output": "{{ stream_output }}",
        "working_dir": "{{ working_dir }}",
    },
    "variables": {
        "type": "object",
        "properties": {
            "command": {"type": "string"},
            "env": {
                "type": "object",
                "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "default": {"PARITY_A": "template", "PARITY_B": "template", "PARITY_C": "template"},
            },
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "name": {"type": "string"},
            "stream_output": {"type": "boolean", "default": True},
            "working_dir": {"type": "string"},
            "flavour": {"type": "string", "default": "sweet"},
            "number": {"type": "integer", "default": 7},
            # The server wants whatever is used to be declared.
            "nowhere": {"type": "string"},
            "$PARITY_FROM_WORKER": {"type": "string"},
        },
    },
}


@attrs.frozen
class PoolKind:
    """A work pool that each side has.

    Attributes:
        template: its base job template; None for the one that a worker brings.
        options: further options of its workers.
        environment: further variables of theirs.
    """

    template: dict[str, Any] | None = None
    options: tuple[str, ...] = ()
    environment: dict[str, str] = attrs.field(factory=dict)


POOLS = {
    "main": PoolKind(),
    "levels": PoolKind(template=_LEVELS_TEMPLATE),
    "loose": PoolKind(template=_LOOSE_TEMPLATE),
    # A value that is no UTF-8.
    "odd": PoolKind(environment={"PARITY_BYTES": "\udcff\udcfe"}),
    "narrow": PoolKind(options=("--limit", "1")),
}
