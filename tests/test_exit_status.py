"""What is said of the end of a process."""

from __future__ import annotations

import pytest

from trioworker.infrastructure.exit_status import exit_hint, exit_message


@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [
        (1, "could not handle", "exception"),
        (125, "container could not be run", "image"),
        (126, "may not be executed", "permissions"),
        (127, "not found", "PATH"),
        (137, "SIGKILL", "memory"),
        (143, "SIGTERM", "meant"),
        (247, "memory", "memory"),
        (-9, "SIGKILL", "memory"),
        (-15, "SIGTERM", "meant"),
        (-11, "SIGSEGV", "extension module"),
        (139, "SIGSEGV", "extension module"),
        (-2, "SIGINT", "meant"),
        (-10, "ended by SIGUSR1", "what sends SIGUSR1"),
        (7, "no meaning by convention", "output of the worker"),
        (-999, "no meaning by convention", "output of the worker"),
    ],
)
def test_status_is_said_as_prefect_says_it_and_explained(status: int, message: str, hint: str) -> None:
    said = exit_message(status)
    assert said.startswith(f"Process exited with status code: {status}. ")
    assert message in said
    assert hint in exit_hint(status)


def test_good_status_is_no_good_end_without_a_final_state() -> None:
    assert "status code: 0. " in exit_message(0)
    assert "reported no final state" in exit_message(0)
    assert "os._exit" in exit_hint(0)
