"""Secrets do not come to light: canaries are planted wherever a user may put a secret, and looked for everywhere.

What is not a leak is what the user asks for: a flow run that has a secret in its environment has it there, for the
user of the machine under whom it runs, and one that has it in its command shows it in `ps`, as with Prefect.
"""

from __future__ import annotations

import base64
import json
import re
import stat
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import command
import httpx
import pytest
import trio
from command import Launcher, Prefect, Stub, free_port, patience_for, serve_stub
from conftest import PrefectServer
from proxy import Proxy, serve_proxy

from trioworker.testing.server import open_server

launch = command.launch
prefect = command.prefect

pytestmark = [pytest.mark.process, pytest.mark.server]

AUTH: Final = "operator:canary-of-the-auth-string"
HEADER: Final = "canary-of-a-header"
PROXY: Final = "canary-of-the-proxy"
BLOCK: Final = "canary-of-a-block"
JOB: Final = "canary-of-a-job-variable"
KEY: Final = "pnu_canary-of-the-key"
USER_INFO: Final = "canary-in-a-url"


def in_all_forms(*secrets: str) -> set[bytes]:
    """Secrets as they are, and as they are sent."""
    plain = {secret.encode() for secret in secrets}
    sent = {base64.b64encode(secret) for secret in plain}
    return plain | sent | {secret.partition(b":")[2] for secret in plain if b":" in secret}


def seen_in(text: bytes | str, canaries: set[bytes]) -> set[bytes]:
    where = text.encode() if isinstance(text, str) else text
    return {canary for canary in canaries if canary in where}


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server that wants to know who asks."""
    settings = {"PREFECT_SERVER_API_AUTH_STRING": AUTH}
    with open_server(tmp_path_factory.mktemp("guarded_server"), settings=settings) as server:
        yield server


@pytest.fixture
async def guarded(guarded_server: PrefectServer, tmp_path: Path) -> AsyncIterator[Prefect]:
    user, _, password = AUTH.partition(":")
    async with httpx.AsyncClient(verify=False, trust_env=False, timeout=30, auth=(user, password)) as client:  # noqa: S501
        yield Prefect(client, guarded_server.url, tmp_path)


async def make_secret(prefect: Prefect, name: str, value: str) -> None:
    kind = await prefect.call("GET", "block_types/slug/secret")
    wanted = {"block_schemas": {"block_type_id": {"any_": [kind["id"]]}}}
    (schema, *_) = await prefect.call("POST", "block_schemas/filter", wanted)
    body = {
        "name": name,
        "data": {"value": value},
        "block_type_id": kind["id"],
        "block_schema_id": schema["id"],
    }
    await prefect.call("POST", "block_documents/", body)


async def all_events(prefect: Prefect) -> str:
    """Every event that the server has, as text."""
    moment = datetime.now(UTC)
    occurred = {
        "since": (moment - timedelta(days=1)).isoformat(),
        "until": (moment + timedelta(days=1)).isoformat(),
    }
    page = await prefect.call("POST", "events/filter", {"filter": {"occurred": occurred}, "limit": 50})
    events = page["events"]
    while page["next_page"]:
        path = page["next_page"].partition("/api/")[2]
        page = await prefect.call("GET", path)
        events += page["events"]
    return json.dumps(events)


async def all_that_is_said_about(prefect: Prefect, run: str) -> str:
    """The log and the states of a run, as text."""
    logs = await prefect.call("POST", "logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})
    states = await prefect.call("GET", f"flow_run_states/?flow_run_id={run}")
    return json.dumps([logs, states])


def command_lines(launch: Launcher) -> dict[int, bytes]:
    """What `ps` shows of the worker and of all that it has started."""
    found = {}
    for process in launch.processes():
        pid, _, line = process.partition(" ")
        found[int(pid)] = line.encode()
    return found


def readable_by_others(path: Path, root: Path) -> bool:
    """Whether a file can be read by other users, as far as it and the directories up to the root say."""
    way = [path, *(parent for parent in path.parents if parent.is_relative_to(root) and parent != root)]
    return all(stat.S_IMODE(each.stat().st_mode) & 0o077 for each in way)


def files_with(canaries: set[bytes], *roots: Path) -> list[Path]:
    """Files in which a canary is."""
    files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    return [path for path in files if seen_in(path.read_bytes(), canaries)]


SCRIPT = """
become('RUNNING')
note('tokens', os.environ["PREFECT__CONTROL_TOKEN"])
wait_for('go')
become('COMPLETED')
"""

FLOW = """
import os, time
from pathlib import Path
from prefect import flow

def crashed(flow, flow_run, state):
    Path(flow_run.parameters["here"], "hook").write_text(state.type.value)

@flow(log_prints=True, on_crashed=[crashed])
def guard(here):
    Path(here, "found").write_text(os.environ["FROM_BLOCK"] + os.environ["FROM_JOB"])
    while not Path(here, "go").exists():
        time.sleep(0.02)
    os._exit(3)
