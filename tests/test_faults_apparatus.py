"""What faults are inflicted with: the valve, the supervisor, and the look at the processes of a run."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import httpx
import pytest
import trio
from benchmark_support import pretended
from command import patience_for

from benchmarks.apparatus.http_requests import Request
from benchmarks.faults.processes import Onlooker, command_of
from benchmarks.faults.supervisor import Supervisor, open_supervisor
from benchmarks.faults.valve import UNAUTHORIZED, Valve, open_valve

# A worker with one run, which it finds again in the second of its lives if there is a file `adopts`.
WITH_RUN = """
from pathlib import Path
if not Path("run").exists():
    environment = os.environ | {"PREFECT__FLOW_RUN_ID": "a-run"}
    run = subprocess.Popen(["sh", "-c", "sleep 600 & wait"], start_new_session=True, env=environment)
    Path("run").write_text(str(run.pid))
elif Path("adopts").exists():
    held = os.pidfd_open(int(Path("run").read_text()))
print("on", flush=True)
signal.pause()
"""


@attrs.define
class Service:
    """A server that answers everything with 200, and knows what came to it."""

    asked: int = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            async for _ in stream:
                self.asked += 1
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@asynccontextmanager
async def service_behind_valve() -> AsyncIterator[tuple[Service, Valve, httpx.AsyncClient]]:
    service = Service()
    async with trio.open_nursery() as nursery:
        (listener, *_) = await nursery.start(partial(trio.serve_tcp, service.serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with (
            open_valve(f"http://127.0.0.1:{port}/api") as valve,
            httpx.AsyncClient(base_url=valve.url, trust_env=False) as client,
        ):
            yield service, valve, client
        nursery.cancel_scope.cancel()


async def test_a_valve_passes_requests_and_counts_them() -> None:
    async with service_behind_valve() as (service, valve, client):
        response = await client.post("/flow_runs/filter", json={"limit": 1})
        await valve.sees("POST flow_runs/filter")
    assert (response.status_code, response.text, service.asked) == (200, "ok", 1)


async def test_a_valve_that_is_shut_resets_connections_until_it_is_opened() -> None:
    async with service_behind_valve() as (service, valve, client):
        await client.get("/first")
        valve.shut()
        for _ in range(2):
            with pytest.raises(httpx.TransportError):
                await client.get("/meanwhile")
        valve.open()
        assert (await client.get("/afterwards")).status_code == 200
    assert service.asked == 2


async def test_a_valve_that_refuses_answers_by_itself() -> None:
    async with service_behind_valve() as (service, valve, client):
        valve.refuse(UNAUTHORIZED)
        refused = [await client.get("/meanwhile") for _ in range(2)]
        valve.admit()
        assert (await client.get("/afterwards")).status_code == 200
    assert [each.status_code for each in refused] == [401, 401]
    assert refused[0].json() == {"exception_message": "Unauthorized"}
    assert service.asked == 1


async def test_one_answer_is_lost_after_the_server_has_given_it() -> None:
    asked: list[int] = []

    def is_meant(request: Request) -> bool:
        return request.path == "/api/meant"

    async with service_behind_valve() as (service, valve, client):
        valve.lose_answer(is_meant, lambda: asked.append(service.asked))
        assert (await client.get("/other")).status_code == 200
        with pytest.raises(httpx.TransportError):
            await client.get("/meant")
        assert (await client.get("/meant")).status_code == 200
    assert asked == [2]


def look(supervisor: Supervisor, onlooker: Onlooker) -> tuple[set[str], set[str]]:
    """The commands of the run's processes, and of those that nobody watches."""
    living = supervisor.living
    sight = onlooker.look(
        supervisor.reapers,
        [worker.pid for worker in supervisor.workers],
        None if living is None else living.pid,
        [],
    )
    return {command_of(pid) for pid in sight.living}, {command_of(pid) for pid in sight.unwatched}


async def started_again(supervisor: Supervisor) -> None:
    with patience_for("the worker to be there again"):
        while len(supervisor.workers) == 1:  # noqa: ASYNC110 - nothing tells us
            await trio.sleep(0.02)
        await supervisor.workers[1].says("on")


RUN = {"sh -c sleep 600 & wait", "sleep 600"}


@pytest.mark.process
@pytest.mark.parametrize("adopts", [True, False])
async def test_a_run_is_watched_again_only_if_the_next_worker_adopts_it(tmp_path: Path, adopts: bool) -> None:
    side = pretended(tmp_path, WITH_RUN)
    if adopts:
        (tmp_path / "adopts").touch()
    onlooker = Onlooker("a-run")
    async with open_supervisor(side, [], environment=os.environ) as supervisor:
        supervisor.pause = 0
        with patience_for("the run to be there"):
            await supervisor.workers[0].says("on")
            while look(supervisor, onlooker)[0] != RUN:  # noqa: ASYNC110 - nothing tells us
                await trio.sleep(0.02)
        assert look(supervisor, onlooker) == (RUN, set())
        supervisor.kill()
        await started_again(supervisor)
        assert look(supervisor, onlooker) == (RUN, set() if adopts else RUN)


@pytest.mark.process
async def test_what_a_dead_worker_has_left_behind_is_seen_whatever_it_is(tmp_path: Path) -> None:
    side = pretended(tmp_path, "subprocess.Popen(['sleep', '600']); print('on', flush=True); signal.pause()")
    onlooker = Onlooker("a-run")
    async with open_supervisor(side, [], environment=os.environ) as supervisor:
        supervisor.pause = 600
        with patience_for("the worker to be there"):
            await supervisor.workers[0].says("on")
        assert look(supervisor, onlooker) == (set(), set())
        supervisor.kill()
        with patience_for("the worker to be gone"):
            await supervisor.workers[0].ended.wait()
        assert supervisor.living is None
        assert look(supervisor, onlooker) == ({"sleep 600"}, {"sleep 600"})


@pytest.mark.process
async def test_a_worker_that_heeds_no_sigterm_is_stopped_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.faults.supervisor.STOP_SECONDS", 0.1)
    side = pretended(
        tmp_path, "signal.signal(15, signal.SIG_IGN); print('on', flush=True)\nwhile True: signal.pause()"
    )
    async with open_supervisor(side, [], environment=os.environ) as supervisor:
        supervisor.pause = 600
        with patience_for("the worker to be there and to be gone"):
            await supervisor.workers[0].says("on")
            await supervisor.stop()
    assert supervisor.workers[0].status == -9
