"""Reads the files in `deploy/`: which command each starts, and how long it waits when it stops that."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import yaml
from documentation import ROOT, examples_in

DEPLOY = ROOT / "deploy"
README = DEPLOY / "README.md"
UNIT = DEPLOY / "systemd" / "trioworker@.service"
DROP_IN = DEPLOY / "systemd" / "leave-runs.conf"
UNIT_SETTINGS = DEPLOY / "systemd" / "trioworker.env.example"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
COMPOSE = DEPLOY / "docker" / "compose.yaml"
COMPOSE_SETTINGS = DEPLOY / "docker" / "worker.env.example"
KUBERNETES = tuple(sorted((DEPLOY / "kubernetes").glob("*.yaml")))

IMAGE = "trioworker:1"

_ASSIGNMENT = re.compile(r"#?([A-Z_]+)=(.*)")
_SECONDS = re.compile(r"(\d+)s?")
_PUT_IN = re.compile(r"%\w|\$\(\w+\)")


def _with_what_is_put_in(words: list[str]) -> list[str]:
    return [_PUT_IN.sub("it", word) for word in words]


@attrs.frozen
class Stop:
    """A command that somebody starts, and stops again.

    Attributes:
        arguments: those of `trioworker`, something put in where systemd or Kubernetes does.
        grace: seconds between SIGTERM and SIGKILL.
    """

    arguments: list[str] = attrs.field(converter=_with_what_is_put_in)
    grace: float


def unit_entries(text: str) -> Iterator[tuple[str, str]]:
    """The keys of a unit of systemd, with their values, in order."""
    for line in text.splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            yield key, value


def assignments(text: str) -> dict[str, str]:
    """The variables of a file with settings, those included that are commented out."""
    return {found[1]: found[2] for line in text.splitlines() if (found := _ASSIGNMENT.fullmatch(line))}


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, with what each is given, in order."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in joined]


def last_instruction(name: str) -> str:
    """What the Dockerfile says with an instruction, the last time if there are several."""
    return [given for known, given in instructions(DOCKERFILE.read_text()) if known == name][-1]


def image_environment() -> dict[str, str]:
    """The environment variables that the image sets."""
    set_there = (given for known, given in instructions(DOCKERFILE.read_text()) if known == "ENV")
    return dict(given.split("=", 1) for given in set_there)


def entry_point() -> list[str]:
    """What the image starts, before arguments of its own or of others."""
    words: list[str] = json.loads(last_instruction("ENTRYPOINT"))
    return words


def compose_service() -> dict[str, Any]:
    """The worker in the compose file."""
    service: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]["worker"]
    return service


def kubernetes_documents() -> dict[str, dict[str, Any]]:
    """Every object in the Kubernetes files, by kind."""
    return {
        document["kind"]: document for path in KUBERNETES for document in yaml.safe_load_all(path.read_text())
    }


def pod(kind: str) -> dict[str, Any]:
    """The specification of the pods of a workload."""
    spec: dict[str, Any] = kubernetes_documents()[kind]["spec"]["template"]["spec"]
    return spec


def container(kind: str) -> dict[str, Any]:
    """The only container of these pods."""
    (only,) = pod(kind)["containers"]
    found: dict[str, Any] = only
    return found


def readme_commands() -> list[list[str]]:
    """What the README has its reader type, word by word."""
    blocks = examples_in(README.read_text(), README.name)
    return [shlex.split(command) for block in blocks for command in block.commands]


def stops() -> Mapping[str, Stop]:
    """Every worker that the files start, by what starts it."""
    found = {"systemd": _stop_by_systemd(), "compose": _stop_by_compose(), "podman run": _stop_by_hand()}
    return found | {kind: _stop_by_kubernetes(kind) for kind in ("Deployment", "StatefulSet")}


def _stop_by_systemd() -> Stop:
    unit = dict(unit_entries(UNIT.read_text()))
    options = assignments(UNIT_SETTINGS.read_text())["TRIOWORKER_OPTIONS"]
    program, *arguments = shlex.split(unit["ExecStart"].replace("$TRIOWORKER_OPTIONS", options))
    assert Path(program).name == "trioworker"
    return Stop(arguments, _seconds(unit["TimeoutStopSec"]))


def _stop_by_compose() -> Stop:
    service = compose_service()
    return Stop(service["command"], _seconds(service["stop_grace_period"]))


def _stop_by_hand() -> Stop:
    (words,) = (words for words in readme_commands() if words[:2] == ["podman", "run"])
    arguments = words[words.index(IMAGE) + 1 :]
    return Stop(arguments, _seconds(words[words.index("--stop-timeout") + 1]))


def _stop_by_kubernetes(kind: str) -> Stop:
    return Stop(container(kind)["args"], pod(kind)["terminationGracePeriodSeconds"])


def _seconds(text: str) -> float:
    spelled = _SECONDS.fullmatch(text)
    assert spelled is not None, f"{text!r} is no number of seconds"
    return float(spelled[1])
