"""The transport, the condition and the converter: on virtual time and without sockets, but for TLS and proxies."""

from __future__ import annotations

import base64
import gc
import json
import re
import shutil
import ssl
import subprocess
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import httpx
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from proxy import Proxy, serve_proxy

from trioworker.api.client import PrefectClient, open_client
from trioworker.api.condition import OUTAGE_AFTER, Condition, ConditionChange
from trioworker.api.converter import structure, unstructure
from trioworker.api.errors import (
    APIError,
    APINotFoundError,
    APIUnavailableError,
    MalformedAnswerError,
    NotAuthenticatedError,
    NotPermittedError,
    ObjectExistsError,
    ObjectNotFoundError,
    RequestRefusedError,
)
from trioworker.api.models import (
    Event,
    FlowRun,
    OrchestrationResult,
    SetStateStatus,
    State,
    StateType,
    WorkPool,
    WorkQueue,
)
from trioworker.api.transport import (
    USER_AGENT,
    Transport,
    TransportConfig,
    parse_retry_after,
    retry_delay,
)
from trioworker.api.transport import open_transport as open_real_transport

URL = "http://api.test/api"
DATE = "Wed, 21 Oct 2026 07:27:30 GMT"
NO_JITTER = 0.5  # the middle of the chances, where the jitter of a back-off is nothing

Answer = httpx.Response | Exception


@attrs.define
class Script:
    """An API that gives prepared answers, the last one for ever, and remembers what it was asked and when."""

    answers: Sequence[Answer]
    requests: list[httpx.Request] = attrs.field(factory=list)
    times: list[float] = attrs.field(factory=list)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.times.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        # The client closes what it is given, so each request gets a copy.
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    @property
    def paths(self) -> list[str]:
        return [request.url.path for request in self.requests]


@asynccontextmanager
async def open_transport(
    handler: Callable[[httpx.Request], Coroutine[None, None, httpx.Response]],
    *,
    condition: Condition | None = None,
    chance: float = NO_JITTER,
    **config: Any,
) -> AsyncIterator[Transport]:
    mock = httpx.MockTransport(handler)
    async with httpx.AsyncClient(transport=mock, base_url=f"{URL}/") as client:
        settings = TransportConfig(url=URL, **config)
        yield Transport(client, settings, condition or Condition(), lambda: chance)


def ok(body: Any = None) -> httpx.Response:
    return httpx.Response(200, json={} if body is None else body)


def refusal(status: int, detail: str = "no", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"detail": detail}, headers=headers)


def html(status: int) -> httpx.Response:
    return httpx.Response(status, html="<html><body>It works!</body></html>")


async def failure(script: Script, **config: Any) -> APIError:
    """The error that a request for `thing` ends with."""
    async with open_transport(script, **config) as transport:
        with pytest.raises(APIError) as caught:
            await transport.request("GET", "thing")
    return caught.value


# Retries


@pytest.mark.parametrize("status", [408, 429, 502, 503])
async def test_back_off_begins_with_half_a_second_and_doubles_until_it_gives_up(
    autojump_clock: trio.testing.MockClock, status: int
) -> None:
    script = Script([refusal(status)])
    error = await failure(script)
    assert isinstance(error, APIUnavailableError)
    assert str(error) == f"GET /thing was answered with {status}: no"
    assert script.times == [0, 0.5, 2.5, 6.5, 14.5, 30.5]
    assert trio.current_time() == 30.5


async def test_request_succeeds_once_the_api_is_back(autojump_clock: trio.testing.MockClock) -> None:
    script = Script([refusal(503), httpx.ConnectError("refused"), ok({"a": 1})])
    async with open_transport(script) as transport:
        assert await transport.request("POST", "thing", {"b": 2}) == {"a": 1}
    assert script.times == [0, 0.5, 2.5]
    assert [json.loads(request.content) for request in script.requests] == [{"b": 2}] * 3


async def test_retry_after_is_honoured(autojump_clock: trio.testing.MockClock) -> None:
    script = Script(
        [
            refusal(429, **{"Retry-After": "7"}),
            refusal(503, **{"Retry-After": "0"}),
            refusal(503, **{"Retry-After": "45.5"}),
            ok(),
        ]
    )
    async with open_transport(script, chance=0) as transport:
        await transport.request("GET", "thing")
    assert script.times == [0, 7, 7, 52.5]


async def test_jitter_lengthens_retry_after(autojump_clock: trio.testing.MockClock) -> None:
    script = Script([refusal(429, **{"Retry-After": "10"}), ok()])
    async with open_transport(script, chance=1, retry_jitter=0.5) as transport:
        await transport.request("GET", "thing")
    assert script.times == [0, 15]


@pytest.mark.parametrize(("chance", "second"), [(0, 0.375), (0.5, 0.5), (1, 0.625)])
async def test_jitter_goes_both_ways_without_retry_after(
    autojump_clock: trio.testing.MockClock, chance: float, second: float
) -> None:
    script = Script([refusal(503), ok()])
    async with open_transport(script, chance=chance, retry_jitter=0.25) as transport:
        await transport.request("GET", "thing")
    assert script.times == [0, second]


