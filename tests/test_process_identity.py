"""Which process it was: real processes, other machines, and what a ledger may say of them."""

from __future__ import annotations

import json
import os
import signal
from typing import Any
from uuid import uuid4

import attrs
import pytest
from orphans import OBEDIENT, child_with_number, orphan, parent_of

from trioworker import process_table
from trioworker.infrastructure.process.identity import Machine, ProcessDetails, Sight, mark_of

on_linux = pytest.mark.skipif(not process_table.is_there(), reason="only Linux tells of its processes")

HOST = Machine(host="host", boot="boot", namespace="pid:[1]", ends_with_worker=False)
CONTAINER = attrs.evolve(HOST, namespace="pid:[2]", ends_with_worker=True)


def details(machine: Machine | None = None, started: int | None = None) -> ProcessDetails:
    return ProcessDetails(machine=machine or Machine.this(), started=started, private="/nowhere")


# Machines


@pytest.mark.parametrize(
    ("earlier", "now", "has"),
    [
        pytest.param(HOST, HOST, True, id="same"),
        pytest.param(HOST, attrs.evolve(HOST, host="renamed"), True, id="renamed"),
        pytest.param(HOST, attrs.evolve(HOST, boot="next"), False, id="started anew"),
        pytest.param(
            HOST, attrs.evolve(HOST, boot="next", namespace="pid:[2]"), False, id="anew, in a container"
        ),
        pytest.param(HOST, attrs.evolve(HOST, boot="other", host="other"), None, id="another machine"),
        pytest.param(
            HOST, attrs.evolve(HOST, namespace="pid:[2]"), None, id="the host, seen from a container"
        ),
        pytest.param(CONTAINER, CONTAINER, True, id="same container"),
        pytest.param(CONTAINER, HOST, False, id="a container that is gone"),
        pytest.param(CONTAINER, attrs.evolve(CONTAINER, namespace="pid:[3]"), False, id="the next container"),
        pytest.param(CONTAINER, attrs.evolve(CONTAINER, host="x", boot="x"), False, id="the next, elsewhere"),
        pytest.param(
            attrs.evolve(CONTAINER, ends_with_worker=False),
            attrs.evolve(CONTAINER, namespace="pid:[3]"),
            None,
            id="a container that may go on",
        ),
        pytest.param(attrs.evolve(HOST, boot=""), attrs.evolve(HOST, boot=""), None, id="no boots"),
        pytest.param(attrs.evolve(HOST, boot=""), HOST, None, id="no boot then"),
        pytest.param(HOST, attrs.evolve(HOST, boot=""), None, id="no boot now"),
    ],
)
def test_processes_may_be_there_or_gone_or_out_of_sight(
    earlier: Machine, now: Machine, has: bool | None
) -> None:
    assert now.still_has_processes_of(earlier) is has


@on_linux
def test_this_machine_is_the_same_all_the_time() -> None:
    here = Machine.this()
    assert here == Machine.this()
    assert here.boot
    assert here.namespace.startswith("pid:[")
    assert here.still_has_processes_of(here) is True


@pytest.mark.parametrize(
    ("namespace", "pid", "parent", "ends"),
    [
        ("pid:[4026532000]", 1, 0, True),
        ("pid:[4026532000]", 7, 1, True),
        ("pid:[4026532000]", 7, 6, False),
        ("pid:[4026532000]", 7, 0, False),
        # There process 1 is the machine's own, and goes on.
        ("pid:[4026531836]", 700, 1, False),
    ],
)
def test_worker_that_is_the_first_of_its_container_takes_its_processes_along(
    monkeypatch: pytest.MonkeyPatch, namespace: str, pid: int, parent: int, ends: bool
) -> None:
    monkeypatch.setattr("trioworker.infrastructure.process.identity._link", lambda _: namespace)
    monkeypatch.setattr(os, "getpid", lambda: pid)
    monkeypatch.setattr(os, "getppid", lambda: parent)
    assert Machine.this().ends_with_worker is ends


# What is written down


@pytest.mark.parametrize(
    "written",
    [
        details(),
        details(started=123456789),
        attrs.evolve(details(), temporary="/tmp/x\N{FOX FACE}", stream_output=False),
    ],
)
def test_details_are_read_as_they_were_written(written: ProcessDetails) -> None:
    assert ProcessDetails.decode(written.encode()) == written


