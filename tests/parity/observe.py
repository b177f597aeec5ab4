"""What became of a case on one side, aspect by aspect, made comparable."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import processes
from masking import Mask
from play import Play
from stage import Side, Stage, load
from starts import problem_of_start

Observation = dict[str, Any]

_WORKER_LOGGER = "prefect.flow_runs.worker"
# Of no consequence, or made by the shell or the C library.
_VOLATILE = {"PREFECT__CONTROL_PORT", "PREFECT__CONTROL_TOKEN"}
_IGNORED_VARIABLES = {"_", "SHLVL", "PWD", "OLDPWD"}
_EVENTS = ["prefect.worker.", "prefect.runner."]
_WORKER_EVENTS = ["prefect.worker.started", "prefect.worker.stopped"]


async def observe(play: Play) -> Observation:
    """All that can be seen of a case after everything has ended."""
    mask = Mask({**await _names(play.stage, play.side, [play.case.pool]), **play.names})
    seen: Observation = {}
    for number, run in enumerate(play.runs, start=1):
        about = f"run {number}: " if len(play.runs) > 1 else ""
        for aspect, value in (await _observe_run(play, run, mask)).items():
            seen[about + aspect] = value
    seen["remarks"] = mask(play.remarks)
    seen["troubles"] = mask(play.troubles)
    if spoilt := play.spoilt or problem_of_start(play):
        # With the name of the side, so that it is a difference even if it befalls both.
        seen["spoilt"] = f"{play.side.name}: {spoilt}"
    return seen


async def observe_side(
    stage: Stage, side: Side, kinds: set[str], exit_codes: Mapping[str, int]
) -> Observation:
    """All that can be seen of a side's workers after their end."""
    mask = Mask(await _names(stage, side, sorted(kinds)))
    events = await stage.rest.events(names=_WORKER_EVENTS)
    own = [event for event in events if event["resource"].get("prefect.resource.name") == side.name]
    left = (environment.get("PARITY_ROLE", "?") for environment in processes.marked(side.mark).values())
    return {
        "exit codes": {kind: exit_codes[side.pool(kind)] for kind in sorted(kinds)},
        "events": sorted(_events(own, mask), key=str),
        "processes left": sorted(left),
        "temporary files left": sorted(_temporary_name(path.name) for path in side.temporary.iterdir()),
        "working directory": sorted(path.name for path in side.home.iterdir()),
    }


async def _names(stage: Stage, side: Side, kinds: list[str]) -> dict[str, str]:
    names = {
        str(side.temporary): "TMP",
        str(side.output): "OUTPUT",
        str(side.files): "FILES",
        str(side.home): "HOME",
        str(side.directory): "SIDE",
        str(stage.flows): "FLOWS",
        str(stage.directory): "STAGE",
        stage.rest.url: "API-URL",
        stage.gate.url: "API-URL",
        stage.rest.url.removesuffix("/api"): "SERVER-URL",
        stage.gate.url.removesuffix("/api"): "SERVER-URL",
        side.name: "WORKER",
        side.mark: "MARK",
        " --no-warm-start": "",
        " --warm-start": "",
    }
    for kind in kinds:
        pool = side.pool(kind)
        found = await stage.rest.call("GET", f"work_pools/{pool}")
        workers = await stage.rest.call("POST", f"work_pools/{pool}/workers/filter", {})
        names |= {pool: "POOL", found["id"]: "POOL-ID", found["default_queue_id"]: "QUEUE-ID"}
        names |= {worker["id"]: "WORKER-ID" for worker in workers}
    return names


