"""One HTTP connection pool to the API, with authentication, retries and the CSRF token."""

from __future__ import annotations

import base64
import json
import math
import random
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import attrs
import httpx
import trio

from trioworker.api.ceiling import Ceiling
from trioworker.api.condition import Condition
from trioworker.api.dates import parse_date
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
    UnsendableRequestError,
    is_outage,
)
from trioworker.api.request_body import RequestBody
from trioworker.api.validation import describe_validation_errors
from trioworker.lean_attrs import frozen

if TYPE_CHECKING:
    from httpcore import AsyncNetworkStream

T = TypeVar("T")

# The version of Prefect that the worker stands in for.
PREFECT_VERSION = "3.8.8"

# The server reads the version of the client's protocol from this header and behaves accordingly (leases of
# concurrency slots, for one), and takes only this exact form.
USER_AGENT = f"prefect/{PREFECT_VERSION} (API 0.8.4)"

_RETRYABLE = frozenset({408, 429})
_FIRST_BACK_OFF = 0.5
_LONGEST_BACK_OFF = 30.0

# Nobody means more than that, and a worker must not stay away for days because of a wrong number.
_LONGEST_RETRY_AFTER = 600.0

# The timeout is for each part of an answer. One that comes drop by drop would never meet with it, so the whole, with
# the wait for a connection, has so many times as long.
_TIMES_FOR_THE_WHOLE = 10

# One small server for many runs: more at once would only wait there. Some are kept free for vital requests.
_CONNECTIONS = 16
_CONNECTIONS_KEPT_FREE = 4
# A websocket keeps its connection for days, so it has one beyond those of the requests.
_WEBSOCKETS = 1

# How a server says that it cannot cope with so many requests.
_TOO_MANY = 429
_UNAVAILABLE = 503

_JSON_BODY = {"Content-Type": "application/json"}

_PROTECTED_HEADERS = frozenset({"user-agent", "prefect-csrf-token", "prefect-csrf-client"})


def _without_slash(url: str) -> str:
    return url.rstrip("/")


