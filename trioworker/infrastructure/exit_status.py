"""What the exit status of a process means, in words."""

from __future__ import annotations

import signal

_EXPLANATIONS = {
    0: "It ended as if all were well, but without reporting a final state.",
    1: "See the log of the flow run for an exception.",
    126: "The command is there but may not be executed: check its permissions.",
    127: "The command was not found: check the PATH of the run.",
    137: "Something in the run was killed by SIGKILL; often that is for want of memory.",
    143: "Something in the run was ended by SIGTERM.",
    -signal.SIGKILL: "SIGKILL often means that memory ran out; somebody may also have sent it.",
    -signal.SIGTERM: "SIGTERM was sent to it, by hand or by a shutdown.",
    -signal.SIGINT: "SIGINT was sent to it, as Ctrl-C does.",
    -signal.SIGSEGV: "It broke down in native code: suspect an extension module.",
}


def exit_message(status: int) -> str:
    """The exit status of a process as a sentence, negative numbers being signals."""
    explanation = _EXPLANATIONS.get(status, "")
    if status < 0:
        text = f"Process exited with status code: {status} ({_signal_name(-status)})."
    else:
        text = f"Process exited with status code: {status}."
    return f"{text} {explanation}".rstrip()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