async def test_answer_that_comes_drop_by_drop_is_none(autojump_clock: trio.testing.MockClock) -> None:
    """However slow it is, no part of it takes as long as the timeout."""

    async def drip() -> AsyncIterator[bytes]:
        while True:
            await trio.sleep(50)
            yield b" "

    async def answer(_: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        return httpx.Response(200, content=drip())

    async with open_transport(answer, max_retries=0, timeout=60) as transport:
        with pytest.raises(APIUnavailableError, match="no answer within 60 s"):
            await transport.request("GET", "thing")
    assert trio.current_time() == 600


async def test_date_in_retry_after_is_ignored_if_nobody_knows_when_it_was_written(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = Script([refusal(503, **{"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), ok()])
    async with open_transport(script) as transport:
        await transport.request("GET", "thing")
    assert script.times == [0, 0.5]


async def test_date_in_retry_after_counts_from_that_of_the_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """By the server's clock, whatever this machine takes for the time of day."""
    dates = {"Date": DATE, "Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}
    script = Script([refusal(429, **dates), ok()])
    async with open_transport(script, chance=0) as transport:
        await transport.request("GET", "thing")
    assert script.times == [0, 30]


async def test_absurd_retry_after_keeps_nobody_away_for_good(autojump_clock: trio.testing.MockClock) -> None:
    """Neither the request, nor others, nor those who ask the condition."""
    condition = Condition()
    script = Script([refusal(429, **{"Retry-After": "86400000"}), ok()])
    opened = open_transport(script, chance=0, condition=condition)
    async with opened as transport, trio.open_nursery() as nursery:
        nursery.start_soon(transport.request, "GET", "vital")
        await trio.sleep(1)
        nursery.start_soon(partial(transport.request, "GET", "other", vital=False))
    assert script.times == [0, 600, 600]
    assert condition.back_off_until == 600


@pytest.mark.parametrize("value", ["-86400", "-inf", "1e400", "0x10", "Wed, 99 Oct 2026 99:99:99 GMT"])
async def test_senseless_retry_after_is_no_reason_to_stop_or_to_hurry(
    autojump_clock: trio.testing.MockClock, value: str
) -> None:
    headers = {"Date": DATE, "Retry-After": value}
    script = Script([refusal(429, **headers)])
    async with open_transport(script, chance=0.5) as transport:
        with pytest.raises(APIUnavailableError):
            await transport.request("GET", "thing")
    assert len(script.times) == 6
    assert script.times[-1] < 60


async def test_date_of_an_answer_is_noted(autojump_clock: trio.testing.MockClock) -> None:
    condition = Condition()
    answers = [httpx.Response(200, json={}, headers={"Date": date}) for date in (DATE, "nonsense")]
    async with open_transport(Script([*answers, ok()]), condition=condition) as transport:
        assert condition.date_since(0) is None
        await transport.request("GET", "thing")
        assert condition.date_since(0) == datetime(2026, 10, 21, 7, 27, 30, tzinfo=UTC)
        await trio.sleep(1)
        assert condition.date_since(1) is None
        await transport.request("GET", "thing")
        assert condition.date_since(1) is None
        await transport.request("GET", "thing")
        assert condition.date_since(1) is None


async def test_error_carries_what_the_api_asked_to_wait(autojump_clock: trio.testing.MockClock) -> None:
    error = await failure(Script([refusal(503, **{"Retry-After": "9"})]), max_retries=0)
    assert isinstance(error, APIUnavailableError)
    assert error.retry_after == 9


@pytest.mark.parametrize("max_retries", [0, 1, 3])
async def test_number_of_retries_is_configurable(
    autojump_clock: trio.testing.MockClock, max_retries: int
) -> None:
    script = Script([httpx.ReadError("gone")])
    await failure(script, max_retries=max_retries)
    assert len(script.requests) == max_retries + 1


async def test_request_that_may_not_be_repeated_is_made_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = Script([httpx.ReadError("gone")])
    async with open_transport(script) as transport:
        with pytest.raises(APIUnavailableError):
            await transport.request("POST", "thing", repeat=False)
    assert script.times == [0]


async def test_extra_status_is_repeated(autojump_clock: trio.testing.MockClock) -> None:
    script = Script([refusal(418), ok()])
    async with open_transport(script, retry_extra_codes=frozenset({418})) as transport:
        await transport.request("GET", "thing")
    assert script.times == [0, 0.5]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 413, 418, 422])
async def test_refusal_is_final(autojump_clock: trio.testing.MockClock, status: int) -> None:
    script = Script([refusal(status)])
    error = await failure(script)
    assert isinstance(error, RequestRefusedError)
    assert error.status_code == status
    assert script.times == [0]


@pytest.mark.parametrize("status", [500, 501, 504])
async def test_broken_server_is_asked_again(autojump_clock: trio.testing.MockClock, status: int) -> None:
    script = Script([refusal(status), ok({"a": 1})])
    async with open_transport(script) as transport:
        assert await transport.request("GET", "thing") == {"a": 1}
    assert script.times == [0, 0.5]


async def test_waiting_for_a_retry_can_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    script = Script([refusal(503)])
    async with open_transport(script) as transport:
        with trio.move_on_after(5) as scope:
            await transport.request("GET", "thing")
    assert scope.cancelled_caught
    assert trio.current_time() == 5
    assert script.times == [0, 0.5, 2.5]


@given(
    attempt=st.integers(1, 2000),
    retry_after=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    chance=st.floats(0, 1),
)
def test_delay_never_undercuts_what_the_api_asked_for(
    attempt: int, retry_after: float, jitter: float, chance: float
) -> None:
    assert retry_delay(attempt, retry_after, jitter=jitter, chance=chance) >= retry_after


@given(attempt=st.integers(1, 1000), jitter=st.floats(0, 1), chance=st.floats(0, 1))
def test_delay_stays_within_its_bounds(attempt: int, jitter: float, chance: float) -> None:
    assert 0 <= retry_delay(attempt, None, jitter=jitter, chance=chance) <= 60


@given(
    st.none() | st.text() | st.dates().map(str),
    st.none() | st.text() | st.just(DATE),
)
def test_any_retry_after_header_is_understood_or_ignored(value: str | None, sent: str | None) -> None:
    seconds = parse_retry_after(value, sent)
    assert seconds is None or 0 <= seconds <= 600


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3),
        ("0.25", 0.25),
        ("-1", 0),
        ("1e9", 600),
        ("soon", None),
        ("", None),
        ("inf", None),
        ("nan", None),
    ],
)
def test_retry_after_is_a_number_of_seconds(value: str, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds


@pytest.mark.parametrize(
    ("value", "sent", "seconds"),
    [
        ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:27:00 GMT", 60),
        ("Wed, 21 Oct 2026 07:28:00 -0000", "Wed, 21 Oct 2026 07:27:00 GMT", 60),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:29:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", "Wed, 21 Oct 2026 07:29:00 GMT", 600),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None, None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "just now", None),
    ],
)
def test_retry_after_may_be_a_date(value: str, sent: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, sent) == seconds


# Kinds of refusal


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refusal(401), NotAuthenticatedError),
        (refusal(403), NotPermittedError),
        (refusal(404, 'Work pool "x" not found.'), ObjectNotFoundError),
        (refusal(404, "Not Found"), APINotFoundError),
        (html(404), APINotFoundError),
        (httpx.Response(404), APINotFoundError),
        (refusal(409), ObjectExistsError),
        (refusal(422), RequestRefusedError),
    ],
    ids=["401", "403", "404 object", "404 path", "404 HTML", "404 empty", "409", "422"],
)
async def test_refusals_are_told_apart(answer: httpx.Response, kind: type[RequestRefusedError]) -> None:
    assert type(await failure(Script([answer]))) is kind