"""


async def test_no_secret_comes_to_light(
    launch: Launcher, guarded: Prefect, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """Runs that succeed, do not start, crash and are cancelled, at a guarded server behind a guarded proxy."""
    proxy: Proxy = await nursery.start(serve_proxy)
    await make_secret(guarded, "canary", BLOCK)
    secret = "{{ prefect.blocks.secret.canary }}"
    environment = {"FROM_BLOCK": secret, "FROM_JOB": JOB}
    pool = await guarded.pool()
    code = tmp_path / "code"
    code.mkdir()
    (code / "guard.py").write_text(FLOW)
    scripted = await guarded.deployment(pool, SCRIPT, variables={"env": environment})
    wrong: dict[str, dict[str, Any]] = {
        "program": {"command": f"{secret} --now", "env": environment},
        "directory": {"command": "true", "working_dir": f"/nowhere/{secret}"},
        "quotation": {"command": f"'{secret}"},
        "flag": {"stream_output": secret},
        "environment": {"env": {"A=B": secret}},
        "labels": {"labels": {"a": [secret]}},
        "null": {"command": f"true {secret}", "env": {"A": f"{JOB}\0"}},
    }
    unfit = {
        what: await guarded.run(await guarded.deployment(pool, variables=variables))
        for what, variables in wrong.items()
    }
    port = free_port()
    worker = await launch.worker(
        *("-p", pool, "--with-healthcheck"),
        api=guarded.url,
        PREFECT_API_AUTH_STRING=AUTH,
        PREFECT_CLIENT_CUSTOM_HEADERS=json.dumps({"X-Team": HEADER}),
        PREFECT_LOGGING_LEVEL="DEBUG",
        PREFECT_WORKER_DEBUG_MODE="1",
        PREFECT_WORKER_WEBSERVER_HOST="127.0.0.1",
        PREFECT_WORKER_WEBSERVER_PORT=str(port),
        HTTP_PROXY=f"http://guest:{PROXY}@127.0.0.1:{proxy.port}",
        NO_PROXY="",
    )
    for run in unfit.values():
        await guarded.reached(run, "Crashed", worker)
    cancelled = await guarded.run(scripted)
    await guarded.reached(cancelled, "Running", worker)
    await guarded.cancel(cancelled)
    await guarded.reached(cancelled, "Cancelled", worker)
    completed = await guarded.run(scripted)
    flow = await guarded.deployment(
        pool,
        entrypoint="guard.py:guard",
        path=str(code),
        variables={"env": environment},
        parameters={"here": str(guarded.directory)},
    )
    crashed = await guarded.run(flow)
    await guarded.reached(crashed, "Running", worker)
    await guarded.reached(completed, "Running", worker)
    with patience_for("the flow", worker):
        while not (guarded.directory / "found").exists():  # noqa: ASYNC110 - nothing tells us
            await trio.sleep(0.05)
    (tokens,) = zip(*guarded.noted("tokens"), strict=True)
    canaries = in_all_forms(AUTH, HEADER, PROXY, f"guest:{PROXY}", BLOCK, JOB, *tokens)

    # While they run: the template, the engine, and the files that are made for them.
    lines = command_lines(launch)
    assert worker.pid in lines
    assert any(b"template" in line for line in lines.values())
    assert {pid: seen_in(line, canaries) for pid, line in lines.items() if seen_in(line, canaries)} == {}
    temporary = launch.temporary
    exposed = files_with(canaries, temporary)
    assert any(path.name == "workspace.json" for path in exposed)
    assert not [path for path in exposed if readable_by_others(path, temporary)]

    # What is kept of runs in hand may be gone when they have ended.
    assert files_with(canaries, tmp_path / "prefect", tmp_path / "work") == []

    async with command.open_http() as client:
        health = await client.get(f"http://127.0.0.1:{port}/health")
    guarded.go()
    await guarded.reached(completed, "Completed", worker)
    await guarded.reached(crashed, "Crashed", worker)
    assert await worker.stop() == 0

    # The canaries were where they were meant to be.
    assert (guarded.directory / "found").read_text() == BLOCK + JOB
    assert (guarded.directory / "hook").read_text() == "CRASHED"
    assert [re.fullmatch("[0-9a-f]{32}", token) is not None for token in tokens] == [True, True]
    heads = "\n".join(header for passage in proxy.passages for header in passage.headers)
    assert {HEADER.encode(), base64.b64encode(AUTH.encode())} <= seen_in(heads, canaries)
    assert base64.b64encode(f"guest:{PROXY}".encode()) in seen_in(heads, canaries)

    assert seen_in(worker.output, canaries) == set()
    assert seen_in(str(health.headers) + health.text, canaries) == set()
    assert seen_in(await all_events(guarded), canaries) == set()
    for run in [*unfit.values(), cancelled, completed, crashed]:
        assert seen_in(await all_that_is_said_about(guarded, run), canaries) == set()
    assert files_with(canaries, tmp_path / "prefect", tmp_path / "work") == []
    nursery.cancel_scope.cancel()


class TestFailingStart:
    """A worker that cannot reach its API, in as many ways as there are, says why without what it was given."""

    @pytest.mark.parametrize(
        "settings",
        [
            {"PREFECT_API_KEY": f"{KEY}\n"},
            {"PREFECT_API_KEY": f"{KEY}é"},
            {"PREFECT_API_AUTH_STRING": f"{AUTH}\udcff"},
            {"PREFECT_CLIENT_CUSTOM_HEADERS": json.dumps({"X-Team": f"{HEADER}\r\nX-Other: b"})},
            {"PREFECT_CLIENT_CUSTOM_HEADERS": json.dumps({"X-Team": f"{HEADER}é"})},
            {"PREFECT_CLIENT_CUSTOM_HEADERS": json.dumps({f"X {HEADER}": "b"})},
            {"PREFECT_CLIENT_CUSTOM_HEADERS": HEADER},
            {"HTTP_PROXY": f"ftp://guest:{PROXY}@127.0.0.1:9"},
            {"HTTP_PROXY": f"http://guest:{PROXY}@127.0.0.1:port"},
            {"HTTP_PROXY": f"http://guest:{PROXY}@127.0.0.1:99999"},
            {"HTTP_PROXY": f"http://guest:{PROXY}@[::1"},
            {"HTTP_PROXY": f"http://guest:{PROXY}/x@127.0.0.1:9"},
            {"HTTP_PROXY": f"http://guest:{PROXY}@no such host"},
            {"HTTP_PROXY": f"socks5://guest:{PROXY}@127.0.0.1:9"},
            {"HTTP_PROXY": f"guest:{PROXY}@127.0.0.1:9"},
            {"HTTP_PROXY": f"http://guest:{PROXY}@127.0.0.1:9"},
            {"PREFECT_API_URL": f"http://{USER_INFO}:{USER_INFO}@127.0.0.1:port/api"},
            {"PREFECT_API_URL": f"http://{USER_INFO}:{USER_INFO}@127.0.0.1:9/api"},
            {"PREFECT_API_URL": f"https://{USER_INFO}:{USER_INFO}@127.0.0.1:9/api"},
            {"PREFECT_API_URL": f"http://{USER_INFO}:{USER_INFO} @127.0.0.1:9/api"},
            {"PREFECT_API_URL": f"http://{USER_INFO}:{USER_INFO}/@127.0.0.1:9/api"},
            {"PREFECT_API_URL": f"{USER_INFO}:{USER_INFO}@127.0.0.1/api"},
        ],
        ids=repr,
    )
    async def test_setting_that_cannot_be_used_is_not_shown(
        self, launch: Launcher, settings: dict[str, Any]
    ) -> None:
        settings = {
            "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
            "NO_PROXY": "",
            "PREFECT_WORKER_DEBUG_MODE": "1",
            "TRIOWORKER_GIVE_UP_AFTER": "0.1",
            **settings,
        }
        refused = await launch("start", "-p", "pool", **settings)
        assert await refused.exit_code() == 1
        assert seen_in(refused.output, in_all_forms(KEY, AUTH, HEADER, PROXY, USER_INFO)) == set()
        assert refused.output

    @pytest.mark.parametrize(
        "answer",
        [
            "401 Unauthorized",
            "403 Forbidden",
            "407 Proxy Authentication Required",
            "422 Unprocessable Entity",
            "302 Found",
            "500 Internal Server Error",
        ],
    )
    async def test_answer_that_turns_away_shows_nothing_of_the_question(
        self, launch: Launcher, nursery: trio.Nursery, answer: str
    ) -> None:
        body = json.dumps({"exception_detail": [{"loc": ["body"], "msg": "no", "input": "x"}]})
        head = f"HTTP/1.1 {answer}\r\nContent-Type: application/json\r\nLocation: /elsewhere"
        response = f"{head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        stub: Stub = await nursery.start(serve_stub, response)
        host = stub.url.partition("://")[2]
        await self.start_in_vain(launch, f"http://{USER_INFO}:{USER_INFO}@{host}", host)
        nursery.cancel_scope.cancel()

    async def test_failed_handshake_shows_nothing_of_what_was_to_be_asked(
        self, launch: Launcher, nursery: trio.Nursery
    ) -> None:
        async def answer_in_plain_text(stream: trio.SocketStream) -> None:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer_in_plain_text, [listener])
        host = f"127.0.0.1:{listener.socket.getsockname()[1]}/api"
        await self.start_in_vain(launch, f"https://{USER_INFO}:{USER_INFO}@{host}", host)
        nursery.cancel_scope.cancel()

    async def start_in_vain(self, launch: Launcher, url: str, host: str) -> None:
        refused = await launch(
            *("start", "-p", "pool"),
            api=url,
            PREFECT_API_KEY=KEY,
            PREFECT_API_AUTH_STRING=AUTH,
            PREFECT_CLIENT_CUSTOM_HEADERS=json.dumps({"X-Team": HEADER}),
            PREFECT_CLIENT_MAX_RETRIES="0",
            PREFECT_WORKER_DEBUG_MODE="1",
            TRIOWORKER_GIVE_UP_AFTER="0.1",
        )
        assert await refused.exit_code() == 1
        assert host in refused.output
        assert seen_in(refused.output, in_all_forms(KEY, AUTH, HEADER, f"{USER_INFO}:{USER_INFO}")) == set()
