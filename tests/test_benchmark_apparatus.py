"""What the benchmark measures with: nothing that a worker starts is lost, and its requests are told from others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import trio
from benchmark_support import pretended
from command import patience_for

from benchmarks.apparatus import proc
from benchmarks.apparatus.gate import open_gate
from benchmarks.apparatus.worker import open_worker
from benchmarks.failures import BenchmarkError

pytestmark = pytest.mark.process


async def test_a_worker_is_timed_from_its_exec_to_its_end(tmp_path: Path) -> None:
    side = pretended(tmp_path, "print(sys.argv[1:], flush=True); signal.pause()")
    async with open_worker(side, ["--limit", "3"], environment=os.environ) as worker:
        with patience_for("the worker to speak"):
            await worker.says("['start', '--pool', 'a-pool', '--limit', '3']")
        taken = await worker.stop()
    assert worker.begun < worker.ended_at
    assert 0 < taken < (worker.ended_at - worker.begun) / 1e9
    assert worker.status == 0


async def test_a_worker_that_does_not_end_well_is_a_failure(tmp_path: Path) -> None:
    side = pretended(
        tmp_path, "signal.signal(15, lambda *_: sys.exit(3)); print('on', flush=True); signal.pause()"
    )
    async with open_worker(side, environment=os.environ) as worker:
        with patience_for("the worker to speak"):
            await worker.says("on")
        with pytest.raises(BenchmarkError, match="trioworker: the worker ended with status 3 after SIGTERM"):
            await worker.stop()


async def test_a_worker_that_ends_by_itself_ends_the_block(tmp_path: Path) -> None:
    side = pretended(tmp_path, "sys.exit('cannot go on')")
    reason = r"(?s)ended by itself with status 1.*cannot go on"
    with patience_for("the end of the block"), pytest.raises(BenchmarkError, match=reason):
        async with open_worker(side, environment=os.environ):
            await trio.sleep_forever()


async def test_time_of_processes_that_the_worker_has_lost_is_counted(tmp_path: Path) -> None:
    """One that is left behind in a session of its own takes its time, and ends."""
    side = pretended(
        tmp_path,
        """
        busy = "import time\\nwhile time.process_time() < 0.5: pass"
        orphaned = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True)"
        subprocess.run([sys.executable, "-c", orphaned, sys.executable, "-c", busy], check=True)
        print("left", flush=True)
        signal.pause()
        """,
    )
    async with open_worker(side, environment=os.environ) as worker:
        with patience_for("the orphan to end"):
            await worker.says("left")
            while worker.kept() != [worker.pid]:  # noqa: ASYNC110 - nothing tells us
                await trio.sleep(0.02)
        assert proc.time_of(worker.pid) < worker.time()
        assert worker.time() >= 0.5


async def test_time_that_nobody_can_count_is_a_failure(tmp_path: Path) -> None:
    side = pretended(
        tmp_path,
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN); print('on', flush=True); signal.pause()",
    )
    async with open_worker(side, environment=os.environ) as worker:
        with patience_for("the worker to speak"):
            await worker.says("on")
        with pytest.raises(BenchmarkError, match="ignores SIGCHLD"):
            worker.time()


async def test_no_process_is_left_wherever_it_went(tmp_path: Path) -> None:
    side = pretended(
        tmp_path,
        """
        stubborn = "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"
        orphaned = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True)"
        for _ in range(3):
            subprocess.run([sys.executable, "-c", orphaned, sys.executable, "-c", stubborn], check=True)
        print("left", flush=True)
        signal.pause()
        """,
    )
    async with open_worker(side, environment=os.environ) as worker:
        with patience_for("the orphans"):
            await worker.says("left")
        kept = worker.kept()
        assert len(kept) == 4
    assert _living([worker.reaper, *kept]) == []


async def test_requests_of_the_worker_are_told_from_those_of_its_children(tmp_path: Path) -> None:
    side = pretended(
        tmp_path,
        """
        url = os.environ["PREFECT_API_URL"]
        get = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1])"
        urllib.request.urlopen(url + "/of-worker")
        subprocess.run([sys.executable, "-c", get, url + "/of-child"], check=True)
        signal.pause()
        """,
    )
    async with trio.open_nursery() as nursery:
        (listener, *_) = await nursery.start(partial(trio.serve_tcp, _answer, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with open_gate(f"http://127.0.0.1:{port}/api") as gate:
            environment = side.environment(gate.url)
            async with open_worker(side, environment=environment) as worker:
                gate.worker = worker.pid
                with patience_for("the requests"):
                    await gate.first("GET of-child")
        nursery.cancel_scope.cancel()
    assert [request.path for request in gate.of_worker(0)] == ["/api/of-worker"]
    assert [request.path for request in gate.of_runs(0)] == ["/api/of-child"]
    assert worker.begun < gate.passages[0].at


async def _answer(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


def _living(pids: Sequence[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]