async def test_refusal_says_what_was_asked_and_what_was_answered() -> None:
    error = await failure(Script([refusal(422, "limit is\ntoo   large")]))
    assert isinstance(error, RequestRefusedError)
    assert (error.request, error.status_code, error.detail) == ("GET /thing", 422, "limit is too large")
    assert str(error) == "GET /thing was refused with 422: limit is too large"


async def test_message_of_a_prefect_exception_is_shown() -> None:
    answer = httpx.Response(404, json={"exception_message": "Flow run with id 1 not found"})
    error = await failure(Script([answer]))
    assert isinstance(error, ObjectNotFoundError)
    assert error.detail == "Flow run with id 1 not found"


async def test_unacceptable_field_is_named() -> None:
    # This is how Prefect 3 refuses a request that does not fit its schema.
    body = {
        "exception_message": "Invalid request received.",
        "exception_detail": [{"loc": ["body", "name"], "msg": "String should match pattern", "input": "a/b"}],
        "request_body": {"name": "a/b"},
    }
    error = await failure(Script([httpx.Response(422, json=body)]))
    assert str(error) == "GET /thing was refused with 422: name: String should match pattern"


@pytest.mark.parametrize(
    "body",
    [
        [],
        "text",
        None,
        5,
        {"detail": None},
        {"detail": [{"msg": "x"}]},
        {"detail": [{"loc": 1, "msg": 2}, 3]},
    ],
)
async def test_refusal_of_any_shape_is_a_refusal(body: Any) -> None:
    error = await failure(Script([httpx.Response(400, content=json.dumps(body))]))
    assert isinstance(error, RequestRefusedError)


# Answers that are none


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (html(200), "not JSON but text/html, beginning '<html><body>It works!</body></html>'"),
        (httpx.Response(200, content=b'{"a": ', headers={"Content-Type": "application/json"}), '{"a":'),
        (httpx.Response(307, headers={"Location": "/login"}), "status 307, which leads elsewhere"),
        (httpx.Response(200, content=b"\xff\xfe"), "not JSON"),
        (httpx.DecodingError("broken compression"), "broken compression"),
    ],
    ids=["HTML", "truncated", "redirect", "binary", "compression"],
)
async def test_what_is_not_json_is_malformed_and_not_asked_for_again(answer: Answer, said: str) -> None:
    script = Script([answer])
    error = await failure(script)
    assert isinstance(error, MalformedAnswerError)
    assert str(error).startswith("GET /thing was answered with something unexpected: ")
    assert said in str(error)
    assert len(script.requests) == 1


@pytest.mark.parametrize("answer", [httpx.Response(204), httpx.Response(200)])
async def test_empty_answer_is_nothing(answer: httpx.Response) -> None:
    async with open_transport(Script([answer])) as transport:
        assert await transport.request("GET", "thing") is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (httpx.ConnectError("refused by peer"), f"no connection: refused by peer ({URL})"),
        (httpx.ConnectTimeout("x"), f"no answer within 3.5 s from {URL}"),
        (httpx.ReadTimeout("x"), f"no answer within 3.5 s from {URL}"),
        (httpx.ReadError("reset"), f"connection lost: reset ({URL})"),
        (httpx.RemoteProtocolError("went away"), f"connection lost: went away ({URL})"),
    ],
)
async def test_lost_connection_is_described(error: Exception, message: str) -> None:
    found = await failure(Script([error]), max_retries=0, timeout=3.5)
    assert isinstance(found, APIUnavailableError)
    assert str(found) == message


async def test_lost_connection_without_a_reason_is_described_by_its_kind() -> None:
    # Most read errors have no text of their own.
    error = await failure(Script([httpx.ReadError("")]), max_retries=0)
    assert str(error) == f"connection lost: ReadError ({URL})"


# CSRF


CSRF_REFUSAL = refusal(403, "Missing CSRF token.")


