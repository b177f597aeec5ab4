"""Worker types that are not there, and `--install-policy`: with real installers, a directory of wheels for an index.

Each test has an environment of its own to install into.
"""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import command
import httpx
import pytest
import trio
from command import Command, Launcher, Prefect
from wheels import KIND, Environment, make_wheel, only_from

launch = command.launch
prefect = command.prefect

pytestmark = pytest.mark.process

REGISTRY = {"moonbase": "some-moon", "docker": "stock-docker"}

# In place of uv: it can look at a package, but its installations have no end.
ENDLESS = """
import pathlib, sys, time
if "--target" in sys.argv:
    info = pathlib.Path(sys.argv[sys.argv.index("--target") + 1], "some_moon-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Name: some-moon\\nVersion: 1.0\\n")
    (info / "entry_points.txt").write_text("[trioworker.infrastructure]\\nmoonbase = some_moon:Moonbase\\n")
else:
    print("Resolving")
    time.sleep(999)
"""

SENTENCE = (
    "Unable to start worker. Please ensure you have the necessary dependencies installed to run your desired"
    " worker type."
)


async def serve_with_registry(
    server: str, packages: Mapping[str, str], *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Be the API of a server, but with another registry of packages; the answer is one a connection."""
    target = httpx.URL(server)
    view = json.dumps({package: {worker_type: {}} for worker_type, package in packages.items()}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(view)}\r\n"
    registry = head.encode() + b"Connection: close\r\n\r\n" + view

    async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        async for chunk in source:
            await sink.send_all(chunk)

    async def answer(stream: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            chunk = await stream.receive_some()
            if not chunk:
                return
            request += chunk
        if b"/collections/views/aggregate-worker-metadata " in request:
            await stream.send_all(registry)
            return
        async with await trio.open_tcp_stream(target.host, target.port or 80) as beyond:
            # The next request shall come here again.
            await beyond.send_all(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy, stream, beyond)
                await copy(beyond, stream)
                nursery.cancel_scope.cancel()

    async def answer_while_heard(stream: trio.SocketStream) -> None:
        try:
            await answer(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/api")
    await trio.serve_listeners(answer_while_heard, listeners)


class Place:
    """An environment with the command, a directory of wheels, and an API whose registry knows them."""

    def __init__(self, launch: Launcher, api: str, directory: Path) -> None:
        self._launch = launch
        self._api = api
        self.wheels = directory / "wheels"
        self.wheels.mkdir()
        self.environment = Environment(directory / "environment")

    async def start(self, *options: str | Path, **how: Any) -> Command:
        return await self._launch(
            "start",
            *options,
            api=self._api,
            program=(str(self.environment.python), "-m", "trioworker"),
            **{**only_from(self.wheels), **how},
        )

    def offer_moon(
        self, version: str = "1.0", requires: Sequence[str] = ("trioworker", "trio>=0.20")
    ) -> None:
        kinds = {"moonbase": "some_moon:Moonbase"}
        make_wheel(self.wheels, "some-moon", version, kinds=kinds, requires=requires, source=KIND)


@pytest.fixture
async def place(launch: Launcher, prefect: Prefect, tmp_path: Path) -> AsyncIterator[Place]:
    async with trio.open_nursery() as nursery:
        api = await nursery.start(serve_with_registry, prefect.url, REGISTRY)
        yield Place(launch, api, tmp_path)
        nursery.cancel_scope.cancel()


class TestTypeThatAPackageBrings:
    async def test_it_is_installed_and_used_at_once(self, place: Place, prefect: Prefect) -> None:
        pool = await prefect.pool(type="moonbase")
        place.offer_moon()
        options = ("-p", pool, "--run-once", "--install-policy", "if-not-present")
        worker = await place.start(*options)
        assert await worker.exit_code() == 0
        lines = worker.output.splitlines()
        assert lines[:3] == [
            f"Discovered type 'moonbase' for work pool '{pool}'.",
            "Looking whether some-moon brings worker type 'moonbase' to trioworker...",
            "Installing some-moon...",
        ]
        assert worker.lines_with("Successfully installed some-moon-1.0")
        assert worker.lines_with("stopped!")
        assert place.environment.installed == ["some_moon-1.0"]
        worker = await place.start(*options)
        assert await worker.exit_code() == 0
        assert not worker.lines_with("Looking")

    async def test_pool_that_does_not_exist_is_created_of_that_type(
        self, place: Place, prefect: Prefect
    ) -> None:
        pool = f"moon-{command.free_port()}"
        place.offer_moon()
        worker = await place.start(
            "-p", pool, "--type", "moonbase", "--run-once", "--install-policy", "always"
        )
        assert await worker.exit_code() == 0
        assert (await prefect.call("GET", f"work_pools/{pool}"))["type"] == "moonbase"

    async def test_always_brings_the_newest_release(self, place: Place, prefect: Prefect) -> None:
        pool = await prefect.pool(type="moonbase")
        always = ("-p", pool, "--run-once", "--install-policy", "always")
        for version in ("1.0", "1.1"):
            place.offer_moon(version)
            worker = await place.start(*always)
            assert await worker.exit_code() == 0
            assert place.environment.installed == [f"some_moon-{version}"]
        # An older one that is all there is takes nothing away.
        (place.wheels / "some_moon-1.1-py3-none-any.whl").unlink()
        worker = await place.start(*always)
        assert await worker.exit_code() == 0
        assert place.environment.installed == ["some_moon-1.1"]

    async def test_never_installs_nothing(self, place: Place, prefect: Prefect) -> None:
        pool = await prefect.pool(type="moonbase")
        place.offer_moon()
        worker = await place.start("-p", pool, "--install-policy", "never")
        assert await worker.exit_code() == 1
        assert worker.lines_with(SENTENCE)
        assert not worker.lines_with("Looking")
        assert place.environment.installed == []

    async def test_default_installs_nothing_without_a_terminal(self, place: Place, prefect: Prefect) -> None:
        pool = await prefect.pool(type="moonbase")
        place.offer_moon()
        worker = await place.start("-p", pool)
        assert await worker.exit_code() == 1
        assert worker.lines_with("Nothing is installed without asking, and there is no terminal to ask on.")
        assert worker.lines_with(SENTENCE)
        assert place.environment.installed == []

    @pytest.mark.parametrize(("typed", "installed"), [("\n", ["some_moon-1.0"]), ("n\n", [])])
    async def test_default_asks_on_a_terminal(
        self, place: Place, prefect: Prefect, typed: str, installed: list[str]
    ) -> None:
        pool = await prefect.pool(type="moonbase")
        place.offer_moon()
        worker = await place.start("-p", pool, "--run-once", terminal=True)
        await worker.line_with("Install some-moon 1.0, which brings it, now? [Y/n]:")
        await worker.type(typed)
        assert await worker.exit_code() == (0 if installed else 1)
        assert place.environment.installed == installed

    async def test_ctrl_c_answers_the_question_too(self, place: Place, prefect: Prefect) -> None:
        pool = await prefect.pool(type="moonbase")
        place.offer_moon()
        worker = await place.start("-p", pool, terminal=True)
        await worker.line_with("now? [Y/n]:")
        await worker.type("\x03")
        assert await worker.exit_code() == 0
        assert worker.lines_with("Received SIGINT")
        assert not worker.lines_with("Installing")
        assert place.environment.installed == []

    async def test_installation_can_be_interrupted(self, place: Place, prefect: Prefect) -> None:
        """And nothing of it is left running, which the launcher checks."""
        pool = await prefect.pool(type="moonbase")
        place.environment.add_program("uv", ENDLESS)
        worker = await place.start("-p", pool, "--install-policy", "always")
        await worker.line_with("Resolving")
        worker.send(signal.SIGINT)
        assert await worker.exit_code() == 0
        assert worker.lines_with("Received SIGINT")
        assert not worker.lines_with("started!")

    async def test_failure_of_the_installer_is_said(self, place: Place, prefect: Prefect) -> None:
        pool = await prefect.pool(type="moonbase")
        worker = await place.start("-p", pool, "--install-policy", "if-not-present")
        assert await worker.exit_code() == 1
        (line,) = worker.lines_with("some-moon was not installed")
        assert "No matching distribution found for some-moon" in line
        assert worker.lines_with(SENTENCE)

    async def test_nothing_that_the_worker_stands_on_is_replaced(
        self, place: Place, prefect: Prefect
    ) -> None:
        pool = await prefect.pool(type="moonbase")
        make_wheel(place.wheels, "httpx", "99.0")
        place.offer_moon(requires=["httpx>=99"])
        worker = await place.start("-p", pool, "--install-policy", "if-not-present")
        assert await worker.exit_code() == 1
        # In the words of the installer, which are passed on.
        assert worker.lines_with("some-moon 1.0 depends on httpx>=99")
        assert worker.lines_with("some-moon was not installed: the installer ended with exit code 1.")
        assert worker.lines_with(SENTENCE)
        assert place.environment.installed == []


class TestTypeThatNoPackageBrings:
    @pytest.mark.parametrize("policy", ["always", "if-not-present"])
    async def test_package_for_prefects_own_worker_is_not_installed(
        self, place: Place, prefect: Prefect, policy: str
    ) -> None:
        pool = await prefect.pool(type="docker")
        make_wheel(place.wheels, "stock-docker", "0.7")
        worker = await place.start("-p", pool, "--install-policy", policy)
        assert await worker.exit_code() == 1
        assert worker.lines_with(
            "Not installed: stock-docker 0.7 serves Prefect's own worker; it brings no 'docker' kind for trioworker."
        )
        assert worker.lines_with(SENTENCE)
        assert place.environment.installed == []
        assert await prefect.workers(pool) == []

    async def test_type_that_nobody_knows_is_said(self, place: Place) -> None:
        pool = f"odd-{command.free_port()}"
        worker = await place.start("-p", pool, "-t", "mars", "--install-policy", "always")
        assert await worker.exit_code() == 1
        assert worker.lines_with("Could not find a package for worker type 'mars'.")
        assert worker.lines_with(SENTENCE)

    async def test_command_for_prefects_own_worker_has_the_options_that_were_given(
        self, place: Place, prefect: Prefect, tmp_path: Path
    ) -> None:
        pool = await prefect.pool(type="docker")
        template = tmp_path / "base template.json"
        template.write_text('{"job_configuration": {}, "variables": {}}')
        given: tuple[str | Path, ...] = (
            *("--name", "it's me", "--work-queue", "fast lane", "--work-queue", "slow"),
            *("--prefetch-seconds", "7", "--run-once", "--limit", "3", "--with-healthcheck"),
            *("--install-policy", "never", "--base-job-template", template, "--no-create-pool-if-not-found"),
        )
        ours = ("--drain-timeout", "7", "--kill-grace", "1")
        worker = await place.start(
            "-p", pool, *ours, *given, PREFECT_WORKER_WEBSERVER_PORT=str(command.free_port())
        )
        assert await worker.exit_code() == 1
        expected = ["prefect", "worker", "start", "--pool", pool, "--type", "docker", *map(str, given)]
        assert shlex.split(worker.output.splitlines()[-1]) == expected

    async def test_command_for_prefects_own_worker_has_no_other_options(
        self, place: Place, prefect: Prefect
    ) -> None:
        pool = await prefect.pool(type="docker")
        worker = await place.start("-p", pool)
        assert await worker.exit_code() == 1
        assert worker.output.splitlines()[-3:] == [
            "Worker types available here: process.",
            "Prefect's own worker may serve the pool meanwhile:",
            f"  prefect worker start --pool '{pool}' --type docker",
        ]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "ModuleNotFoundError: No module named 'some_moon'"),
        ("raise RuntimeError('out of order')", "RuntimeError: out of order"),
        (
            "class Moonbase:\n def __init__(*_): pass",
            "it makes a Moonbase, which has no adopt, clear, configured_by_deployment, default_base_job_template",
        ),
    ],
)
async def test_package_whose_type_cannot_be_used_is_named_with_the_reason(
    place: Place, prefect: Prefect, source: str | None, reason: str
) -> None:
    pool = await prefect.pool(type="moonbase")
    place.environment.add("some-moon", kinds={"moonbase": "some_moon:Moonbase"}, source=source)
    worker = await place.start("-p", pool)
    assert await worker.exit_code() == 1
    (line,) = worker.lines_with("Error:")
    assert "Package some-moon 1.0 brings the worker type 'moonbase'" in line
    assert "'some_moon:Moonbase'" in line
    assert reason in line
    assert worker.output.splitlines()[-1] == line
