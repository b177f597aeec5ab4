"""What the engine of a flow run and its worker say to each other on the control channel, as bytes.

The protocol is Prefect's. The engine begins with a token and a newline. Engines of version 2 go on with a hello, to
which the worker answers what it chose. Then either the worker tells an intent, a single byte that the engine
acknowledges with another one, or the engine sends a receipt for the state that it reported, which the worker
acknowledges likewise. Whichever is complete first concludes the attempt.

Everything here is pure: functions that take messages are given what has been received so far.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from trioworker.api.models import State, StateType
from trioworker.infrastructure.protocol import Intent
from trioworker.lean_attrs import frozen

_HELLO: Final = b"\x00PF"
_HELLO_SIZE: Final = len(_HELLO) + 2
_RECEIPT: Final = b"\x01"
_RECEIPT_HEAD_SIZE: Final = len(_RECEIPT) + 4
_LARGEST_RECEIPT: Final = 4096
_INTENT_ACKNOWLEDGED: Final = b"a"
_LONGEST_TOKEN: Final = 128
_FINAL_STATE_TYPES: Final = frozenset(state_type.value for state_type in StateType if state_type.is_final)

RECEIPT_ACKNOWLEDGED: Final = b"\x02"
"""Told to the engine once its receipt is taken down."""

BYTE_OF_INTENT: Final[Mapping[Intent, bytes]] = {"cancel": b"c", "reschedule": b"r", "relinquish": b"q"}
"""How the engine is told an intent."""


class MalformedMessageError(Exception):
    """What was received is no message of the protocol, whatever may follow."""


class Disposition(enum.StrEnum):
    """What an engine did about the state of its run."""

    STATE_REPORTED = "STATE_REPORTED"
    ORCHESTRATION_ABORTED = "ORCHESTRATION_ABORTED"


@frozen
class EngineReceipt:
    """An engine's word that it has done all there is to do about its run.

    Attributes:
        disposition: what that was.
        state_id: the state that it reported; None, as the other two, if the API told it to stop.
        state_type: the type of that state, as the API spells it.
        state_name: the name of that state.
    """

    disposition: Disposition
    state_id: UUID | None = None
    state_type: str | None = None
    state_name: str | None = None


def final_state(receipt: EngineReceipt) -> State | None:
    """The final state that an engine has reported and the API has accepted; None if the receipt is of no such state.

    The engine sends one for a pause too, after which the run may be anything.
    """
    if receipt.state_type not in _FINAL_STATE_TYPES:
        return None
    return State(id=receipt.state_id, type=StateType(receipt.state_type), name=receipt.state_name)


@frozen
class Hello:
    """The version and the capabilities of the protocol that one side offers or chooses."""

    version: int
    capabilities: int

    @property
    def receipts(self) -> bool:
        """Whether receipts are part of it."""
        return self.version >= _WITH_RECEIPTS.version and bool(
            self.capabilities & _WITH_RECEIPTS.capabilities
        )


_WITH_RECEIPTS: Final = Hello(version=2, capabilities=1)
_WITHOUT_RECEIPTS: Final = Hello(version=1, capabilities=0)


@frozen
class IntentAcknowledged:
    """The engine will act by the intent that it was told."""


Message = Hello | IntentAcknowledged | EngineReceipt


def choose(offer: Hello) -> Hello:
    """The best that both sides can do."""
    return _WITH_RECEIPTS if offer.receipts else _WITHOUT_RECEIPTS


def encode_hello(hello: Hello) -> bytes:
    """The bytes of a hello."""
    return _HELLO + bytes((hello.version, hello.capabilities))


def take_token(received: bytes) -> tuple[bytes, bytes] | None:
    """The token that a connection begins with, and the bytes after it; None while it is incomplete.

    Raises:
        MalformedMessageError: it is longer than any token.
    """
    token, newline, rest = received.partition(b"\n")
    if len(token) > _LONGEST_TOKEN:
        raise MalformedMessageError("instead of a token, a long line")
    return (token, rest) if newline else None


def take_message(received: bytes) -> tuple[Message, bytes] | None:
    """The first message of an engine, and the bytes after it; None while it is incomplete.

    Raises:
        MalformedMessageError: no message begins like that.
    """
    if not received:
        return None
    if received.startswith(_INTENT_ACKNOWLEDGED):
        return IntentAcknowledged(), received[1:]
    if received.startswith(_RECEIPT):
        return _take_receipt(received)
    if _HELLO.startswith(received[: len(_HELLO)]):
        return _take_hello(received)
    raise MalformedMessageError(f"no message begins with {received[:_HELLO_SIZE]!r}")


def _take_hello(received: bytes) -> tuple[Hello, bytes] | None:
    if len(received) < _HELLO_SIZE:
        return None
    version, capabilities = received[len(_HELLO) : _HELLO_SIZE]
    return Hello(version, capabilities), received[_HELLO_SIZE:]


def _take_receipt(received: bytes) -> tuple[EngineReceipt, bytes] | None:
    if len(received) < _RECEIPT_HEAD_SIZE:
        return None
    size = int.from_bytes(received[len(_RECEIPT) : _RECEIPT_HEAD_SIZE], "big")
    if size > _LARGEST_RECEIPT:
        raise MalformedMessageError(f"a receipt of {size} bytes")
    end = _RECEIPT_HEAD_SIZE + size
    if len(received) < end:
        return None
    return _decode_receipt(received[_RECEIPT_HEAD_SIZE:end]), received[end:]


def _decode_receipt(payload: bytes) -> EngineReceipt:
    try:
        fields: Any = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError(f"a receipt that is not JSON: {error}") from error
    match fields:
        case {"disposition": Disposition.ORCHESTRATION_ABORTED, **more} if not more:
            return EngineReceipt(Disposition.ORCHESTRATION_ABORTED)
        case {
            "disposition": Disposition.STATE_REPORTED,
            "state_id": str(state_id),
            "state_type": str(state_type),
            "state_name": str(state_name),
            **more,
        } if not more and 0 < len(state_type) <= 64:
            return EngineReceipt(Disposition.STATE_REPORTED, _uuid(state_id), state_type, state_name)
    raise MalformedMessageError("a receipt that has not the fields of one")


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise MalformedMessageError("a receipt with a malformed state id") from error