async def test_csrf_token_is_fetched_when_asked_for_and_kept() -> None:
    script = Script([CSRF_REFUSAL, ok({"token": "t1"}), ok({"a": 1}), ok({"a": 2})])
    async with open_transport(script) as transport:
        assert await transport.request("POST", "thing", {"b": 1}) == {"a": 1}
        assert await transport.request("POST", "other") == {"a": 2}
    assert script.paths == ["/api/thing", "/api/csrf-token", "/api/thing", "/api/other"]
    client_id = script.requests[1].url.params["client"]
    for request in script.requests[2:]:
        assert request.headers["Prefect-Csrf-Token"] == "t1"
        assert request.headers["Prefect-Csrf-Client"] == client_id
    assert "Prefect-Csrf-Token" not in script.requests[0].headers


async def test_expired_csrf_token_is_renewed() -> None:
    script = Script(
        [
            CSRF_REFUSAL,
            ok({"token": "t1"}),
            ok(),
            refusal(403, "Invalid CSRF token."),
            ok({"token": "t2"}),
            ok(),
        ]
    )
    async with open_transport(script) as transport:
        await transport.request("GET", "thing")
        await transport.request("GET", "thing")
    assert script.requests[-1].headers["Prefect-Csrf-Token"] == "t2"


async def test_useless_csrf_token_is_not_fetched_for_ever() -> None:
    script = Script([CSRF_REFUSAL, ok({"token": "t1"}), CSRF_REFUSAL])
    assert isinstance(await failure(script), NotPermittedError)
    assert len(script.requests) == 3


async def test_csrf_token_is_not_fetched_when_that_is_switched_off() -> None:
    script = Script([CSRF_REFUSAL])
    assert isinstance(await failure(script, csrf=False), NotPermittedError)
    assert len(script.requests) == 1


async def test_ordinary_403_does_not_fetch_a_token() -> None:
    script = Script([refusal(403, "not yours")])
    assert isinstance(await failure(script), NotPermittedError)
    assert len(script.requests) == 1


@pytest.mark.parametrize("answer", [ok({}), ok([]), html(200), ok({"token": "é"})])
async def test_csrf_token_that_is_none_is_reported(answer: httpx.Response) -> None:
    error = await failure(Script([CSRF_REFUSAL, answer]))
    assert isinstance(error, MalformedAnswerError)
    assert error.request == "GET /csrf-token"


async def test_csrf_token_that_cannot_be_had_now_is_a_reason_to_try_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = Script([CSRF_REFUSAL, refusal(503), CSRF_REFUSAL, ok({"token": "t"}), ok()])
    async with open_transport(script) as transport:
        await transport.request("GET", "thing")
    assert script.times == [0, 0, 0.5, 0.5, 0.5]


