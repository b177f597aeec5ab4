"""A template process and what is forked from it, with a stand-in for Prefect, under faults at every moment."""

from __future__ import annotations

import array
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import trio
import trio.testing
from process_support import (
    descriptors,
    executed,
    infrastructure,
    no_more_descriptors,
    standard_output_to,
)
from template_support import (
    ENGINE,
    SUPERVISOR,
    Site,
    children,
    ended,
    gone,
    lines_of,
    make_site,
    open_template,
    open_templates,
)

from trioworker.infrastructure.process.warm import template as template_module
from trioworker.infrastructure.process.warm.program.messages import (
    FORK,
    Born,
    Job,
    Ready,
    Refusal,
    decode,
    encode_job,
)
from trioworker.infrastructure.process.warm.template import RefusedError, Template
from trioworker.infrastructure.process.warm.templates import Templates
from trioworker.infrastructure.protocol import Outcome
from trioworker.process_group import ProcessGroup

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has warm starts"),
]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Where what plays Prefect is; at the end, nothing may be left of what was started."""
    before = children()
    yield make_site(tmp_path)
    assert children() <= before


@pytest.fixture
def debug(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


async def forked_and_ended(template: Template, job: Job) -> int:
    """The status of a flow run from its fork to its end."""
    forked = await template.fork(job)
    with forked.connection:
        await forked.engine()
    return await ended(forked.group)


async def run_to_end(templates: Templates, job: Job) -> int:
    """As that, of one of several templates."""
    return await ended(await templates.fork(job, stream_output=True))


async def executed_in(site: Site, **values: str) -> Outcome:
    """A flow run by the infrastructure, which has a template of its own."""
    where = infrastructure(site.root, site.environment(**values))
    async with where.open():
        return await executed(where, {"working_dir": str(site.work)})


def template_pids(caplog: pytest.LogCaptureFixture) -> list[int]:
    """The template that each flow run was forked from."""
    return [int(line.rpartition(" ")[2]) for line in lines_of(caplog) if "was forked from template" in line]


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Why each flow run was started in a fresh process."""
    return [line.partition("because ")[2] for line in lines_of(caplog) if line.startswith("A fresh process")]


