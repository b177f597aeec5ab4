"""Messages as bytes, compared with what Prefect's own functions make of the same."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trioworker.infrastructure.process.attempt_protocol import (
    BYTE_OF_INTENT,
    RECEIPT_ACKNOWLEDGED,
    Disposition,
    EngineReceipt,
    Hello,
    IntentAcknowledged,
    MalformedMessageError,
    choose,
    encode_hello,
    take_message,
    take_token,
)


def _prefects_own() -> ModuleType:
    """Prefect's module by its file: importing the package would take seconds and configure logging."""
    package = importlib.util.find_spec("prefect")
    if package is None or package.origin is None:
        pytest.skip("Prefect is not installed", allow_module_level=True)
    file = Path(package.origin).parent / "_internal" / "attempt_control.py"
    spec = importlib.util.spec_from_file_location("_attempt_control_of_prefect", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


prefect: Any = _prefects_own()

bytes_of_one = st.integers(0, 255)
hellos = st.builds(Hello, bytes_of_one, bytes_of_one)
# Their JSON stays below the limit, be every character of the name spelled as two escapes.
receipts = st.just(EngineReceipt(Disposition.ORCHESTRATION_ABORTED)) | st.builds(
    EngineReceipt,
    st.just(Disposition.STATE_REPORTED),
    st.uuids(),
    st.text(min_size=1, max_size=64),
    st.text(max_size=200),
)
messages = st.one_of(
    st.just((IntentAcknowledged(), b"a")),
    hellos.map(lambda hello: (hello, encode_hello(hello))),
    receipts.map(lambda receipt: (receipt, prefects_bytes(receipt))),
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
# Nearly receipts: what a field may be, and what it may not.
receipt_like = st.fixed_dictionaries(
    {},
    optional={
        "disposition": st.sampled_from([*Disposition, "OTHER", "state_reported"]) | json_values,
        "state_id": st.uuids().map(str) | json_values,
        "state_type": st.text(min_size=60, max_size=70) | st.just("COMPLETED") | json_values,
        "state_name": json_values,
        "more": json_values,
    },
)


def prefects_bytes(receipt: EngineReceipt) -> bytes:
    disposition = prefect.EngineDisposition(receipt.disposition.value)
    encoded: bytes = prefect.encode_receipt(
        prefect.EngineOutcomeReceipt(disposition, receipt.state_id, receipt.state_type, receipt.state_name)
    )
    return encoded


def prefects_opinion(payload: bytes) -> EngineReceipt | None:
    try:
        receipt = prefect.decode_receipt(payload)
    except (ValueError, TypeError, RecursionError):
        return None
    return EngineReceipt(
        Disposition(receipt.disposition.value), receipt.state_id, receipt.state_type, receipt.state_name
    )


def our_opinion(payload: bytes) -> EngineReceipt | None:
    try:
        taken = take_message(b"\x01" + len(payload).to_bytes(4, "big") + payload)
    except MalformedMessageError:
        return None
    assert taken is not None
    receipt, rest = taken
    assert isinstance(receipt, EngineReceipt)
    assert rest == b""
    return receipt


def test_intents_and_acknowledgements_are_prefects() -> None:
    assert BYTE_OF_INTENT == prefect.BYTE_FOR_INTENT
    assert RECEIPT_ACKNOWLEDGED == prefect.RECEIPT_ACK


@given(messages, st.binary())
def test_a_message_is_taken_and_what_follows_it_is_left(
    message: tuple[object, bytes], following: bytes
) -> None:
    expected, encoded = message
    assert take_message(encoded + following) == (expected, following)


@given(messages)
def test_an_incomplete_message_is_waited_for(message: tuple[object, bytes]) -> None:
    _, encoded = message
    assert [take_message(encoded[:length]) for length in range(len(encoded))] == [None] * len(encoded)


@given(st.binary() | st.builds(bytes.__add__, st.sampled_from([b"\x00PF", b"\x01\x00\x00"]), st.binary()))
def test_bytes_are_a_message_or_the_beginning_of_one_or_malformed(received: bytes) -> None:
    try:
        taken = take_message(received)
    except MalformedMessageError:
        return
    assert taken is None or received.endswith(taken[1])


@pytest.mark.parametrize("received", [b"b", b"\x00Q", b"\x00PG", b"\x01\x00\x00\x10\x01", b"\x02", b"\xff"])
def test_what_cannot_become_a_message_is_malformed_at_once(received: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        take_message(received)


@given(hellos)
def test_a_hello_is_read_by_prefect_as_it_was_meant(hello: Hello) -> None:
    assert prefect.decode_negotiation(encode_hello(hello)) == (hello.version, hello.capabilities)


@given(hellos)
def test_a_hello_of_prefect_is_read_as_it_was_meant(hello: Hello) -> None:
    encoded = prefect.encode_negotiation(hello.version, hello.capabilities)
    assert take_message(encoded) == (hello, b"")


@pytest.mark.parametrize(
    ("offer", "choice"),
    [
        (Hello(2, 1), Hello(2, 1)),
        (Hello(3, 0b111), Hello(2, 1)),
        (Hello(2, 0b110), Hello(1, 0)),
        (Hello(1, 0), Hello(1, 0)),
        (Hello(1, 1), Hello(1, 0)),
        (Hello(0, 0), Hello(1, 0)),
    ],
)
def test_receipts_are_chosen_if_the_engine_offers_them(offer: Hello, choice: Hello) -> None:
    assert choose(offer) == choice


@given(json_values.map(lambda value: json.dumps(value).encode()) | st.binary())
@example(b"[" * 4096)
@example('{"disposition": "ORCHESTRATION_ABORTED"}'.encode("utf-16"))
@example(b"\xef\xbb\xbf{}")
def test_payloads_are_judged_as_prefect_judges_them(payload: bytes) -> None:
    payload = payload[:4096]
    assert our_opinion(payload) == prefects_opinion(payload)


@given(receipt_like)
@example(
    {"disposition": "STATE_REPORTED", "state_id": "no UUID", "state_type": "COMPLETED", "state_name": "x"}
)
@example({"disposition": "ORCHESTRATION_ABORTED"})
@example({"disposition": "ORCHESTRATION_ABORTED", "state_name": None})
@example({"disposition": "STATE_REPORTED", "state_id": str(UUID(int=1)), "state_type": "", "state_name": "x"})
@example(
    {
        "disposition": "STATE_REPORTED",
        "state_id": "{" + str(UUID(int=1)) + "}",
        "state_type": "x",
        "state_name": "",
    }
)
def test_receipts_are_judged_as_prefect_judges_them(fields: dict[str, Any]) -> None:
    payload = json.dumps(fields).encode()
    assert our_opinion(payload) == prefects_opinion(payload)


def test_a_receipt_may_have_4096_bytes_and_no_more() -> None:
    payload = json.dumps({"disposition": "ORCHESTRATION_ABORTED"}).encode()
    assert our_opinion(payload.ljust(4096)) == EngineReceipt(Disposition.ORCHESTRATION_ABORTED)
    assert our_opinion(payload.ljust(4097)) is None


@given(st.binary(max_size=128).filter(lambda token: b"\n" not in token), st.binary())
def test_a_token_ends_with_its_line(token: bytes, following: bytes) -> None:
    assert take_token(token) is None
    assert take_token(token + b"\n" + following) == (token, following)


@given(st.binary(min_size=129).filter(lambda line: b"\n" not in line[:129]))
def test_no_token_is_as_long_as_that(line: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        take_token(line)