# Headers and secrets


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Everything that `open_client` sends goes to this script."""
    script = Script([ok([])])
    real = httpx.AsyncClient

    def client(**kwargs: Any) -> httpx.AsyncClient:
        return real(transport=httpx.MockTransport(script), **kwargs)

    monkeypatch.setattr("trioworker.api.transport.httpx.AsyncClient", client)
    return script


async def headers_sent(network: Script, **config: Any) -> httpx.Headers:
    async with open_client(TransportConfig(url=URL, **config)) as client:
        await client.read_work_queues("x", [])
    return network.requests[-1].headers


async def test_key_is_sent_as_bearer_token_and_wins_over_the_auth_string(network: Script) -> None:
    headers = await headers_sent(network, key="k", auth_string="user:password")
    assert headers.get_list("Authorization") == ["Bearer k"]


async def test_auth_string_is_sent_as_basic_authentication(network: Script) -> None:
    headers = await headers_sent(network, auth_string="user:pässword")
    scheme, _, credentials = headers["Authorization"].partition(" ")
    assert (scheme, base64.b64decode(credentials).decode()) == ("Basic", "user:pässword")


async def test_nothing_is_sent_without_credentials(network: Script) -> None:
    assert "Authorization" not in await headers_sent(network)


async def test_custom_headers_are_sent_but_cannot_replace_those_of_the_protocol(network: Script) -> None:
    headers = await headers_sent(
        network, headers={"X-Team": "a", "user-agent": "mine", "Prefect-Csrf-Token": "mine"}
    )
    assert headers["X-Team"] == "a"
    assert headers.get_list("User-Agent") == [USER_AGENT]
    assert "Prefect-Csrf-Token" not in headers


async def test_names_are_escaped_in_the_path(network: Script) -> None:
    async with open_client(TransportConfig(url=URL)) as client:
        await client.read_work_queues("a/b c?d#é", [])
    expected = b"/api/work_pools/a%2Fb%20c%3Fd%23%C3%A9/queues/filter"
    assert network.requests[0].url.raw_path == expected


async def test_no_request_is_sent_by_opening(network: Script) -> None:
    async with open_client(TransportConfig(url=URL)):
        pass
    assert network.requests == []


async def test_certificate_file_that_is_missing_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "authorities.pem"
    with pytest.raises(APIError, match="PREFECT_API_SSL_CERT_FILE") as caught:
        async with open_client(TransportConfig(url="https://api.test/api", verify=missing)):
            pass
    assert str(missing) in str(caught.value)


async def test_certificate_file_is_not_read_for_plain_http(network: Script, tmp_path: Path) -> None:
    assert await headers_sent(network, verify=tmp_path / "missing.pem")


def test_secrets_are_not_in_the_repr() -> None:
    config = TransportConfig(
        url=URL, key="SECRET-KEY", auth_string="me:SECRET-PASSWORD", headers={"X": "SECRET-HEADER"}
    )
    assert "SECRET" not in repr(config)


@pytest.mark.parametrize(
    "answer",
    [refusal(401), refusal(503), html(200), httpx.ConnectError("refused"), httpx.ReadTimeout("")],
    ids=["401", "503", "HTML", "no connection", "timeout"],
)
async def test_secrets_are_not_in_errors(network: Script, answer: Answer) -> None:
    network.answers = [answer]
    config = TransportConfig(url=URL, key="SECRET-KEY", headers={"X": "SECRET-HEADER"}, max_retries=0)
    async with open_client(config) as client:
        with pytest.raises(APIError) as caught:
            await client.read_work_queues("x", [])
    assert "SECRET" not in f"{caught.value} {caught.value!r}"


async def test_key_with_a_line_break_is_refused_and_not_shown(network: Script) -> None:
    # Keys from mounted files often end with one.
    with pytest.raises(APIError, match="PREFECT_API_KEY") as caught:
        async with open_client(TransportConfig(url=URL, key="SECRET-KEY\n")):
            pytest.fail("a client was opened")
    assert "SECRET" not in str(caught.value)


async def test_header_that_cannot_be_sent_is_not_shown(network: Script) -> None:
    # h11 refuses such a header with these words.
    network.answers = [httpx.LocalProtocolError("Illegal header value b'SECRET'")]
    async with open_client(TransportConfig(url=URL, headers={"X-Token": "SECRET"})) as client:
        with pytest.raises(APIError, match="PREFECT_CLIENT_CUSTOM_HEADERS") as caught:
            await client.read_work_queues("x", [])
    assert "SECRET" not in str(caught.value)


async def test_password_in_the_url_is_not_shown(network: Script) -> None:
    network.answers = [httpx.ConnectError("refused")]
    config = TransportConfig(url="http://me:SECRET@api.test/api", max_retries=0)
    async with open_client(config) as client:
        with pytest.raises(APIError) as caught:
            await client.read_work_queues("x", [])
    assert "SECRET" not in f"{caught.value} {config!r}"


# Condition


@attrs.define
class Watch:
    """Notes each change of a condition with its time."""

    changes: list[tuple[float, ConditionChange]] = attrs.field(factory=list)

    def __call__(self, change: ConditionChange) -> None:
        self.changes.append((trio.current_time(), change))


def test_api_counts_as_reachable_until_the_contrary_is_known() -> None:
    assert Condition().reachable


async def test_first_request_that_fails_is_an_outage_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    watch = Watch()
    condition = Condition(watch)
    condition.failed("refused")
    await trio.sleep(1)
    condition.failed("refused")
    assert not condition.reachable
    assert watch.changes == [(0, ConditionChange(reachable=False, reason="refused"))]


async def test_failures_of_two_seconds_are_an_outage_once_there_was_an_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    watch = Watch()
    condition = Condition(watch)
    condition.answered()
    condition.failed("first")
    await trio.sleep(OUTAGE_AFTER - 0.25)
    condition.failed("second")
    assert watch.changes == []
    await trio.sleep(0.25)
    condition.failed("third")
    assert not condition.reachable
    await trio.sleep(3)
    condition.failed("fourth")
    condition.answered()
    condition.answered()
    assert watch.changes == [
        (2, ConditionChange(reachable=False, reason="third")),
        (5, ConditionChange(reachable=True, seconds=5)),
    ]


async def test_good_answer_between_failures_starts_the_count_anew(
    autojump_clock: trio.testing.MockClock,
) -> None:
    watch = Watch()
    condition = Condition(watch)
    condition.answered()
    for _ in range(5):
        condition.failed("now and then")
        await trio.sleep(1.5)
        condition.failed("now and then")
        condition.answered()
        await trio.sleep(10)
    assert watch.changes == []


async def test_first_failure_after_a_long_silence_is_no_outage(
    autojump_clock: trio.testing.MockClock,
) -> None:
    condition = Condition()
    condition.answered()
    await trio.sleep(3600)
    condition.failed("just now")
    assert condition.reachable


async def test_waiting_ends_with_the_change(autojump_clock: trio.testing.MockClock) -> None:
    condition = Condition()
    seen: list[tuple[str, float]] = []

    async def watch() -> None:
        await condition.wait_back()
        seen.append(("back", trio.current_time()))
        await condition.wait_lost()
        seen.append(("lost", trio.current_time()))
        await condition.wait_lost()
        await condition.wait_back()
        seen.append(("back", trio.current_time()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.sleep(3)
        condition.failed("gone")
        await trio.sleep(4)
        condition.answered()
    assert seen == [("back", 0), ("lost", 3), ("back", 7)]


async def test_wait_lost_for_counts_one_outage_only(autojump_clock: trio.testing.MockClock) -> None:
    condition = Condition()
    done: list[float] = []

    async def wait() -> None:
        await condition.wait_lost_for(10)
        done.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(5)
        condition.failed("first outage")
        await trio.sleep(9)
        condition.answered()
        await trio.sleep(1)
        condition.failed("second")
        await trio.sleep(2)
        condition.failed("second")  # an outage from here on, 17
    assert done == [27]


async def test_one_slow_request_tells_of_the_outage_while_it_is_repeated(
    autojump_clock: trio.testing.MockClock,
) -> None:
    watch = Watch()
    script = Script([ok(), *[httpx.ConnectError("refused")] * 3, ok()])
    async with open_transport(script, condition=Condition(watch)) as transport:
        await transport.request("GET", "thing")
        await transport.request("GET", "thing")
    assert watch.changes == [
        (2.5, ConditionChange(reachable=False, reason=f"no connection: refused ({URL})")),
        (6.5, ConditionChange(reachable=True, seconds=6.5)),
    ]


@pytest.mark.parametrize(
    ("answer", "counts_as_answer"),
    [
        (refusal(422), True),
        (refusal(409), True),
        (refusal(404, "Flow run not found"), True),
        (refusal(401), False),
        (refusal(403), False),
        (refusal(404, "Not Found"), False),
        (refusal(503), False),
        (html(200), False),
        (httpx.ConnectError("refused"), False),
    ],
    ids=["422", "409", "404 object", "401", "403", "404 path", "503", "HTML", "no connection"],
)
async def test_what_counts_as_an_answer(
    autojump_clock: trio.testing.MockClock, answer: Answer, counts_as_answer: bool
) -> None:
    condition = Condition()
    await failure(Script([answer]), condition=condition, max_retries=0)
    await trio.sleep(OUTAGE_AFTER)
    await failure(Script([answer]), condition=condition, max_retries=0)
    assert condition.reachable is counts_as_answer


@pytest.mark.parametrize("answer", [refusal(401), refusal(403), refusal(404, "Not Found")])
async def test_refusal_by_an_api_that_has_never_answered_is_not_announced_as_an_outage(
    autojump_clock: trio.testing.MockClock, answer: Answer
) -> None:
    """It is first of all a mistake in the configuration, which others speak of."""
    watch = Watch()
    await failure(Script([answer]), condition=Condition(watch), max_retries=0)
    assert watch.changes == []


async def test_api_that_sends_other_json_than_prefect_is_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    watch = Watch()
    condition = Condition(watch)
    async with open_transport(Script([ok({"status": "fine"})]), condition=condition) as transport:
        client = PrefectClient(transport, condition)
        for _ in range(4):
            with pytest.raises(MalformedAnswerError):
                await client.read_work_pool("x")
            await trio.sleep(5)
    assert [change.reachable for _, change in watch.changes] == [False]


# Converter

RUN_ID = UUID("11111111-1111-4111-8111-111111111111")
FLOW_ID = UUID("22222222-2222-4222-8222-222222222222")
RUN = {
    "id": str(RUN_ID),
    "name": "a run",
    "flow_id": str(FLOW_ID),
    "state": {
        "type": "RUNNING",
        "name": "Running",
        "state_details": {"scheduled_time": "2026-01-02T03:04:05.5Z"},
    },
    "empirical_policy": {"retry_type": None, "retries": 3},
    "tags": ["a"],
    "something_new": {"x": [1]},
}


def test_unknown_fields_are_ignored_at_every_level() -> None:
    run = structure(RUN, FlowRun, request="GET /x")
    assert (run.id, run.name, run.flow_id, run.tags) == (RUN_ID, "a run", FLOW_ID, ["a"])
    assert run.state is not None
    assert run.state.label == "Running"
    assert run.state.state_details.scheduled_time == datetime(2026, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC)
    assert (run.job_variables, run.infrastructure_pid, run.deployment_id) == (None, None, None)


@pytest.mark.parametrize(
    ("answer", "cls", "problems"),
    [
        ({"id": str(RUN_ID), "name": "x"}, FlowRun, ["required field missing @ answer.flow_id"]),
        (
            {"id": "x", "name": "x", "type": "x"},
            WorkPool,
            ["invalid value for type, expected UUID @ answer.id"],
        ),
        (
            [{"name": "x"}, {"name": ["y"]}],
            list[WorkQueue],
            ["invalid value for type, expected str @ answer[1].name"],
        ),
        ([{"name": "x"}, {}], list[WorkQueue], ["required field missing @ answer[1].name"]),
    ],
    ids=["missing", "no UUID", "no text", "missing in list"],
)
def test_bad_field_is_named_with_its_path(answer: Any, cls: Any, problems: list[str]) -> None:
    with pytest.raises(MalformedAnswerError) as caught:
        structure(answer, cls, request="GET /x")
    assert caught.value.problems == problems
    expected = f"GET /x was answered with something unexpected: {problems[0]}"
    assert str(caught.value) == expected


def test_every_bad_field_is_named() -> None:
    with pytest.raises(MalformedAnswerError) as caught:
        structure({"id": 5, "state": {}}, FlowRun, request="GET /x")
    paths = [problem.rpartition(" @ ")[2] for problem in caught.value.problems]
    assert sorted(paths) == ["answer.flow_id", "answer.id", "answer.name", "answer.state.type"]


def test_time_without_zone_is_refused() -> None:
    state = {"type": "RUNNING", "state_details": {"scheduled_time": "2026-01-01T00:00:00"}}
    with pytest.raises(MalformedAnswerError, match=r"answer\.state_details\.scheduled_time"):
        structure(state, State, request="GET /x")


@pytest.mark.parametrize("kind", StateType)
def test_state_type_is_a_member_of_the_enumeration(kind: StateType) -> None:
    state = structure({"type": kind.value}, State, request="GET /x")
    assert state.type is kind
    result = structure({"status": "WAIT", "state": None}, OrchestrationResult, request="GET /x")
    assert result.status is SetStateStatus.WAIT


def test_unknown_state_type_is_malformed() -> None:
    with pytest.raises(MalformedAnswerError, match=r"@ answer\.type"):
        structure({"type": "DREAMING"}, State, request="GET /x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


def problems_of(answer: Any, cls: Any) -> list[str] | None:
    try:
        structure(answer, cls, request="GET /x")
    except MalformedAnswerError as error:
        return error.problems
    return None


@given(answer=JSON, cls=st.sampled_from([FlowRun, list[FlowRun], WorkPool, OrchestrationResult]))
def test_whatever_json_comes_only_our_own_error_comes_of_it(answer: Any, cls: Any) -> None:
    problems = problems_of(answer, cls)
    assert problems is None or all(" @ answer" in problem for problem in problems)


@given(field=st.sampled_from(sorted(RUN)), value=JSON)
def test_whatever_stands_in_one_field_only_our_own_error_comes_of_it(field: str, value: Any) -> None:
    problems = problems_of(RUN | {field: value}, FlowRun)
    assert problems is None or all(f" @ answer.{field}" in problem for problem in problems)


def test_what_is_sent_can_be_written_as_json() -> None:
    event = Event(
        id=RUN_ID,
        occurred=datetime(2026, 1, 1, tzinfo=UTC),
        event="happened",
        resource={"prefect.resource.id": "x"},
        payload={"a": {"b": [1]}},
        follows=FLOW_ID,
    )
    assert json.loads(json.dumps(unstructure(event))) == {
        "id": str(RUN_ID),
        "occurred": "2026-01-01T00:00:00+00:00",
        "event": "happened",
        "resource": {"prefect.resource.id": "x"},
        "related": [],
        "payload": {"a": {"b": [1]}},
        "follows": str(FLOW_ID),
    }


# Vital requests and the others


async def test_only_vital_requests_tell_of_an_outage(autojump_clock: trio.testing.MockClock) -> None:
    """One object that the server cannot serve is no outage."""
    watch = Watch()
    async with open_transport(Script([refusal(500)]), condition=Condition(watch), max_retries=3) as transport:
        with pytest.raises(APIUnavailableError):
            await transport.request("GET", "deployments/1", vital=False)
        assert watch.changes == []
        with pytest.raises(APIUnavailableError):
            await transport.request("POST", "poll", vital=True)
    assert [change.reachable for _, change in watch.changes] == [False]


async def test_vital_request_does_not_queue_behind_others(autojump_clock: trio.testing.MockClock) -> None:
    answered: list[str] = []

    async def hang_but_for_polls(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("poll"):
            return ok()
        await trio.sleep(1000)
        return ok()

    async with open_transport(hang_but_for_polls) as transport, trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(partial(transport.request, "POST", f"runs/{number}", vital=False))
        await trio.sleep(1)
        with trio.fail_after(1):
            await transport.request("POST", "poll")
        answered.append("poll")
        nursery.cancel_scope.cancel()
    assert answered == ["poll"]


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"headers": {"X-Team": "ü"}}, "PREFECT_CLIENT_CUSTOM_HEADERS"),
        ({"auth_string": "me:\udcff"}, "PREFECT_API_AUTH_STRING"),
        ({"url": "http://a..b/api"}, "http://a..b/api"),
        ({"url": "http://xn--/api"}, "http://xn--/api"),
    ],
)
async def test_what_cannot_be_set_up_is_named(config: dict[str, Any], named: str) -> None:
    with pytest.raises(APIError, match=re.escape(named)):
        async with open_client(TransportConfig(**{"url": URL, "max_retries": 0, **config})) as client:
            await client.read_flow(FLOW_ID)


async def test_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(APIError, match="ALL_PROXY"):
        async with open_client(TransportConfig(url="https://api.test/api")):
            pytest.fail("a client was opened")


# One configuration for requests and websocket


@attrs.frozen
class Authority:
    """A certificate authority of the test's own, and what a server at 127.0.0.1 shows of it."""

    certificate: Path
    server_certificate: Path
    server_key: Path

    @property
    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server_certificate, self.server_key)
        return context