async def _observe_run(play: Play, run: str, mask: Mask) -> Observation:
    rest = play.stage.rest
    found = await rest.run(run)
    log = await rest.log(run)
    events = await rest.events(about=f"prefect.flow-run.{run}", names=_EVENTS)
    taken = load(play.file(run, "probe"))
    notes = play.file(run, "notes")
    seen: Observation = {
        "worker log": [_line(line, mask) for line in log if line["name"] == _WORKER_LOGGER],
        "other log": sorted(_line(line, mask) for line in log if line["name"] != _WORKER_LOGGER),
        "events": _events(events, mask),
        "notes": [mask.text(line) for line in notes.read_text().splitlines()] if notes.exists() else [],
    }
    if play.case.lossy:
        del seen["other log"]
    if found is None:
        seen["state"] = "deleted"
    else:
        seen |= {
            "state": f"{found['state_type']} {found['state_name']}",
            "message": mask.text(found["state"]["message"] or ""),
            # How late a run begins says only how busy the machine is.
            "history": [state["name"] for state in await rest.history(run) if state["name"] != "Late"],
            "labels": mask(found["labels"]),
            "infrastructure_pid": "set" if found["infrastructure_pid"] else "not set",
        }
    if taken is not None:
        outside = play.stage.environment(play.side)
        seen |= {
            "environment": _environment(taken["environment"], outside, mask),
            "process": {
                name: mask(taken[name])
                for name in (
                    "directory",
                    "files",
                    "arguments",
                    "executable",
                    "path",
                    "sigterm",
                    "standard_input",
                )
            },
            "process group": "leads its own" if taken["leads_its_group"] else "shares that of the worker",
        }
    seen["output"] = [mask.text(text) for text in _output(play, run)]
    for section, found_there in (load(play.file(run, "snapshot")) or {}).items():
        seen[f"snapshot of {section}"] = mask(found_there)
    return seen


def _output(play: Play, run: str) -> list[str]:
    """The texts that a run has marked as its own and written to what is the worker's output."""
    log = (play.side.directory / f"worker-{play.case.pool}.log").read_text(errors="backslashreplace")
    return re.findall(rf"<<{run}\|([^>]*)>>", log)


def _temporary_name(name: str) -> str:
    """A name without the part that `tempfile` makes up."""
    return re.sub(r"(?<=tmp)\w{8}|(?<=[-_])\w{8}(?=[-_.]|$)", "*", name)


def _line(line: dict[str, Any], mask: Mask) -> list[str]:
    return [line["name"], str(line["level"]), mask.text(line["message"])]


def _environment(inside: dict[str, str], outside: dict[str, str], mask: Mask) -> dict[str, str | None]:
    """What is otherwise in the environment of a flow than in that of the worker; None is not there."""
    changed: dict[str, str | None] = {}
    for name in sorted((inside.keys() | outside.keys()) - _IGNORED_VARIABLES):
        value = _as_read(name, inside.get(name))
        if value != _as_read(name, outside.get(name)):
            changed[name] = "(set)" if name in _VOLATILE and value else mask(value)
    if (path := changed.get("PYTHONPATH")) is not None:
        changed["PYTHONPATH"] = " ".join(path.split(os.pathsep))
    return changed


def _as_read(name: str, value: str | None) -> str | None:
    """A setting of Prefect's as it is read, however it is written: `True` is `true`, and `2.0` is `2`."""
    if value is None or not name.startswith("PREFECT_"):
        return value
    if value.lower() in {"true", "false"}:
        return value.lower()
    try:
        return f"{float(value):g}"
    except ValueError:
        return value


def _events(events: list[dict[str, Any]], mask: Mask) -> list[dict[str, Any]]:
    names = {event["id"]: event["event"] for event in events}
    return [
        {
            "event": event["event"],
            "resource": mask(event["resource"]),
            "related": sorted((_resource(resource, mask) for resource in event["related"]), key=str),
            "payload": mask(event["payload"]),
            "follows": names.get(event["follows"], event["follows"] and "something else"),
        }
        for event in events
    ]


def _resource(resource: dict[str, str], mask: Mask) -> dict[str, str]:
    masked: dict[str, str] = mask(resource)
    if masked.get("prefect.infrastructure.identifier", "").isdecimal():
        masked["prefect.infrastructure.identifier"] = "a number"
    return dict(sorted(masked.items()))
