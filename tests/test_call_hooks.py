"""The program that calls hooks, with a Prefect that is only played; the real one: `test_process_with_prefect`."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import attrs
import pytest

from trioworker.infrastructure.process import call_hooks


class Document(SimpleNamespace):
    """What Prefect makes of a document."""

    @classmethod
    def model_validate_json(cls, text: str) -> Document:
        return cls(**json.loads(text))


@attrs.define
class PlayedPrefect:
    """A Prefect with one flow, and what is done with it."""

    flow: SimpleNamespace
    log: list[str] = attrs.field(factory=list)
    loading: Exception | None = None
    flushed: bool = False

    async def load(self, flow_run: Document) -> SimpleNamespace:
        assert flow_run.name == "red-fox"
        if self.loading is not None:
            raise self.loading
        return self.flow

    async def flush(self) -> None:
        self.flushed = True

    def logger(self, *_: object) -> SimpleNamespace:
        def write(message: str, *arguments: object) -> None:
            self.log.append(message % arguments)

        return SimpleNamespace(info=write, exception=write)


Call = Callable[[str], int]


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> PlayedPrefect:
    played = PlayedPrefect(SimpleNamespace(on_cancellation_hooks=[], on_crashed_hooks=[]))
    contents: dict[str, dict[str, Any]] = {
        "prefect": {},
        "prefect.client": {},
        "prefect.client.schemas": {},
        "prefect.client.schemas.objects": {"FlowRun": Document, "State": Document},
        "prefect.flows": {"load_flow_from_flow_run": played.load},
        "prefect.logging": {},
        "prefect.logging.handlers": {"APILogHandler": SimpleNamespace(aflush=played.flush)},
        "prefect.logging.loggers": {"flow_run_logger": played.logger},
    }
    for name, attributes in contents.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    return played


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run the program for a kind of hooks."""
    (tmp_path / "flow_run.json").write_text('{"name": "red-fox"}')
    (tmp_path / "state.json").write_text('{"name": "Crashed"}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(Path(call_hooks.__file__).parent), *sys.path])

    def run(kind: str) -> int:
        monkeypatch.setattr(sys, "argv", ["call_hooks.py", kind, "flow_run.json", "state.json"])
        return call_hooks.main()

    return run


def test_hooks_of_the_kind_are_called_in_turn_with_what_prefect_tells_them(
    prefect: PlayedPrefect, call: Call
) -> None:
    told = []

    def plain(flow: object, flow_run: Document, state: Document) -> None:
        told.append(("plain", flow, flow_run.name, state.name))

    async def of_its_own(flow: object, flow_run: Document, state: Document) -> None:
        told.append(("async", flow, flow_run.name, state.name))

    def other(**_: object) -> None:
        told.append(("other",))  # type: ignore[arg-type]

    prefect.flow.on_crashed_hooks = [plain, of_its_own]
    prefect.flow.on_cancellation_hooks = [other]
    assert call("crashed") == 0
    assert told == [
        ("plain", prefect.flow, "red-fox", "Crashed"),
        ("async", prefect.flow, "red-fox", "Crashed"),
    ]
    assert prefect.log == [
        "Running hook 'plain' in response to entering state 'Crashed'",
        "Hook 'plain' finished running successfully",
        "Running hook 'of_its_own' in response to entering state 'Crashed'",
        "Hook 'of_its_own' finished running successfully",
    ]
    assert prefect.flushed


class HookObject:
    def __call__(self, **_: object) -> None: ...


def test_hook_that_fails_is_logged_and_hurts_no_other(prefect: PlayedPrefect, call: Call) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("broken")

    prefect.flow.on_crashed_hooks = [functools.partial(broken), HookObject()]
    assert call("crashed") == 0
    assert prefect.log[1] == "An error was encountered while running hook 'broken'"
    assert prefect.log[-1] == "Hook 'HookObject' finished running successfully"


@pytest.mark.parametrize("hooks", [[], None])
def test_flow_without_hooks_is_left_alone(prefect: PlayedPrefect, call: Call, hooks: Any) -> None:
    prefect.flow.on_cancellation_hooks = hooks
    assert call("cancellation") == 0
    assert prefect.log == []


def test_flow_that_cannot_be_loaded_is_an_error_in_one_line(
    prefect: PlayedPrefect, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    prefect.loading = RuntimeError("no flow here")
    assert call("crashed") == 1
    assert capsys.readouterr().err == (
        "The flow whose hooks are to be called cannot be loaded: RuntimeError: no flow here\n"
    )
    assert prefect.flushed


def test_modules_are_looked_for_where_the_flow_runs_and_not_beside_the_program(
    prefect: PlayedPrefect, call: Call, tmp_path: Path
) -> None:
    assert call("crashed") == 0
    assert sys.path[0] == str(tmp_path)
    assert str(Path(call_hooks.__file__).parent) not in sys.path
