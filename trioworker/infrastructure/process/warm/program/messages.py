"""What a worker, a template process and the children of that say to each other.

All of it goes over sockets that keep messages apart. The template has one to the worker for as long as it lives; each
child has one of its own until it has begun to execute its flow run:

    template -> worker: Ready, or Refusal if it cannot be a template
    worker -> template: FORK, with two descriptors: a file with the Job, and the child's socket
    template -> worker, on the child's socket: Born, or Refusal if it cannot be forked
    child -> worker: Born too, since either may be killed before it can tell; then Ready or Refusal
    worker -> child: GO; if it hears nothing, the child ends before it has done anything
    child -> worker: how it goes on to the engine of the flow run: Ready in itself, Refusal in a program of its own

A worker that loses a template, or loses patience with it, before it has said GO, can therefore start the flow run
otherwise: nobody else has begun it, nor ever will.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

FORK = b"fork"
GO = b"go"

LARGEST_MESSAGE = 65536

# So many characters are told of what is wrong. Any of them may become 12 bytes.
_LONGEST_REASON = 4000


class Ready(NamedTuple):
    """It can go on.

    Attributes:
        problems: what somebody should hear of, all the same.
    """

    problems: Sequence[str] = ()


class Born(NamedTuple):
    """A child is there."""

    pid: int


class Refusal(NamedTuple):
    """It cannot go on, and has done nothing yet that matters.

    Attributes:
        reason: why, as the part of a sentence after "because".
        is_stale: whether another template could do what this one cannot, because something has changed since.
    """

    reason: str
    is_stale: bool = False


class Job(NamedTuple):
    """What a child is to do.

    Attributes:
        module: of Prefect, to be run as `python -m` would.
        arguments: of that.
        directory: where.
        environment: with what environment; whole.
    """

    module: str
    arguments: list[str]
    directory: str
    environment: dict[str, str]


Message = Ready | Born | Refusal

_KINDS = {kind.__name__: kind for kind in (Ready, Born, Refusal)}


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    if isinstance(message, Refusal):
        message = message._replace(reason=message.reason[:_LONGEST_REASON])
    if isinstance(message, Ready) and message.problems:
        longest = _LONGEST_REASON // len(message.problems)
        message = Ready([problem[:longest] for problem in message.problems])
    return json.dumps([type(message).__name__, *message]).encode()


def decode(data: bytes) -> Message:
    """The message that bytes are.

    Raises:
        ValueError: they are none.
    """
    try:
        name, *fields = json.loads(data)
        message: Message = _KINDS[name](*fields)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"not a message: {data[:100]!r}") from error
    return message


def encode_job(job: Job) -> bytes:
    """The bytes of a job. Text that is no Unicode comes through as it is."""
    return json.dumps(job).encode()


def decode_job(data: bytes) -> Job:
    """The job that bytes are."""
    return Job(*json.loads(data))