class TestForkedProcess:
    async def test_is_the_workers_own_child_and_leads_session_and_group(self, site: Site) -> None:
        asked = "[os.getpid(), os.getppid(), os.getsid(0), os.getpgid(0)]"
        async with open_template(site) as template:
            job = site.job(FLOW=site.say(asked))
            forked = await template.fork(job)
            with forked.connection:
                assert isinstance(await forked.engine(), Ready)
            assert await ended(forked.group) == 0
        pid = forked.group.pid
        assert site.said() == [[pid, os.getpid(), pid, pid]]
        assert site.stages == ["supervisor", "engine"]

    @pytest.mark.parametrize(
        ("flow", "status"),
        [
            ("", 0),
            ("sys.exit(7)", 7),
            ("raise ValueError('what a flow says')", 1),
            ("os._exit(3)", 3),
            ("os.kill(os.getpid(), 9)", -9),
            ("os.kill(os.getpid(), 15)", -15),
        ],
    )
    async def test_ends_with_the_status_of_its_engine(self, site: Site, flow: str, status: int) -> None:
        async with open_template(site) as template:
            assert await forked_and_ended(template, site.job(FLOW=flow)) == status

    @pytest.mark.parametrize(
        ("program", "status"),
        [
            ("sys.exit(7)", 7),
            ("raise ValueError('what a supervisor says')", 1),
            ("os.kill(os.getpid(), 9)", -9),
            ("os.kill(os.getpid(), 15)", -15),
            ("sys.exit(0)", 0),
        ],
    )
    async def test_ends_as_its_supervisor_without_engine_if_that_prepares_nothing(
        self, site: Site, program: str, status: int
    ) -> None:
        async with open_template(site) as template:
            assert await forked_and_ended(template, site.job(SUPERVISOR=program)) == status
        assert site.stages == ["supervisor"]

    async def test_goes_on_when_its_template_is_killed_and_has_its_status_read(self, site: Site) -> None:
        fifo = site.root / "fifo"
        os.mkfifo(fifo)
        async with open_template(site) as template:
            forked = await template.fork(site.job(FLOW=f"open({str(fifo)!r}).read()\nsys.exit(7)"))
            with forked.connection:
                await forked.engine()
            os.kill(template.pid, signal.SIGKILL)
            await template.wait_ended()
            # Whoever opens it for writing waits for the flow, which goes on then.
            await trio.to_thread.run_sync(fifo.write_bytes, b"")
            assert await ended(forked.group) == 7

    async def test_is_ended_with_all_it_has_started(self, site: Site) -> None:
        fifo = site.root / "fifo"
        os.mkfifo(fifo)
        program = "import subprocess; child = subprocess.Popen(['sleep', '1000'])\n"
        told = f"with open({str(fifo)!r}, 'w') as file: file.write(str(child.pid))\nchild.wait()"
        async with open_template(site) as template:
            forked = await template.fork(site.job(FLOW=program + told))
            with forked.connection:
                await forked.engine()
            sleeping = int(await trio.to_thread.run_sync(fifo.read_text))
            assert await forked.group.terminate(0) == -9
            await gone(sleeping)

    async def test_has_no_descriptor_but_the_standard_ones(self, site: Site) -> None:
        # The directory that is listed is the last one.
        listed = site.say("sorted(map(int, os.listdir('/proc/self/fd')))[:-1]")
        async with open_template(site) as template:
            for module in (SUPERVISOR, ENGINE):
                assert await forked_and_ended(template, site.job(module, FLOW=listed)) == 0
        assert site.said() == [[0, 1, 2], [0, 1, 2]]

    async def test_large_and_unreadable_environment_arrives_whole(self, site: Site) -> None:
        large = {f"LARGE_{number}": str(number) * 100_000 for number in range(3)}
        strange = {"STRANGE": os.fsdecode(b"\xff\xfe caf\xe9"), os.fsdecode(b"N\xe4me"): "value"}
        told = site.say("{name: os.environ[name] for name in os.environ if name[0] in 'LSN'}")
        async with open_template(site) as template:
            for module in (SUPERVISOR, ENGINE):
                assert await forked_and_ended(template, site.job(module, FLOW=told, **large, **strange)) == 0
        for said in site.said():
            assert {name: said[name] for name in (*large, *strange)} == {**large, **strange}

    async def test_hundred_leak_no_descriptor_and_share_no_random_state(self, site: Site) -> None:
        # Imported already, so that all of them might have the same state.
        modules = ("random", "uuid", "secrets", "tempfile")
        states = "import random, uuid, secrets, ssl, tempfile, multiprocessing\n" + site.say(
            "dict(random=random.random(), uuid=str(uuid.uuid4()), secrets=secrets.token_hex(),"
            " ssl=ssl.RAND_bytes(16).hex(), tempfile=next(tempfile._get_candidate_names()),"
            " authkey=multiprocessing.current_process().authkey.hex())"
        )
        job = site.job(SUPERVISOR=states, FLOW=states)
        async with open_template(site, *modules) as template:
            assert await forked_and_ended(template, job) == 0
            ours, its = descriptors(os.getpid()), descriptors(template.pid)
            for _ in range(99):
                assert await forked_and_ended(template, job) == 0
            assert descriptors(os.getpid()) == ours
            await no_more_descriptors(template.pid, its)
        said = site.said()
        # Both stages of each.
        assert len(said) == 200
        for name in said[0]:
            assert len({states[name] for states in said}) == 200, name

    async def test_engine_is_a_fresh_process_if_the_supervisor_wants_another_program(
        self, site: Site
    ) -> None:
        program = (
            "os.execvpe(sys.executable, [sys.executable, '-c', 'raise SystemExit(7)'], dict(os.environ))"
        )
        async with open_template(site) as template:
            forked = await template.fork(site.job(SUPERVISOR=program))
            with forked.connection:
                engine = await forked.engine()
            assert isinstance(engine, Refusal)
            assert "another program" in engine.reason
            assert await ended(forked.group) == 7