@frozen(kw_only=True)
class TransportConfig:
    """How the API is reached.

    Attributes:
        url: the API's root; a slash at its end is dropped.
        key: an API key, sent as bearer token.
        auth_string: `user:password`, sent as basic authentication; `key` wins over it.
        headers: sent with every request.
        verify: whether the server's certificate is checked, or the file of authorities to check it by.
        timeout: seconds to wait for a connection, and for each part of an answer.
        max_retries: how often a request is repeated after 408, 429, any 5xx, or a failed connection.
        retry_jitter: the part of a delay that is left to chance, 0 to 1.
        retry_extra_codes: further statuses that are worth a repetition.
        csrf: whether to fetch a CSRF token when the server asks for one.
    """

    url: str = attrs.field(repr=False, converter=_without_slash)
    key: str | None = attrs.field(default=None, repr=False)
    auth_string: str | None = attrs.field(default=None, repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    verify: bool | Path = True
    timeout: float = 60.0
    max_retries: int = 5
    retry_jitter: float = 0.2
    retry_extra_codes: frozenset[int] = frozenset()
    csrf: bool = True

    @property
    def shown_url(self) -> str:
        """The URL for messages, without the user and password that it may hold."""
        scheme, separator, rest = self.url.partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def retry_delay(attempt: int, retry_after: float | None, *, jitter: float, chance: float) -> float:
    """Seconds to wait before the next attempt.

    The first comes soon: SQLite, locked by somebody else's write, turns requests away for a moment only. From the
    second on it is as with Prefect's client, one step behind.

    Args:
        attempt: how many attempts have failed, from 1.
        retry_after: what the API asked for; never undercut.
        jitter: the part that is left to chance, 0 to 1.
        chance: a number from 0 to 1.
    """
    if retry_after is not None:
        return retry_after * (1 + jitter * chance)
    delay = _FIRST_BACK_OFF if attempt == 1 else min(2.0 ** (attempt - 1), _LONGEST_BACK_OFF)
    return delay * (1 + jitter * (2 * chance - 1))


def parse_retry_after(value: str | None, sent: str | None = None) -> float | None:
    """Seconds to wait by a `Retry-After` header, ten minutes at the most; None if there is none that makes sense.

    Args:
        value: of the header: a number of seconds, or a date.
        sent: the `Date` header of the same answer. A date counts from that one, by the server's own clock, and means
            nothing without it.
    """
    try:
        seconds = float(value) if value is not None else math.nan
    except ValueError:
        until, since = parse_date(value or ""), parse_date(sent or "")
        if until is None or since is None:
            return None
        seconds = (until - since).total_seconds()
    return min(max(0.0, seconds), _LONGEST_RETRY_AFTER) if math.isfinite(seconds) else None


def _retry_after(response: httpx.Response) -> float | None:
    return parse_retry_after(response.headers.get("Retry-After"), response.headers.get("Date"))


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold it: bytes that are no text reach Python as lone surrogates, for which it has no code."""
    return text.isascii() or not _LONE_SURROGATE.search(text)


def encode_json(value: Any) -> bytes:
    """What goes over the wire for a value: JSON in UTF-8.

    Lone surrogates are sent as `repr` shows them, so that a log line with one of them is not lost.

    Raises:
        TypeError: JSON has no form for something in it.
        ValueError: JSON has none for NaN and infinity; or the value contains itself.
        RecursionError: it is nested too deeply.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _LONE_SURROGATE.sub(lambda lone: f"\\\\u{ord(lone[0]):04x}", text).encode()


def _body(request: str, value: Any) -> bytes | None:
    if value is None:
        return None
    try:
        return encode_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnsendableRequestError(request, str(error)) from error


def _as_it_is(answer: Any) -> Any:
    return answer


class Transport:
    """Sends requests and returns decoded JSON. Made by `open_transport`."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        config: TransportConfig,
        condition: Condition,
        chance: Callable[[], float],
    ) -> None:
        self._client = client
        self._config = config
        self._condition = condition
        self._chance = chance
        self._csrf_headers: dict[str, str] = {}
        self._requests = Ceiling(_CONNECTIONS - _CONNECTIONS_KEPT_FREE)
        self._changes = Ceiling(_CONNECTIONS - _CONNECTIONS_KEPT_FREE)

    @property
    def config(self) -> TransportConfig:
        """How the API is reached."""
        return self._config

    async def request(
        self,
        method: str,
        path: str,
        json: Any = None,
        read: Callable[[Any], T] = _as_it_is,
        *,
        vital: bool = True,
        alone: bool = False,
        as_text: bool = False,
        repeat: bool = True,
    ) -> T:
        """Send a request, repeat it as configured, and read the answer.

        Args:
            method: the HTTP method.
            path: below the API's root, without leading slash.
            json: the body.
            read: makes of the decoded answer what the caller wants; may raise `MalformedAnswerError`.
            vital: whether it is one of those by which the worker lives. They alone tell of the condition of the
                API, since they come regularly and concern no single object; and they never queue behind others.
                Of the rest, no more are under way at once than the server copes with; see `Ceiling`.
            alone: whether a change may fail because it meets with another one, and has the time to wait for a quiet
                moment. It does so once a server has turned such a one away.
            as_text: whether the answer is to be read as it stands, and not as JSON.
            repeat: whether it may be repeated; False if nobody can tell what that would do.

        Raises:
            APIUnavailableError: no good answer after the last attempt.
            RequestRefusedError: the API said no.
            MalformedAnswerError: the answer is not JSON, or not what `read` understands.
            UnsendableRequestError: the body cannot be put into JSON.
        """
        body = _body(f"{method} /{path}", json)
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._attempt(
                    method, path, body, read, vital=vital, alone=alone, as_text=as_text
                )
            except APIUnavailableError as error:
                if not repeat or attempt > self._config.max_retries:
                    raise
                delay = retry_delay(
                    attempt,
                    error.retry_after,
                    jitter=self._config.retry_jitter,
                    chance=self._chance(),
                )
                at_least = error.retry_after or 0
            await self._condition.sleep(delay, at_least=at_least)

    async def _attempt(
        self,
        method: str,
        path: str,
        body: bytes | None,
        read: Callable[[Any], T],
        *,
        vital: bool,
        alone: bool,
        as_text: bool,
    ) -> T:
        if not vital:
            changing = self._changes.place(alone=alone) if method != "GET" else nullcontext()
            async with changing, self._requests.place():
                return read(await self._exchange(method, path, body, alone=alone, as_text=as_text))
        try:
            answer = read(await self._exchange(method, path, body, as_text=as_text))
        except APIUnavailableError as error:
            self._condition.failed(str(error), retry_after=error.retry_after)
            raise
        except APIError as error:
            if is_outage(error):
                self._condition.failed(str(error), refused=isinstance(error, RequestRefusedError))
            else:
                self._condition.answered()
            raise
        self._condition.answered()
        return answer

    async def _exchange(
        self, method: str, path: str, body: bytes | None, *, as_text: bool, alone: bool = False
    ) -> Any:
        response = await self._send(method, path, body)
        if self._asks_for_csrf_token(response):
            await self._renew_csrf_token()
            response = await self._send(method, path, body)
        self._heed_refusal(method, response, alone=alone)
        self._raise_for_status(f"{method} /{path}", response)
        if date := response.headers.get("Date"):
            self._condition.dated(date)
        if response.status_code == 204 or not response.content:
            return None
        if as_text:
            return response.text
        try:
            return response.json()
        except ValueError as error:
            raise MalformedAnswerError(f"{method} /{path}", [_describe_body(response)]) from error

    def _heed_refusal(self, method: str, response: httpx.Response, *, alone: bool) -> None:
        """Let fewer requests go if the server cannot cope with so many."""
        if response.status_code == _TOO_MANY:
            self._requests.turned_away()
            self._requests.close(_retry_after(response) or 0)
        elif response.status_code == _UNAVAILABLE:
            if method == "GET" or self._changes.height == 1:
                self._requests.turned_away()
            if method != "GET":
                # Mostly its database is locked by another change, which keeps nobody from reading.
                self._changes.turned_away()
                self._changes.isolates |= alone

    @asynccontextmanager
    async def open_websocket(self, path: str, *, subprotocol: str) -> AsyncIterator[AsyncNetworkStream]:
        """Have a connection to the API turned into a websocket; what goes over it is the caller's business.

        There are no repetitions, and the condition of the API is told nothing. One websocket may be open besides
        the requests; a second one takes a connection away from them.

        Args:
            path: below the API's root, without leading slash.
            subprotocol: what is to be spoken.

        Raises:
            APIUnavailableError: no answer, or one that opens no websocket.
            RequestRefusedError: the API said no.
        """
        request = f"GET /{path}"
        async with AsyncExitStack() as stack:
            with self._failures_explained(request):
                response = await stack.enter_async_context(
                    self._client.stream("GET", path, headers=_upgrade_headers(subprotocol))
                )
                if response.status_code != 101:
                    await response.aread()
            if response.is_error:
                self._raise_for_status(request, response)
            stream = response.extensions.get("network_stream")
            if response.status_code != 101 or stream is None:
                raise APIUnavailableError(
                    f"{request} was answered with {response.status_code} instead of a websocket"
                )
            yield stream

    async def _send(self, method: str, path: str, body: bytes | None) -> httpx.Response:
        headers = self._csrf_headers if body is None else self._csrf_headers | _JSON_BODY
        with self._failures_explained(f"{method} /{path}"):
            try:
                with trio.fail_after(_TIMES_FOR_THE_WHOLE * self._config.timeout):
                    return await self._client.send(self._request(method, path, body, headers))
            except (httpx.TimeoutException, trio.TooSlowError):
                self._requests.turned_away()
                raise

    def _request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> httpx.Request:
        client = self._client
        if client.cookies:
            request = client.build_request(method, path, content=body, headers=headers)
        else:
            # The same in half the time, which counts when there are many.
            request = httpx.Request(
                method,
                f"{client.base_url}{path}",
                content=body,
                headers=client.headers.raw + list(httpx.Headers(headers).raw),
                extensions={"timeout": client.timeout.as_dict()},
            )
        if body is not None:
            request.stream = RequestBody(body)
        return request

    @contextmanager
    def _failures_explained(self, request: str) -> Iterator[None]:
        try:
            yield
        except (httpx.TimeoutException, trio.TooSlowError) as error:
            raise APIUnavailableError(
                f"no answer within {self._config.timeout:g} s from {self._config.shown_url}"
            ) from error
        except httpx.LocalProtocolError as error:
            # Its text would show the header that it is about, which may be the API key.
            raise APIError(
                "a header cannot be sent: see the API key and PREFECT_CLIENT_CUSTOM_HEADERS"
            ) from error
        except httpx.TransportError as error:
            raise APIUnavailableError(f"{_reason(error)} ({self._config.shown_url})") from error
        except (httpx.InvalidURL, UnicodeError) as error:
            raise APIError(
                f"PREFECT_API_URL {self._config.shown_url} cannot be used: {_without_quotation(error)}"
            ) from error
        except httpx.HTTPError as error:
            # What is left are answers that cannot be read: redirects in a circle, broken compression.
            raise MalformedAnswerError(request, [str(error)]) from error

    def _raise_for_status(self, request: str, response: httpx.Response) -> None:
        status = response.status_code
        if response.is_success:
            return
        detail = _detail(response)
        retryable = status in _RETRYABLE or status in self._config.retry_extra_codes
        if retryable or status >= 500:
            raise APIUnavailableError(
                f"{request} was answered with {status}: {detail}",
                retry_after=_retry_after(response),
            )
        if not response.is_client_error:
            raise MalformedAnswerError(request, [f"status {status}, which leads elsewhere"])
        if status == 404:
            # Prefect names what it did not find; the bare phrase is how its framework answers for a path that
            # does not exist at all, and a page of HTML is how other servers do.
            missing_api = detail == "Not Found" or "json" not in response.headers.get("Content-Type", "")
            raise (APINotFoundError if missing_api else ObjectNotFoundError)(request, status, detail)
        raise _REFUSALS.get(status, RequestRefusedError)(request, status, detail)

    def _asks_for_csrf_token(self, response: httpx.Response) -> bool:
        return self._config.csrf and response.status_code == 403 and "CSRF" in _detail(response)

    async def _renew_csrf_token(self) -> None:
        client_id = str(uuid4())
        response = await self._send("GET", f"csrf-token?client={client_id}", None)
        self._raise_for_status("GET /csrf-token", response)
        try:
            token = str(response.json()["token"])
            # What no header can hold must not be met with again at the next request.
            token.encode("ascii")
        except (ValueError, TypeError, KeyError) as error:
            raise MalformedAnswerError("GET /csrf-token", [_describe_body(response)]) from error
        self._csrf_headers = {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": client_id}


_REFUSALS: Mapping[int, type[RequestRefusedError]] = {
    401: NotAuthenticatedError,
    403: NotPermittedError,
    409: ObjectExistsError,
}


def _reason(error: httpx.TransportError) -> str:
    what = "no connection" if isinstance(error, httpx.ConnectError) else "connection lost"
    text = _text(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        text += "; PREFECT_API_SSL_CERT_FILE is for the authorities to trust"
    return f"{what}: {text}"


def _text(error: BaseException) -> str:
    """What an error says, or else what is behind it: of a failed TLS handshake only the innermost one speaks."""
    behind: BaseException | None = error
    while behind is not None:
        if str(behind):
            return str(behind)
        behind = behind.__cause__ or behind.__context__
    return ""


def _detail(response: httpx.Response) -> str:
    """What the API says about an error, in one line."""
    try:
        body = response.json()
    except ValueError:
        return _describe_body(response)
    if isinstance(body, dict):
        # Of a request that it cannot validate the server tells the interesting part in a list.
        body = body.get("detail") or body.get("exception_detail") or body.get("exception_message") or body
    text = body if isinstance(body, str) else describe_validation_errors(body) or repr(body)
    return " ".join(text.split())[:500]


def _describe_body(response: httpx.Response) -> str:
    kind = response.headers.get("Content-Type", "no content type").partition(";")[0]
    start = " ".join(response.text[:200].split())[:60]
    return f"not JSON but {kind}, beginning {start!r}" if start else "an empty body"


def _headers(config: TransportConfig) -> dict[str, str]:
    headers = {
        name: value for name, value in config.headers.items() if name.lower() not in _PROTECTED_HEADERS
    }
    headers["User-Agent"] = USER_AGENT
    if config.key and not (config.key.isprintable() and config.key.isascii()):
        raise APIError("PREFECT_API_KEY holds a character that cannot be sent, such as a line break.")
    if config.key:
        headers["Authorization"] = f"Bearer {config.key}"
    elif config.auth_string:
        try:
            credentials = base64.b64encode(config.auth_string.encode()).decode()
        except UnicodeEncodeError as error:
            raise APIError("PREFECT_API_AUTH_STRING holds bytes that are no text.") from error
        headers["Authorization"] = f"Basic {credentials}"
    return headers


def _upgrade_headers(subprotocol: str) -> dict[str, str]:
    return {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": base64.b64encode(secrets.token_bytes(16)).decode(),
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": subprotocol,
    }


def _verification(config: TransportConfig) -> Any:
    # Making an SSL context takes some 40 ms, which a worker that speaks plain HTTP should not spend.
    if not config.url.startswith("https:"):
        return False
    if isinstance(config.verify, bool):
        # Given a mere flag, httpx would make a context for each proxy besides.
        return httpx.create_ssl_context(verify=config.verify)
    import ssl  # noqa: PLC0415 - only where TLS is spoken

    try:
        return ssl.create_default_context(cafile=str(config.verify))
    except (OSError, ssl.SSLError) as error:
        raise APIError(
            f"the certificate file {config.verify} (PREFECT_API_SSL_CERT_FILE) cannot be used: {error}"
        ) from error


@asynccontextmanager
async def open_transport(
    config: TransportConfig,
    condition: Condition,
    *,
    chance: Callable[[], float] = random.random,
) -> AsyncIterator[Transport]:
    """Open the connection pool; no request is sent yet.

    Raises:
        APIError: the certificate file, the key, a header or a proxy cannot be used.
    """
    async with _make_client(config) as client:
        yield Transport(client, config, condition, chance)


def _make_client(config: TransportConfig) -> httpx.AsyncClient:
    try:
        return httpx.AsyncClient(
            base_url=f"{config.url}/",
            headers=_headers(config),
            verify=_verification(config),
            # Waiting for a free connection is not a failure of the API, so it has no timeout.
            timeout=httpx.Timeout(config.timeout, pool=None),
            limits=httpx.Limits(
                max_connections=_CONNECTIONS + _WEBSOCKETS,
                max_keepalive_connections=8,
                keepalive_expiry=25,
            ),
            follow_redirects=False,
        )
    except UnicodeEncodeError as error:
        raise APIError("PREFECT_CLIENT_CUSTOM_HEADERS: headers can hold ASCII characters only.") from error
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise APIError(
            f"The connection to {config.shown_url} cannot be set up; check the URL and the proxy variables"
            f" (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY): {_without_quotation(error)}"
        ) from error


def _without_quotation(error: Exception) -> str:
    """What is wrong with a URL; which part, may be part of a password that has a slash in it."""
    text = str(error)
    return text.partition(": ")[0] if isinstance(error, httpx.InvalidURL) else text
