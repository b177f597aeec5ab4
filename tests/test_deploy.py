"""The files in `deploy/` fit the worker, and each other, and are what systemd and Kubernetes can read."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import asyncclick as click
import attrs
import pytest
import trio
import yaml
from command import SCRIPT, free_port, serve_stub
from deploy_files import (
    COMPOSE,
    COMPOSE_SETTINGS,
    DEPLOY,
    DOCKERFILE,
    DROP_IN,
    IMAGE,
    KUBERNETES,
    README,
    UNIT,
    UNIT_SETTINGS,
    assignments,
    compose_service,
    container,
    entry_point,
    image_environment,
    instructions,
    kubernetes_documents,
    last_instruction,
    pod,
    readme_commands,
    stops,
    unit_entries,
)
from documentation import ROOT
from support import settings

from trioworker.command.cli import start
from trioworker.config import WorkerConfig
from trioworker.settings import Settings

# Seconds that a machine may take beyond the worker's own bound.
MARGIN = 10

WORKERS = sorted(stops())
WORKLOADS = ("Deployment", "StatefulSet")
EXAMPLES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())


async def config_of(arguments: list[str], directory: Path) -> WorkerConfig:
    """What the command makes of its arguments, without being run."""
    name, *options = arguments
    assert name == start.name
    context = click.Context(start, info_name=name)
    await start.parse_args(context, options)
    known = {field.name for field in attrs.fields(WorkerConfig)}
    given = {
        option: value for option, value in context.params.items() if option in known and value is not None
    }
    return WorkerConfig(settings=settings({}, directory), **given)


def default_bound(directory: Path) -> float:
    return WorkerConfig(pool="pool", settings=settings({}, directory)).stop_bound


class TestTimes:
    @pytest.mark.parametrize("name", WORKERS)
    async def test_whoever_stops_a_worker_waits_until_it_is_gone(self, name: str, tmp_path: Path) -> None:
        stop = stops()[name]
        config = await config_of(stop.arguments, tmp_path)
        assert stop.grace >= config.stop_bound + MARGIN

    def test_the_words_beside_the_numbers_say_the_same(self, tmp_path: Path) -> None:
        bound = default_bound(tmp_path)
        beside = [UNIT, COMPOSE, *(path for path in KUBERNETES if path.name == "deployment.yaml")]
        for path in beside:
            assert f"which are {bound:g} s by default" in prose(path), path
        assert f"the worker's {bound:g} s" in prose(DOCKERFILE)
        assert f"a worker is gone within {bound:g} s" in prose(README)

    def test_the_table_says_what_the_files_say(self) -> None:
        rows = [line.split("|") for line in README.read_text().splitlines() if " s |" in line]
        said = {row[1].strip(): row[3].strip() for row in rows}
        graces = {name: f"{stop.grace:g} s" for name, stop in stops().items()}
        assert said == {
            "systemd": graces["systemd"],
            "Docker, Podman": graces["compose"],
            "Kubernetes": graces["Deployment"],
        }
        assert graces["podman run"] == graces["compose"]
        assert graces["StatefulSet"] == graces["Deployment"]
        assert f"--stop-timeout {stops()['compose'].grace:g}" in DOCKERFILE.read_text()


def prose(path: Path) -> str:
    """A text without what breaks its lines."""
    return " ".join(path.read_text().replace("#", " ").split())


class TestCommands:
    @pytest.mark.parametrize("name", WORKERS)
    async def test_a_worker_keeps_its_name(self, name: str, tmp_path: Path) -> None:
        """And it is a command that can be called so; an option that does not exist would be refused."""
        first = await config_of(stops()[name].arguments, tmp_path)
        again = await config_of(stops()[name].arguments, tmp_path)
        assert first.name == again.name

    async def test_an_option_that_does_not_exist_is_found_out(self, tmp_path: Path) -> None:
        with pytest.raises(click.NoSuchOption):
            await config_of(["start", "--pool", "my-pool", "--patience", "40"], tmp_path)

    def test_options_that_cannot_be_understood_are_not_tried_again(self) -> None:
        assert dict(unit_entries(UNIT.read_text()))["RestartPreventExitStatus"] == str(
            click.UsageError.exit_code
        )

    def test_the_image_starts_the_worker_without_a_shell(self) -> None:
        assert entry_point()[-1] == "trioworker"
        assert json.loads(last_instruction("CMD"))[0] == start.name
        assert last_instruction("STOPSIGNAL") == "SIGTERM"

    def test_the_image_is_made_of_what_is_there(self) -> None:
        copied = [
            given.split()[:-1] for known, given in instructions(DOCKERFILE.read_text()) if known == "COPY"
        ]
        assert copied
        for name in [name for names in copied for name in names]:
            assert (ROOT / name).exists(), name
        (extra,) = re.findall(r"\.whl\)\[(\w+)\]", DOCKERFILE.read_text())
        assert (
            extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        )


class TestSettings:
    def test_every_setting_is_one_that_the_worker_reads(self) -> None:
        known = {
            declaration.name for field in attrs.fields(Settings) for declaration in field.metadata.values()
        }
        unit = [value for key, value in unit_entries(UNIT.read_text()) if key == "Environment"]
        used = {
            *(name for text in unit for name in assignments(text)),
            *(assignments(UNIT_SETTINGS.read_text()).keys() - {"TRIOWORKER_OPTIONS"}),
            *assignments(COMPOSE_SETTINGS.read_text()),
            *compose_service()["environment"],
            *kubernetes_documents()["ConfigMap"]["data"],
            *(image_environment().keys() - {"PYTHONUNBUFFERED"}),
        }
        assert {"PREFECT_HOME", "PREFECT_API_URL", "PREFECT_API_KEY"} <= used
        assert used <= known

    @pytest.mark.parametrize("name", WORKERS)
    def test_nothing_secret_is_an_argument(self, name: str) -> None:
        assert not re.search("key|auth|secret|token", " ".join(stops()[name].arguments), re.IGNORECASE)

    def test_the_home_of_a_worker_outlives_it(self) -> None:
        home = image_environment()["PREFECT_HOME"]
        assert [volume.partition(":")[2] for volume in compose_service()["volumes"]] == [home]
        for kind in WORKLOADS:
            (mount,) = container(kind)["volumeMounts"]
            assert mount["mountPath"] == home
        unit = list(unit_entries(UNIT.read_text()))
        state = dict(unit)["StateDirectory"].split()[-1]
        assert ("Environment", f"PREFECT_HOME=%S/{state}") in unit

    def test_health_is_asked_for_where_it_is_served(self, tmp_path: Path) -> None:
        port = settings({}, tmp_path).worker_webserver_port
        assert f":{port}/health" in compose_service()["healthcheck"]["test"][-1]
        for kind in WORKLOADS:
            there = container(kind)
            (served,) = there["ports"]
            assert served == {"name": there["readinessProbe"]["httpGet"]["port"], "containerPort": port}
            assert f", {port}, " in there["livenessProbe"]["exec"]["command"][-1]

    @pytest.mark.parametrize("name", WORKERS)
    async def test_health_is_served_where_it_is_asked_for(self, name: str, tmp_path: Path) -> None:
        config = await config_of(stops()[name].arguments, tmp_path)
        assert config.with_healthcheck == (name in {"compose", *WORKLOADS})


@pytest.mark.process
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
class TestUnit:
    def test_systemd_understands_it(self, tmp_path: Path) -> None:
        assert complaints(tmp_path, UNIT.read_text()) == ""

    def test_systemd_understands_the_drop_in(self, tmp_path: Path) -> None:
        assert complaints(tmp_path, UNIT.read_text(), DROP_IN.read_text()) == ""

    @pytest.mark.parametrize(
        ("right", "wrong", "complaint"),
        [
            ("KillMode=mixed", "KillMode=gentle", "kill mode specification, ignoring: gentle"),
            ("TimeoutStopSec=", "TimeoutStop=", "Unknown key 'TimeoutStop'"),
            ("/trioworker start", "/no-worker start", "/no-worker is not executable"),
        ],
    )
    def test_what_it_does_not_understand_is_found_out(
        self, tmp_path: Path, right: str, wrong: str, complaint: str
    ) -> None:
        assert complaint in complaints(tmp_path, UNIT.read_text().replace(right, wrong))

    def test_the_drop_in_changes_what_the_unit_says(self) -> None:
        unit, drop_in = dict(unit_entries(UNIT.read_text())), dict(unit_entries(DROP_IN.read_text()))
        assert drop_in
        for key, value in drop_in.items():
            assert unit[key] != value


def complaints(directory: Path, unit: str, drop_in: str | None = None) -> str:
    """What systemd has to say about a unit of which there is an instance."""
    path = directory / "trioworker@my-pool.service"
    path.write_text(unit.replace("/opt/trioworker/bin/trioworker", SCRIPT[0]))
    if drop_in is not None:
        (directory / "trioworker@.service.d").mkdir()
        (directory / "trioworker@.service.d" / DROP_IN.name).write_text(drop_in)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return verified.stdout + verified.stderr


class TestKubernetes:
    @pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
    def test_files_keep_to_the_schema(self, path: Path) -> None:
        documents = list(yaml.safe_load_all(path.read_text()))
        assert documents
        for document in documents:
            keep_to_schema(document)

    def test_what_is_not_in_the_schema_is_found_out(self) -> None:
        deployment = kubernetes_documents()["Deployment"]
        deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 40
        with pytest.raises(Exception, match="terminationGracePeriod"):
            keep_to_schema(deployment)

    @pytest.mark.parametrize("kind", WORKLOADS)
    def test_a_workload_finds_its_pods(self, kind: str) -> None:
        spec = kubernetes_documents()[kind]["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]

    @pytest.mark.parametrize("kind", WORKLOADS)
    def test_a_pod_has_what_it_names(self, kind: str) -> None:
        documents, there = kubernetes_documents(), container(kind)
        (mount,) = there["volumeMounts"]
        if kind == "Deployment":
            (volume,) = pod(kind)["volumes"]
            assert (
                volume["persistentVolumeClaim"]["claimName"]
                == (documents["PersistentVolumeClaim"]["metadata"]["name"])
            )
        else:
            volume = documents[kind]["spec"]["volumeClaimTemplates"][0]["metadata"]
        assert volume["name"] == mount["name"]
        assert there["envFrom"][0]["configMapRef"]["name"] == documents["ConfigMap"]["metadata"]["name"]
        assert (there["image"], compose_service()["image"]) == (IMAGE, IMAGE)

    @pytest.mark.parametrize("kind", WORKLOADS)
    def test_a_pod_is_the_user_of_the_image(self, kind: str) -> None:
        security = pod(kind)["securityContext"]
        assert f"{security['runAsUser']}:{security['runAsGroup']}" == last_instruction("USER")

    def test_no_two_pods_share_a_home(self) -> None:
        documents = kubernetes_documents()
        deployment = documents["Deployment"]["spec"]
        assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
        (template,) = documents["StatefulSet"]["spec"]["volumeClaimTemplates"]
        for claim in (documents["PersistentVolumeClaim"], template):
            assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]

    def test_both_kinds_of_pods_are_alike(self) -> None:
        """But for what makes a name stay the same."""
        alike = [without_identity(pod(kind)) for kind in WORKLOADS]
        assert alike[0] == alike[1]


def without_identity(spec: dict[str, Any]) -> dict[str, Any]:
    (there,) = spec["containers"]
    arguments: list[str] = there["args"]
    del arguments[arguments.index("--name") + 1]
    there.pop("env", None)
    spec.pop("hostname", None)
    spec.pop("volumes", None)
    return spec


def keep_to_schema(document: dict[str, Any]) -> None:
    """Raise if an object is not as Kubernetes wants it, from the first version that has all that is used."""
    # A hundred megabytes of schemas, for four objects that hardly ever change: too much to have everybody install.
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="there are no schemas here: pip install kubernetes-validate"
    )
    for version in ("1.29", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.process
class TestProbes:
    async def test_a_worker_without_its_api_is_alive_but_not_well(self) -> None:
        unwell = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}"
        assert await probe(unwell) == {"Deployment": 0, "StatefulSet": 0, "compose": 1}

    async def test_a_worker_that_polls_is_both(self) -> None:
        well = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
        assert await probe(well) == {"Deployment": 0, "StatefulSet": 0, "compose": 0}

    async def test_a_worker_that_hangs_is_neither(self) -> None:
        """It has a port still, and the kernel takes connections for it."""
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen()
            assert await ask(deaf.getsockname()[1]) == {"Deployment": 1, "StatefulSet": 1, "compose": 1}

    async def test_a_worker_that_is_gone_is_neither(self) -> None:
        assert await ask(free_port()) == {"Deployment": 1, "StatefulSet": 1, "compose": 1}


async def probe(answer: bytes) -> dict[str, int]:
    """The exit codes of all probes that are commands, for a worker that answers so."""
    async with trio.open_nursery() as nursery:
        stub = await nursery.start(partial(serve_stub, answer))
        codes = await ask(int(stub.url.rpartition(":")[2].partition("/")[0]))
        nursery.cancel_scope.cancel()
    return codes


async def ask(port: int) -> dict[str, int]:
    """The exit codes of all probes that are commands, for a worker at a port."""
    commands = {kind: container(kind)["livenessProbe"]["exec"]["command"] for kind in WORKLOADS}
    commands["compose"] = compose_service()["healthcheck"]["test"][1:]
    codes: dict[str, int] = {}
    for name, (program, option, code) in commands.items():
        assert (program, option) == ("python", "-c")
        # Nobody shall wait as long for one that hangs.
        there = code.replace("8080", str(port)).replace("timeout=8", "timeout=1")
        done = await trio.run_process(
            [sys.executable, "-c", there], check=False, capture_stdout=True, capture_stderr=True
        )
        codes[name] = done.returncode
    return codes


class TestReadme:
    def test_it_names_every_file(self) -> None:
        linked = set(re.findall(r"\]\(([^)]+)\)", README.read_text()))
        own = {link for link in linked if not link.startswith("../")}
        assert own == {path.relative_to(DEPLOY).as_posix() for path in EXAMPLES if path != README}

    def test_the_files_that_are_typed_exist(self) -> None:
        typed = [word for words in readme_commands() for word in words if word.startswith("deploy/")]
        made_by_the_reader = {"deploy/docker/worker.env"}
        assert typed
        for word in typed:
            assert word in made_by_the_reader or (ROOT / word).is_file(), word

    def test_settings_with_keys_are_for_their_owner_alone(self) -> None:
        """Whatever is made of an example of settings, is made so."""
        made = [words for words in readme_commands() if any(".env.example" in word for word in words)]
        assert len(made) == len([path for path in EXAMPLES if path.name.endswith(".env.example")])
        for words in made:
            assert words[0] == "install"
            assert words[words.index("-m") + 1] == "0600"