# Where the template is killed or stopped, and whether its flow run can do without another process.
BEFORE_GO = (
    "importing",
    "template-says-Ready",
    "before-fork",
    "after-fork",
    "child-says-Born",
    "after-born",
    "child-says-Ready",
)
AFTER_GO = ("after-go", "supervisor", "prepared", "engine")


class TestTemplateIsLost:
    """However it is lost, each stage of the flow run is executed once."""

    @pytest.fixture(autouse=True)
    def short_patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # A machine that is too slow for this has other processes executed, though not another outcome.
        monkeypatch.setattr(template_module, "_START_TIME", 3.0)
        monkeypatch.setattr(template_module, "_FORK_TIME", 1.5)

    @pytest.mark.parametrize("moment", [*BEFORE_GO, *AFTER_GO])
    async def test_killed_once(self, site: Site, moment: str) -> None:
        outcome = await executed_in(
            site, FAULT=f"{moment} SIGKILL template", FLOW="sys.exit(7)", **site.once()
        )
        assert outcome.status_code == 7
        assert site.stages == ["supervisor", "engine"]
        assert not (site.root / "once").exists()

    @pytest.mark.parametrize("moment", BEFORE_GO)
    async def test_killed_each_time(self, site: Site, moment: str) -> None:
        outcome = await executed_in(site, FAULT=f"{moment} SIGKILL template", FLOW="sys.exit(7)")
        assert outcome.status_code == 7
        assert site.stages == ["supervisor", "engine"]

    @pytest.mark.parametrize("moment", [*BEFORE_GO, *AFTER_GO])
    async def test_stopped(self, site: Site, moment: str) -> None:
        outcome = await executed_in(
            site, FAULT=f"{moment} SIGSTOP template", FLOW="sys.exit(7)", **site.once()
        )
        assert outcome.status_code == 7
        assert site.stages == ["supervisor", "engine"]
        assert not (site.root / "once").exists()

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
    async def test_while_nothing_is_forked(
        self, site: Site, debug: pytest.LogCaptureFixture, number: int
    ) -> None:
        async with open_templates(site) as templates:
            assert await run_to_end(templates, site.job()) == 0
            (first,) = template_pids(debug)
            os.kill(first, number)
            assert await run_to_end(templates, site.job(FLOW="sys.exit(7)")) == 7
        assert template_pids(debug)[1:] not in ([], [first])
        assert site.stages == ["supervisor", "engine"] * 2

    async def test_another_one_lives_for_those_that_come_later(
        self, site: Site, debug: pytest.LogCaptureFixture
    ) -> None:
        fault = site.once() | {"FAULT": "before-fork SIGKILL template"}
        async with open_templates(site, **fault) as templates:
            for _ in range(3):
                assert await run_to_end(templates, site.job()) == 0
        assert len(set(template_pids(debug))) == 1
        assert len(site.engines) == 3