def make_authority(directory: Path) -> Authority:
    def openssl(*arguments: str | Path) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=directory)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    # Python 3.13 takes no authority that does not say what its key is for.
    use = ("-addext", "keyUsage=critical,keyCertSign")
    openssl("req", "-x509", *key, *use, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority")
    openssl("req", *key[:-2], "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=127.0.0.1")
    (directory / "server.cnf").write_text("subjectAltName = IP:127.0.0.1\nauthorityKeyIdentifier = keyid\n")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
    openssl("x509", "-req", "-in", "server.csr", *signing, "-extfile", "server.cnf", "-out", "server.pem")
    return Authority(directory / "ca.pem", directory / "server.pem", directory / "server.key")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here to make certificates with")
    return make_authority(tmp_path_factory.mktemp("authority"))


async def speak_prefect(stream: trio.abc.Stream) -> None:
    """Answer one connection's requests with an empty list, and a websocket with a welcome."""
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = await stream.receive_some()
        if not chunk:
            return
        head += chunk
    if b"upgrade: websocket" not in head.lower():
        await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n[]")
        return
    await stream.send_all(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        # A text frame without mask.
        b'\x81\x18{"type": "auth_success"}'
    )
    async for _ in stream:
        pass


@asynccontextmanager
async def serving(context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that speaks enough of Prefect's API, on a port of 127.0.0.1."""

    async def serve(stream: trio.abc.Stream) -> None:
        # Whoever does not like our certificate hangs up.
        with suppress(trio.BrokenResourceError):
            await speak_prefect(stream)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            (plain,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            listener = plain if context is None else trio.SSLListener(plain, context, https_compatible=True)
            await nursery.start(trio.serve_listeners, serve, [listener])
            yield plain.socket.getsockname()[1]
            nursery.cancel_scope.cancel()


async def make_request(client: PrefectClient) -> None:
    assert await client.read_work_queues("x", []) == []


async def open_websocket(client: PrefectClient) -> None:
    async with client.open_state_changes(RUN_ID, {StateType.CANCELLING}):
        pass


WAYS = pytest.mark.parametrize("speak", [make_request, open_websocket], ids=["request", "websocket"])
Speak = Callable[[PrefectClient], Coroutine[None, None, None]]


async def speak_once(speak: Speak, url: str, **config: Any) -> None:
    async with open_client(
        TransportConfig(**{"url": url, "max_retries": 0, "timeout": 10, **config})
    ) as client:
        await speak(client)


@pytest.mark.process
@WAYS
class TestCertificates:
    async def test_of_an_unknown_authority_is_refused(self, speak: Speak, authority: Authority) -> None:
        async with serving(authority.server_context) as port:
            with pytest.raises(APIUnavailableError, match="PREFECT_API_SSL_CERT_FILE") as caught:
                await speak_once(speak, f"https://127.0.0.1:{port}/api")
            assert "certificate verify failed" in str(caught.value)

    async def test_of_an_authority_in_the_file_is_taken(self, speak: Speak, authority: Authority) -> None:
        async with serving(authority.server_context) as port:
            await speak_once(speak, f"https://127.0.0.1:{port}/api", verify=authority.certificate)

    async def test_for_another_host_is_refused(self, speak: Speak, authority: Authority) -> None:
        async with serving(authority.server_context) as port:
            with pytest.raises(APIUnavailableError, match="certificate verify failed"):
                await speak_once(speak, f"https://localhost:{port}/api", verify=authority.certificate)

    async def test_of_any_kind_is_taken_when_none_is_checked(
        self, speak: Speak, authority: Authority
    ) -> None:
        async with serving(authority.server_context) as port:
            await speak_once(speak, f"https://127.0.0.1:{port}/api", verify=False)

    async def test_is_checked_through_a_proxy_too(
        self, speak: Speak, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with serving(authority.server_context) as port, trio.open_nursery() as nursery:
            proxy: Proxy = await nursery.start(serve_proxy)
            use_proxies(monkeypatch, HTTPS_PROXY=proxy.url)
            url = f"https://127.0.0.1:{port}/api"
            await speak_once(speak, url, verify=authority.certificate)
            with pytest.raises(APIUnavailableError, match="certificate verify failed"):
                await speak_once(speak, url)
            nursery.cancel_scope.cancel()
        assert [(passage.method, passage.target) for passage in proxy.passages] == [
            ("CONNECT", f"127.0.0.1:{port}")
        ] * 2


@pytest.mark.parametrize("verify", [True, False])
async def test_one_tls_context_serves_requests_proxies_and_websocket(
    monkeypatch: pytest.MonkeyPatch, *, verify: bool
) -> None:
    """To make one takes some 40 ms."""
    made = 0
    make: Callable[..., ssl.SSLContext] = ssl.SSLContext.__new__

    def count(*arguments: Any, **options: Any) -> ssl.SSLContext:
        nonlocal made
        made += 1
        return make(*arguments, **options)

    use_proxies(monkeypatch, HTTP_PROXY="http://127.0.0.1:1", HTTPS_PROXY="http://127.0.0.1:1")
    monkeypatch.setattr(ssl.SSLContext, "__new__", count)
    with pytest.raises(APIUnavailableError):
        await speak_once(open_websocket, "https://127.0.0.1:1/api", verify=verify)
    assert made == 1


def use_proxies(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Let the environment have these proxy variables and no others."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        for spelling in (name, name.lower()):
            monkeypatch.delenv(spelling, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@WAYS
class TestProxyVariables:
    @pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
    async def test_proxy_is_used(self, speak: Speak, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
        async with serving() as port, trio.open_nursery() as nursery:
            proxy: Proxy = await nursery.start(serve_proxy)
            use_proxies(monkeypatch, **{variable: proxy.url})
            await speak_once(speak, f"http://127.0.0.1:{port}/api")
            nursery.cancel_scope.cancel()
        assert len(proxy.passages) == 1

    @pytest.mark.parametrize("exempt", ["127.0.0.1", "localhost,127.0.0.1", "*"])
    async def test_proxy_is_not_used_for_what_is_exempt(
        self, speak: Speak, exempt: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use_proxies(monkeypatch, HTTP_PROXY="http://127.0.0.1:1", NO_PROXY=exempt)
        async with serving() as port:
            await speak_once(speak, f"http://127.0.0.1:{port}/api")

    async def test_proxy_for_the_other_protocol_is_not_used(
        self, speak: Speak, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use_proxies(monkeypatch, HTTPS_PROXY="http://127.0.0.1:1")
        async with serving() as port:
            await speak_once(speak, f"http://127.0.0.1:{port}/api")

    async def test_proxy_that_is_away_is_an_unavailable_api(
        self, speak: Speak, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use_proxies(monkeypatch, HTTP_PROXY="http://127.0.0.1:1")
        with pytest.raises(APIUnavailableError):
            await speak_once(speak, "http://api.test/api")


@WAYS
async def test_slash_at_the_end_of_the_url_does_not_matter(
    speak: Speak, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as port, trio.open_nursery() as nursery:
        proxy: Proxy = await nursery.start(partial(serve_proxy, f"http://127.0.0.1:{port}"))
        await speak_once(speak, f"{proxy.url}/api/")
        nursery.cancel_scope.cancel()
    (passage,) = proxy.passages
    assert passage.target.startswith(("/api/work_pools/", "/api/events/"))


@pytest.mark.process
async def test_request_that_is_cancelled_half_way_leaves_nothing_to_the_garbage_collector() -> None:
    """Of an async generator that was not used up Trio would say so."""
    half_way = trio.Event()

    async def read_the_beginning(stream: trio.abc.ReceiveStream) -> None:
        while b"0" * 1000 not in await stream.receive_some():
            pass
        half_way.set()
        await trio.sleep_forever()

    # More than the system takes from one side for the other.
    body = {"a": "0" * 20_000_000}
    # What others have left is not to be told here.
    gc.collect()
    with warnings.catch_warnings(record=True) as told, trio.fail_after(20):
        warnings.simplefilter("always")
        async with trio.open_nursery() as servers:
            listeners = await servers.start(partial(trio.serve_tcp, read_the_beginning, 0, host="127.0.0.1"))
            url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/api"
            async with (
                open_real_transport(TransportConfig(url=url), Condition()) as transport,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(transport.request, "POST", "logs", body)
                await half_way.wait()
                nursery.cancel_scope.cancel()
            servers.cancel_scope.cancel()
        gc.collect()
    assert told == []
