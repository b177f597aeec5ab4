"""`trioworker start` behind something that answers in the API's place, for a while, as no API should."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import command
import pytest
import trio
from command import AT_ONCE, COMPLETES, Launcher, Prefect, patience_for
from proxy import Proxy, Websockets, serve_proxy

launch = command.launch
prefect = command.prefect

pytestmark = pytest.mark.process


def answer(status: str, body: bytes = b'{"detail": "no"}', *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", "Connection: close", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


NOW = datetime.now(UTC)
DATE = f"Date: {format_datetime(NOW, usegmt=True)}"
SOON = f"Retry-After: {format_datetime(NOW + timedelta(seconds=1), usegmt=True)}"

KINDS = {
    "a key that has expired": answer("401 Unauthorized"),
    "a date until which to wait": answer("429 Too Many Requests", b"{}", DATE, SOON),
    "no answer": b"",
    "half an answer": answer("200 OK", b'{"id": "0000', length=1000),
    "half a document": answer("200 OK", b'{"id": "0000'),
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
}


@pytest.mark.parametrize("kind", KINDS)
async def test_end_of_a_run_is_told_and_heartbeats_go_on_when_it_is_over(
    launch: Launcher, prefect: Prefect, nursery: trio.Nursery, kind: str
) -> None:
    """The run dies while nobody can be told; another one is executed afterwards."""
    proxy: Proxy = await nursery.start(serve_proxy, prefect.url)
    proxy.websockets = Websockets.REFUSE
    pool = await prefect.pool()
    dies = await prefect.deployment(pool, "become('RUNNING')\nwait_for('go')\nos._exit(7)")
    worker = await launch.worker(
        *("-p", pool),
        api=proxy.api_url,
        PREFECT_CLIENT_MAX_RETRIES="0",
        PREFECT_API_REQUEST_TIMEOUT="1",
    )
    run = await prefect.run(dies)
    await prefect.reached(run, "Running", worker)
    await prefect.online(pool)
    proxy.instead = KINDS[kind]
    await worker.line_with("The Prefect API does not answer")
    prefect.go()
    await worker.line_with("status code: 7")
    asked = len(proxy.passages)
    with patience_for("more requests", worker):
        while len(proxy.passages) < asked + 2:  # noqa: ASYNC110 - nothing tells us
            await trio.sleep(0.05)
    proxy.instead = None
    assert "status code: 7" in await prefect.reached(run, "Crashed", worker)
    await prefect.next_heartbeat(pool)
    late = await prefect.run(await prefect.deployment(pool, COMPLETES))
    await prefect.reached(late, "Completed", worker)
    assert len(worker.lines_with("The Prefect API does not answer")) == 1
    assert len(worker.lines_with("is back after")) == 1
    assert await worker.stop() == 0
    nursery.cancel_scope.cancel()


async def test_worker_of_a_host_that_nobody_knows_can_be_stopped(launch: Launcher) -> None:
    worker = await launch(
        *("start", "-p", "pool"),
        api="http://there-is-no-such-host.invalid/api",
        PREFECT_API_REQUEST_TIMEOUT="1",
        PREFECT_CLIENT_MAX_RETRIES="0",
    )
    await worker.line_with("The Prefect API does not answer")
    with trio.fail_after(AT_ONCE):
        assert await worker.stop() == 0