class TestChildIsLost:
    @pytest.mark.parametrize("moment", ["child-says-Born", "after-born", "child-says-Ready"])
    async def test_before_it_may_begin_and_its_flow_run_is_started_otherwise(
        self, site: Site, moment: str
    ) -> None:
        outcome = await executed_in(site, FAULT=f"{moment} SIGKILL itself", FLOW="sys.exit(7)")
        assert outcome.status_code == 7
        assert site.stages == ["supervisor", "engine"]

    async def test_with_its_template_before_it_leads_a_group(self, site: Site) -> None:
        outcome = await executed_in(
            site, FAULT="before-setsid SIGKILL group", FLOW="sys.exit(7)", **site.once()
        )
        assert outcome.status_code == 7
        assert site.stages == ["supervisor", "engine"]

    @pytest.mark.parametrize(
        ("moment", "stages"),
        [
            ("after-go", []),
            ("supervisor", ["supervisor"]),
            ("prepared", ["supervisor"]),
            ("engine", ["supervisor", "engine"]),
        ],
    )
    async def test_once_it_has_begun_and_its_flow_run_has_crashed(
        self, site: Site, moment: str, stages: list[str]
    ) -> None:
        outcome = await executed_in(site, FAULT=f"{moment} SIGKILL itself")
        assert outcome.status_code == -9
        assert site.stages == stages

    async def test_with_its_helper_in_the_midst_of_the_preparation(self, site: Site) -> None:
        fifo = site.root / "fifo"
        os.mkfifo(fifo)
        program = f"{site.say('os.getpid()')}open({str(fifo)!r}).read()"
        async with open_template(site) as template:
            forked = await template.fork(site.job(SUPERVISOR=program))
            with forked.connection:
                # Whoever opens it for writing waits for the helper.
                writing = await trio.to_thread.run_sync(lambda: fifo.open("wb"))
            (helper,) = site.said()
            assert helper != forked.group.pid
            os.kill(forked.group.pid, signal.SIGKILL)
            assert await ended(forked.group) == -9
            await gone(helper)
            writing.close()
        assert site.stages == ["supervisor"]


class TestForkIsRefused:
    async def test_for_the_child_and_a_fresh_process_is_started(
        self, site: Site, debug: pytest.LogCaptureFixture
    ) -> None:
        outcome = await executed_in(site, FAULT="before-fork NOFORK itself", FLOW="sys.exit(7)")
        assert outcome.status_code == 7
        assert site.stages == ["supervisor", "engine"]
        (reason,) = refusals(debug)
        assert "cannot be forked" in reason

    async def test_for_the_helper_and_the_supervisor_needs_none(self, site: Site) -> None:
        async with open_template(site) as template:
            forked = await template.fork(site.job(FAULT="after-go NOHELPER itself", FLOW="sys.exit(7)"))
            with forked.connection:
                engine = await forked.engine()
            assert isinstance(engine, Refusal)
            assert engine.reason.startswith("no helper can be forked: ")
            assert await ended(forked.group) == 7
        assert site.stages == ["supervisor", "engine"]
        assert site.engines == [forked.group.pid]