GOOD = json.loads(details(HOST, 5).encode())


def changed(**fields: Any) -> str:
    return json.dumps({**GOOD, **fields})


MALFORMED = {
    "nothing": "",
    "no JSON": "{",
    "null": "null",
    "a list": "[]",
    "text": '"text"',
    "a number": "5",
    "no fields": "{}",
    "deep": "[" * 100_000,
    "many digits": changed().replace(": 5,", ": " + "5" * 10_000 + ","),
    "no machine": changed(machine=None),
    "an empty machine": changed(machine={}),
    "a machine of other things": changed(machine={**GOOD["machine"], "boot": 5}),
    "a start that is text": changed(started="5"),
    "a start that is a fraction": changed(started=5.0),
    "no directory": changed(private=None),
    "a directory of another kind": changed(temporary=5),
    "an output of another kind": changed(stream_output=1),
    "not a number": changed().replace(": 5,", ": NaN,"),
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_malformed_details_are_none(text: str) -> None:
    assert ProcessDetails.decode(text) is None


def test_details_of_a_later_version_are_understood_as_far_as_they_go() -> None:
    assert ProcessDetails.decode(changed(more=1)) == details(HOST, 5)


# What is seen of it


@on_linux
@pytest.mark.process
class TestSight:
    async def test_process_that_lives_is_seen_until_it_ends(self) -> None:
        async with orphan(OBEDIENT) as one:
            await one.line()
            known = details().of_process(one.pid)
            assert known.started == one.started
            assert known.see(one.pid, uuid4()) == Sight(pid=one.pid)
            os.kill(one.pid, signal.SIGKILL)
            await one.silence()
            await one.reaped()
            assert known.see(one.pid, uuid4()) == Sight(gone=True)

    async def test_another_process_of_the_number_is_not_taken_for_it(self) -> None:
        async with orphan(OBEDIENT) as one:
            await one.line()
            for started in (one.started - 1, one.started + 1, None):
                assert details(started=started).see(one.pid, uuid4()) == Sight(gone=True)

    async def test_process_that_the_kernel_has_given_the_number_to_is_not_taken_for_it(self) -> None:
        async with orphan(OBEDIENT) as one:
            await one.line()
            known = details(started=one.started)
            os.kill(one.pid, signal.SIGKILL)
            await one.reaped()
            with child_with_number(one.pid):
                assert process_table.lives(one.pid)
                assert details().of_process(one.pid).started != one.started
                assert known.see(one.pid, uuid4()) == Sight(gone=True)

    async def test_number_of_another_machine_is_not_looked_up(self) -> None:
        async with orphan(OBEDIENT) as one:
            await one.line()
            here = Machine.this()
            elsewhere = attrs.evolve(here, host="elsewhere", boot="other")
            assert details(elsewhere, one.started).see(one.pid, uuid4()) == Sight()
            anew = attrs.evolve(here, boot="other")
            assert details(anew, one.started).see(one.pid, uuid4()) == Sight(gone=True)

    async def test_process_that_was_about_to_start_is_found_by_its_run(self) -> None:
        run_id = uuid4()
        name, _, value = mark_of(run_id).partition("=")
        assert details().see(None, run_id) == Sight(gone=True)
        async with orphan(parent_of(OBEDIENT), {name: value}) as one:
            await one.line()
            # Its child bears the mark as well, but leads nothing.
            assert details().see(None, run_id) == Sight(pid=one.pid)
            assert details().see(None, uuid4()) == Sight(gone=True)
            os.kill(one.pid, signal.SIGKILL)
            await one.reaped()
            assert details().see(None, run_id) == Sight(gone=True)

    async def test_mark_is_the_whole_value(self) -> None:
        async with orphan(OBEDIENT, {"PREFECT__FLOW_RUN_ID": "abcd", "XPREFECT__FLOW_RUN_ID": "abc"}) as one:
            await one.line()
            assert details().see(None, "abc") == Sight(gone=True)


def test_without_a_table_nothing_is_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = attrs.evolve(Machine.this(), boot="boot")
    monkeypatch.setattr(Machine, "this", classmethod(lambda _: machine))
    monkeypatch.setattr(process_table, "is_there", lambda: False)
    known = details(machine).of_process(os.getpid())
    assert known.started is None
    assert known.see(os.getpid(), uuid4()) == Sight()
    assert known.see(None, uuid4()) == Sight()
