"""What the exit status of a flow run's process means, and what to do about it, in words."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Final

from trioworker.lean_attrs import frozen

# To a shell, and to what runs containers, the end by a signal is this and the number of the signal.
_SIGNAL_BASE: Final = 128


@frozen
class _Meaning:
    explanation: str
    hint: str


_OUT_OF_MEMORY = (
    "Compare the memory that the flow needs with what its machine or container has; give it more."
)

_KNOWN: Final[Mapping[int, _Meaning]] = {
    0: _Meaning(
        "Nothing seems to have gone wrong in it, but it reported no final state.",
        "Look for what ends the process behind the engine's back, such as os._exit() in the flow or a command"
        " that does not run the flow at all.",
    ),
    1: _Meaning(
        "It came upon an error that it could not handle.",
        "The exception is in the log of the flow run, or in the output of the worker if the flow had not begun.",
    ),
    125: _Meaning(
        "A container could not be run: this is what Docker and its like end with.",
        "Check that the image is there, that its entrypoint is right and that the container runtime works.",
    ),
    126: _Meaning(
        "The command is there, but may not be executed.",
        "Check its permissions: it has to be marked as executable for the user of the worker.",
    ),
    127: _Meaning(
        "The command was not found.",
        "Check that it is installed where the flow runs, and the PATH of the flow run.",
    ),
    247: _Meaning("It was ended for the memory that it used.", _OUT_OF_MEMORY),
}

_SIGNALS: Final[Mapping[int, _Meaning]] = {
    signal.SIGKILL: _Meaning(
        "It was killed (SIGKILL): most often by a system that ran out of memory, else by somebody on purpose.",
        f"If nobody did it on purpose: {_OUT_OF_MEMORY[0].lower()}{_OUT_OF_MEMORY[1:]}",
    ),
    signal.SIGTERM: _Meaning(
        "It was told to end (SIGTERM), as a shutdown or a cancellation does.",
        "Nothing is to be done if that was meant; else find out what stops processes on this machine.",
    ),
    signal.SIGINT: _Meaning(
        "It was interrupted (SIGINT), as Ctrl-C does.", "Nothing is to be done if that was meant."
    ),
    signal.SIGSEGV: _Meaning(
        "It broke down in native code (SIGSEGV).",
        "Suspect an extension module; PYTHONFAULTHANDLER=1 in the flow run's env shows where it happens.",
    ),
    signal.SIGABRT: _Meaning(
        "Native code in it gave up (SIGABRT).",
        "Its last words are in the output of the worker; suspect an extension module.",
    ),
}


def exit_message(status: int) -> str:
    """The exit status of a process as sentences, negative numbers being signals; begins as Prefect's does."""
    return f"Process exited with status code: {status}. {_meaning(status).explanation}"


def exit_hint(status: int) -> str:
    """What somebody may do about a process that ended so."""
    return _meaning(status).hint


def _meaning(status: int) -> _Meaning:
    known = _KNOWN.get(status)
    if known is not None:
        return known
    number = -status if status < 0 else status - _SIGNAL_BASE
    try:
        name = signal.Signals(number).name
    except ValueError:
        return _Meaning(
            "That status has no meaning by convention.",
            "Look for it in the flow, or in what its command runs; the output of the worker may tell more.",
        )
    of_signal = _SIGNALS.get(number)
    if of_signal is not None:
        return of_signal
    return _Meaning(f"It was ended by {name}.", f"Find out what sends {name} on this machine.")