class TestWorker:
    async def test_cancelled_while_it_forks_leaves_nothing(self, site: Site) -> None:
        async with open_templates(site) as templates:
            assert await run_to_end(templates, site.job()) == 0
            groups: list[ProcessGroup] = []
            with trio.CancelScope() as scope:
                scope.cancel()
                groups.append(await templates.fork(site.job(), stream_output=True))
            # Nothing was started, or it is returned nevertheless.
            for group in groups:
                assert await ended(group) == 0
            assert len(site.engines) == 1 + len(groups)

    async def test_cancelled_while_its_template_is_stopped_leaves_nothing(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(template_module, "_FORK_TIME", 1.0)
        where = infrastructure(site.root, site.environment(FAULT="before-fork SIGSTOP template"))
        async with where.open():
            with trio.move_on_after(0.5) as scope:
                await executed(where, {"working_dir": str(site.work)})
        assert scope.cancelled_caught
        assert site.stages == []

    async def test_gone_before_it_lets_the_child_begin(self, site: Site) -> None:
        async with open_template(site) as template:
            ours = await _asked(template, encode_job(site.job()))
            with ours:
                said = [decode(await ours.recv(10_000)) for _ in range(3)]
            # Its birth is told by the template too, at any moment.
            (pid,) = {born.pid for born in said if isinstance(born, Born)}
            assert any(isinstance(message, Ready) for message in said)
            assert await ended(ProcessGroup(pid)) == 0
        assert site.stages == []

    async def test_gone_before_the_child_is_born(self, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
        before = children()
        async with open_template(site) as template:
            (await _asked(template, encode_job(site.job()))).close()
            # It takes one after the other, so the first one is there now.
            assert await forked_and_ended(template, site.job(ENGINE)) == 0
            (born,) = children() - before - {template.pid}
            assert await ended(ProcessGroup(born)) == 0
        assert site.stages == ["engine"]
        assert capfd.readouterr().err == ""

    async def test_gone_ends_its_template(self, site: Site) -> None:
        async with open_template(site) as template:
            template._control.close()
            with trio.fail_after(30):
                await template.wait_ended()


async def _asked(template: Template, job: bytes) -> trio.socket.SocketType:
    """The connection to a child that was asked for, of which nobody has taken notice yet."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    document = template_module._in_memory(job)
    try:
        descriptors = array.array("i", [document, theirs.fileno()])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
        await template._control.sendmsg([FORK], ancillary)
    finally:
        os.close(document)
        theirs.close()
    return trio.socket.from_stdlib_socket(ours)


class TestMalformedMessages:
    @pytest.mark.parametrize("moment", ["template-says-Ready", "child-says-Ready"])
    async def test_of_template_or_child_have_a_fresh_process_started(
        self, site: Site, debug: pytest.LogCaptureFixture, moment: str
    ) -> None:
        outcome = await executed_in(site, FAULT=f"{moment} NOISE itself", FLOW="sys.exit(7)")
        assert outcome.status_code == 7
        assert site.stages == ["supervisor", "engine"]
        (reason,) = refusals(debug)
        assert "understood" in reason

    @pytest.mark.parametrize("message", [b"nonsense", b"fork"])
    async def test_of_the_worker_end_the_template(self, site: Site, message: bytes) -> None:
        async with open_template(site) as template:
            # The second one would have descriptors with it.
            await template._control.send(message)
            with trio.fail_after(30):
                await template.wait_ended()

    async def test_job_that_is_none_ends_the_child_alone(self, site: Site) -> None:
        async with open_template(site) as template:
            with await _asked(template, b"no job") as ours:
                first, second = decode(await ours.recv(10_000)), decode(await ours.recv(10_000))
                assert isinstance(first, Born)
                assert first == second
                assert await ours.recv(10_000) == b""
            assert await ended(ProcessGroup(first.pid)) == 1
            assert await forked_and_ended(template, site.job()) == 0


class TestStaleTemplate:
    async def test_is_replaced_when_a_file_of_a_module_has_changed(
        self, site: Site, debug: pytest.LogCaptureFixture
    ) -> None:
        site.install("shared.py", "VALUE = 1")
        told = f"import shared\n{site.say('shared.VALUE')}"
        async with open_templates(site, "shared") as templates:
            assert await run_to_end(templates, site.job(FLOW=told)) == 0
            site.install("shared.py", "VALUE = 'another'")
            assert await run_to_end(templates, site.job(FLOW=told)) == 0
            first, second = template_pids(debug)
            assert first != second
            await gone(first)
        assert site.said() == [1, "another"]

    async def test_is_replaced_when_a_package_was_installed(
        self, site: Site, debug: pytest.LogCaptureFixture
    ) -> None:
        async with open_templates(site) as templates:
            assert await run_to_end(templates, site.job()) == 0
            site.install("new/__init__.py", "VALUE = 1")
            assert await run_to_end(templates, site.job(FLOW=f"import new\n{site.say('new.VALUE')}")) == 0
        first, second = template_pids(debug)
        assert first != second
        assert site.said() == [1]


class TestKeys:
    async def test_runs_alike_have_one_template_and_others_another(
        self, site: Site, debug: pytest.LogCaptureFixture
    ) -> None:
        async with open_templates(site) as templates:
            for values in ({}, {"ANYTHING": "else"}, {"PREFECT_LOGGING_LEVEL": "DEBUG"}, {"LANG": "C"}, {}):
                assert await run_to_end(templates, site.job(**values)) == 0
        one, same, settings, language, again = template_pids(debug)
        assert one == same == again
        assert len({one, settings, language}) == 3

    async def test_runs_that_write_nowhere_have_a_template_that_does(
        self, site: Site, capfd: pytest.CaptureFixture[str]
    ) -> None:
        async with open_templates(site) as templates:
            for stream_output in (True, False):
                job = site.job(FLOW=f"print({stream_output}, flush=True)")
                group = await templates.fork(job, stream_output=stream_output)
                assert await ended(group) == 0
        assert capfd.readouterr().out == "True\n"

    async def test_worker_whose_output_is_another_file_now_has_another_template(
        self, site: Site, tmp_path: Path, debug: pytest.LogCaptureFixture
    ) -> None:
        job = site.job(FLOW="print('heard', flush=True)")
        async with open_templates(site) as templates:
            for name in ("one", "other"):
                with standard_output_to(tmp_path / name):
                    assert await run_to_end(templates, job) == 0
        assert [(tmp_path / name).read_text() for name in ("one", "other")] == ["heard\n"] * 2

    async def test_fourth_kind_ends_the_template_whose_last_use_is_the_longest_ago(
        self, site: Site, debug: pytest.LogCaptureFixture, mock_clock: trio.testing.MockClock
    ) -> None:
        async with open_templates(site) as templates:
            for number in (1, 2, 3, 1, 4):
                mock_clock.jump(1)
                assert await run_to_end(templates, site.job(PREFECT_NUMBER=str(number))) == 0
            one, two, three, again, four = template_pids(debug)
            assert one == again
            await gone(two)
            assert {one, three, four} <= children()

    async def test_idle_ones_end(
        self, site: Site, debug: pytest.LogCaptureFixture, mock_clock: trio.testing.MockClock
    ) -> None:
        # Real processes, and a clock that stands still; so there are no deadlines here.
        templates = Templates(sys.executable, (), site.environment())
        async with templates.open():
            group = await templates.fork(site.job(), stream_output=True)
            mock_clock.jump(400)
            await group.wait()
            group.release()
            group = await templates.fork(site.job(), stream_output=True)
            await group.wait()
            group.release()
            first, same = template_pids(debug)
            assert first == same
            mock_clock.jump(599)
            await trio.testing.wait_all_tasks_blocked()
            assert first in children()
            mock_clock.jump(2)
            await gone(first)
            group = await templates.fork(site.job(), stream_output=True)
            await group.wait()
            group.release()
        assert template_pids(debug)[2] != first


class TestPreparation:
    async def test_may_execute_other_programs_in_processes_of_its_own(self, site: Site) -> None:
        step = "assert os.spawnlpe(os.P_WAIT, 'sh', 'sh', '-c', 'exit 3', os.environ) == 3"
        outcome = await executed_in(site, SUPERVISOR=f"import os\n{step}", FLOW="sys.exit(7)")
        assert outcome.status_code == 7
        assert site.stages == ["supervisor", "engine"]


class TestPreloading:
    async def test_of_modules_that_cannot_be_imported_is_told_once_and_runs_are_forked_without_them(
        self, site: Site, debug: pytest.LogCaptureFixture
    ) -> None:
        site.install("broken.py", "raise LookupError('no such thing')")
        site.install("leaving.py", "import sys\nsys.exit(3)")
        site.install("noisy.py", "raise LookupError('\\N{SNAKE}' * 100_000)")
        modules = ("broken", "leaving", "noisy", "missing")
        async with open_templates(site, *modules) as templates:
            for _ in range(3):
                assert await run_to_end(templates, site.job()) == 0
        warnings = lines_of(debug, logging.WARNING)
        assert len(warnings) == 4
        for module, warning in zip(modules, warnings, strict=True):
            assert f"'{module}'" in warning
            assert sys.executable in warning
        assert "LookupError: no such thing" in warnings[0]
        assert len(set(template_pids(debug))) == 1

    async def test_has_flows_find_what_modules_set_in_the_environment(self, site: Site) -> None:
        site.install("setting.py", "import os\nos.environ.update(MINE='1', YOURS='1')")
        told = site.say("[os.environ['MINE'], os.environ['YOURS']]")
        async with open_template(site, "setting") as template:
            # What a job sets itself wins, as if the module had been imported before.
            assert await forked_and_ended(template, site.job(FLOW=told, YOURS="2")) == 0
        assert site.said() == [["1", "2"]]

    async def test_is_over_once_and_its_state_is_the_flows_own(self, site: Site) -> None:
        site.install("counting.py", "COUNT = []")
        told = f"import counting\ncounting.COUNT.append(1)\n{site.say('len(counting.COUNT)')}"
        async with open_template(site, "counting") as template:
            for _ in range(2):
                assert await forked_and_ended(template, site.job(SUPERVISOR=told, FLOW=told)) == 0
        assert site.said() == [1, 1, 1, 1]


class TestRefusal:
    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"FAKE_VERSION": "2.20.0"}, "Prefect 2.20.0 was not tried"),
            ({"FAKE_VERSION": "3.9.0"}, "Prefect 3.9.0 was not tried"),
            ({"FAKE_PLUGINS": "1"}, "plugins"),
        ],
    )
    async def test_of_an_unknown_prefect_has_a_fresh_process_started_with_one_line(
        self, site: Site, debug: pytest.LogCaptureFixture, values: dict[str, str], words: str
    ) -> None:
        outcome = await executed_in(site, FLOW="sys.exit(7)", **values)
        assert outcome.status_code == 7
        assert site.stages == ["supervisor", "engine"]
        (line,) = lines_of(debug)
        assert line.startswith("A fresh process is started for flow run ")
        assert words in line
        assert lines_of(debug, logging.WARNING) == []

    async def test_of_modules_that_start_threads_is_remembered(
        self, site: Site, debug: pytest.LogCaptureFixture
    ) -> None:
        note = f"open({str(site.root / 'imports')!r}, 'a').write('x')"
        site.install(
            "threaded.py",
            f"import threading\n{note}\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
        )
        async with open_templates(site, "threaded") as templates:
            for _ in range(3):
                with pytest.raises(RefusedError):
                    await templates.fork(site.job(), stream_output=True)
        assert refusals(debug) == ["there are 2 threads once everything is imported"] * 3
        assert (site.root / "imports").read_text() == "x"

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            ("os._exit(1)", "its template has ended before it was ready"),
            ("time.sleep(1000)", "its template was not ready within 3 s"),
        ],
    )
    async def test_for_what_a_template_never_got_to_say_is_remembered(
        self,
        site: Site,
        debug: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        code: str,
        reason: str,
    ) -> None:
        monkeypatch.setattr(template_module, "_START_TIME", 3.0)
        imports = site.root / "imports"
        site.install("unlucky.py", f"import os, time\nopen({str(imports)!r}, 'a').write('x')\n{code}")
        async with open_templates(site, "unlucky") as templates:
            for _ in range(3):
                with pytest.raises(RefusedError):
                    await templates.fork(site.job(), stream_output=True)
        assert refusals(debug) == [reason] * 3
        assert imports.read_text() == "x"
        (warning,) = lines_of(debug, logging.WARNING)
        assert warning == f"Flow runs are started in fresh processes for 60 s, because {reason}"

    async def test_is_not_remembered_for_ever(
        self, site: Site, debug: pytest.LogCaptureFixture, mock_clock: trio.testing.MockClock
    ) -> None:
        imports = site.root / "imports"
        # The fourth attempt is a success.
        die = "os._exit(1) if os.path.getsize(file.name) < 4 else None"
        site.install(
            "unlucky.py",
            f"import os\nfile = open({str(imports)!r}, 'a')\nfile.write('x')\nfile.flush()\n{die}",
        )

        async def attempts_after(seconds: float) -> int:
            mock_clock.jump(seconds)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(RefusedError):
                await templates.fork(site.job(), stream_output=True)
            return len(imports.read_text())

        templates = Templates(sys.executable, ("unlucky",), site.environment())
        async with templates.open():
            attempts = [await attempts_after(seconds) for seconds in (0, 59, 2, 119, 2)]
            assert attempts == [1, 1, 2, 2, 3]
            mock_clock.jump(241)
            await trio.testing.wait_all_tasks_blocked()
            assert await run_to_end(templates, site.job()) == 0

    async def test_of_many_kinds_of_flow_runs_takes_no_places_of_templates(
        self, site: Site, debug: pytest.LogCaptureFixture
    ) -> None:
        imports = site.root / "imports"
        die = "os._exit(1) if 'PREFECT_UNFIT' in os.environ else None"
        site.install("unlucky.py", f"import os\nopen({str(imports)!r}, 'a').write('x')\n{die}")
        async with open_templates(site, "unlucky") as templates:
            assert await run_to_end(templates, site.job()) == 0
            for number in [*range(5), *range(5)]:
                with pytest.raises(RefusedError):
                    await templates.fork(site.job(PREFECT_UNFIT=str(number)), stream_output=True)
            assert await run_to_end(templates, site.job()) == 0
        assert imports.read_text() == "x" * 6
        first, last = template_pids(debug)
        assert first == last

    async def test_that_is_the_workers_own_costs_no_template(
        self, site: Site, debug: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> NoReturn:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        async with open_templates(site) as templates:
            assert await run_to_end(templates, site.job()) == 0
            with monkeypatch.context() as patch:
                patch.setattr(os, "memfd_create", full)
                with pytest.raises(RefusedError, match="cannot be asked for"):
                    await templates.fork(site.job(), stream_output=True)
            assert await run_to_end(templates, site.job()) == 0
            first, last = template_pids(debug)
            assert first == last

    async def test_of_a_directory_that_shadows_a_module(
        self, site: Site, debug: pytest.LogCaptureFixture
    ) -> None:
        (site.work / "tempfile.py").write_text("")
        async with open_templates(site) as templates:
            with pytest.raises(RefusedError):
                await templates.fork(site.job(), stream_output=True)
        (reason,) = refusals(debug)
        assert reason.endswith("has a module 'tempfile' of its own")

    async def test_of_a_directory_that_is_not_there(
        self, site: Site, debug: pytest.LogCaptureFixture
    ) -> None:
        async with open_templates(site) as templates:
            job = site.job()._replace(directory=str(site.root / "none"))
            with pytest.raises(RefusedError):
                await templates.fork(job, stream_output=True)
        assert refusals(debug) == ["there is no such working directory"]

    async def test_of_an_interpreter_that_is_not_there(
        self, site: Site, debug: pytest.LogCaptureFixture
    ) -> None:
        templates = Templates(str(site.root / "python"), (), site.environment())
        async with templates.open():
            with pytest.raises(RefusedError):
                await templates.fork(site.job(), stream_output=True)
        (reason,) = refusals(debug)
        assert "cannot be started" in reason

    async def test_after_the_end_of_the_worker(self, site: Site, debug: pytest.LogCaptureFixture) -> None:
        templates = Templates(sys.executable, (), site.environment())
        async with templates.open():
            pass
        with pytest.raises(RefusedError):
            await templates.fork(site.job(), stream_output=True)
        assert refusals(debug) == ["the worker has no templates any more"]
