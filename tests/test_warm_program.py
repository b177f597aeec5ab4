"""The parts of the program of a template that need no process; what a real interpreter does is asked of one."""

from __future__ import annotations

import json
import os
import platform
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import certifi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioworker.infrastructure.process.warm.program import siblings
from trioworker.infrastructure.process.warm.program.dependence import (
    difference,
    environment_at_start,
    fingerprint,
    matters_at_start,
    require_no_settings_in,
    require_nothing_shadowed,
    require_unchanged,
)
from trioworker.infrastructure.process.warm.program.messages import (
    LARGEST_MESSAGE,
    Born,
    Job,
    Ready,
    Refusal,
    decode,
    decode_job,
    encode,
    encode_job,
)
from trioworker.infrastructure.process.warm.program.newborn import path_in
from trioworker.infrastructure.process.warm.program.preloading import Preloaded, entries_of
from trioworker.infrastructure.process.warm.program.ready_contexts import ReadyContexts
from trioworker.infrastructure.process.warm.program.unfit import UnfitError

# What is no Unicode included, as an environment may have it.
ANY_TEXT = st.text(st.characters(codec=None))


class TestMessages:
    @given(st.one_of(st.builds(Born, st.integers(1)), st.builds(Refusal, ANY_TEXT, st.booleans())))
    def test_arrive_as_they_were_sent(self, message: Born | Refusal) -> None:
        assert decode(encode(message)) == message

    @given(st.lists(ANY_TEXT, max_size=3))
    def test_problems_arrive_with_the_message_that_all_is_ready(self, problems: list[str]) -> None:
        assert decode(encode(Ready(problems))) == Ready(problems)

    @given(st.sampled_from(["x", "ä", "\N{SNAKE}", "\udcff", "\0", '"']), st.integers(1, 50))
    def test_are_cut_to_what_can_be_sent(self, character: str, count: int) -> None:
        long = character * 100_000
        for message in (Refusal(long, is_stale=True), Ready([long] * count)):
            assert len(encode(message)) <= LARGEST_MESSAGE
        cut = decode(encode(Refusal(long, is_stale=True)))
        assert isinstance(cut, Refusal)
        assert cut.is_stale
        assert long.startswith(cut.reason)

    @given(
        st.one_of(
            st.binary(),
            st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
                lambda x: json.dumps(x).encode()
            ),
        )
    )
    def test_bytes_that_are_none_are_refused(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="not a message"):
            decode(data)

    @pytest.mark.parametrize(
        "data", [b'["Born"]', b'["Ready", 1, 2, 3]', b'["Refusal"]', b'["Job", 1]', b'{"Born": 1}']
    )
    def test_fields_that_are_too_few_or_too_many_are_refused(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="not a message"):
            decode(data)

    @given(st.builds(Job, ANY_TEXT, st.lists(ANY_TEXT), ANY_TEXT, st.dictionaries(ANY_TEXT, ANY_TEXT)))
    def test_jobs_arrive_as_they_were_sent(self, job: Job) -> None:
        assert decode_job(encode_job(job)) == job

    @given(st.binary(), st.binary())
    def test_bytes_of_an_environment_arrive_as_they_were(self, name: bytes, value: bytes) -> None:
        job = decode_job(encode_job(Job("module", [], ".", {os.fsdecode(name): os.fsdecode(value)})))
        assert [(os.fsencode(n), os.fsencode(v)) for n, v in job.environment.items()] == [(name, value)]


class TestWhatMattersAtTheStart:
    @pytest.mark.parametrize(
        "name",
        [
            "PREFECT_API_URL",
            "PREFECT_HOME",
            "HOME",
            "PYTHONPATH",
            "LANG",
            "LC_ALL",
            "LD_PRELOAD",
            "SSL_CERT_FILE",
        ],
    )
    def test_is_what_is_read_while_python_starts_and_modules_are_imported(self, name: str) -> None:
        assert matters_at_start(name)

    @pytest.mark.parametrize(
        "name", ["PATH", "PREFECT__FLOW_RUN_ID", "PREFECT__CONTROL_PORT", "MY_HOME", "TZ"]
    )
    def test_is_not_what_is_looked_at_later(self, name: str) -> None:
        assert not matters_at_start(name)

    @given(st.dictionaries(st.sampled_from(["HOME", "PATH", "PREFECT_A", "PREFECT__A", "X"]), st.text()))
    def test_no_environment_differs_from_itself_or_from_the_part_that_matters(
        self, environment: dict[str, str]
    ) -> None:
        assert difference(environment, environment) == []
        assert difference(environment, environment_at_start(environment)) == []

    def test_differences_are_named_whichever_environment_lacks_something(self) -> None:
        one = {"HOME": "/a", "PREFECT_A": "1", "PATH": "/bin", "LANG": "C"}
        other = {"HOME": "/b", "PREFECT_B": "1", "PATH": "/usr/bin", "LANG": "C"}
        named = ["HOME", "PREFECT_A", "PREFECT_B"]
        assert difference(one, other) == difference(other, one) == named
        assert difference(one, other, but=["HOME"]) == named[1:]


class TestFreshEnvironment:
    @staticmethod
    def preloaded(given: dict[str, str], own: dict[str, str]) -> Preloaded:
        return Preloaded({}, given, {**given, **own}, own, [], {}, frozenset(), {}, [])

    def test_has_what_python_and_modules_have_set(self) -> None:
        preloaded = self.preloaded({"A": "1"}, {"LC_CTYPE": "C.UTF-8", "A": "2"})
        assert preloaded.in_fresh_process({"A": "1", "B": "1"}) == {"A": "2", "B": "1", "LC_CTYPE": "C.UTF-8"}

    def test_keeps_what_was_given_otherwise(self) -> None:
        preloaded = self.preloaded({"A": "1"}, {"LC_CTYPE": "C.UTF-8", "A": "2"})
        environment = {"A": "3", "LC_CTYPE": "C"}
        assert preloaded.in_fresh_process(environment) == environment


class TestStaleness:
    @pytest.mark.parametrize("change", ["write", "remove", "add", "touch"])
    def test_any_change_of_files_and_directories_is_seen(self, tmp_path: Path, change: str) -> None:
        file, directory = tmp_path / "module.py", tmp_path / "site-packages"
        file.write_text("1")
        directory.mkdir()
        before = fingerprint([str(file), str(directory), str(tmp_path / "missing")])
        require_unchanged(before)
        if change == "write":
            file.write_text("22")
        elif change == "remove":
            file.unlink()
        elif change == "add":
            (tmp_path / "missing").touch()
        else:
            os.utime(directory, (1, 1))
        with pytest.raises(UnfitError, match="has changed") as caught:
            require_unchanged(before)
        assert caught.value.is_stale


class TestShadows:
    @pytest.mark.parametrize(
        "name",
        [
            "json.py",
            "json.pyc",
            "json.cpython-311-x86_64-linux-gnu.so",
            "json/__init__.py",
            "sitecustomize.py",
            "usercustomize.py",
        ],
    )
    def test_modules_that_were_imported_from_elsewhere_are_refused(self, tmp_path: Path, name: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
        with pytest.raises(UnfitError, match=f"'{name.partition('.')[0].partition('/')[0]}' of its own"):
            require_nothing_shadowed([str(tmp_path)], frozenset({"json"}))

    @pytest.mark.parametrize("name", ["flows.py", "json", "json.txt", "json/data.py", "sitecustomize"])
    def test_other_files_and_directories_are_not(self, tmp_path: Path, name: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
        require_nothing_shadowed([str(tmp_path), str(tmp_path / "missing")], frozenset({"json"}))

    def test_modules_that_were_imported_from_there_are_not(self) -> None:
        require_nothing_shadowed([str(Path(json.__file__).parent.parent)], frozenset({"json"}))

    def test_archives_are_refused(self, tmp_path: Path) -> None:
        archive = tmp_path / "modules.zip"
        archive.touch()
        with pytest.raises(UnfitError, match="which is no directory"):
            require_nothing_shadowed([str(archive)], frozenset({"json"}))

    def test_what_may_not_be_looked_into_is_passed_over_as_python_does(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> bool:
            raise PermissionError(13, "Permission denied")

        # Root, who runs tests in containers, may look everywhere.
        monkeypatch.setattr(os, "listdir", refuse)
        require_nothing_shadowed([str(tmp_path)], frozenset({"json"}))


class TestSettingsInTheDirectory:
    @pytest.mark.parametrize(
        ("file", "text"),
        [
            ("prefect.toml", ""),
            (".env", "PREFECT_API_URL=http://there"),
            (".env", "prefect_api_url=http://there"),
            (".env", b"\xff"),
            ("pyproject.toml", "[tool.prefect]\n"),
            ("pyproject.toml", "[tool"),
            ("pyproject.toml", b"\xff"),
        ],
    )
    def test_are_refused(self, tmp_path: Path, file: str, text: str | bytes) -> None:
        (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(UnfitError, match=file):
            require_no_settings_in(str(tmp_path))

    @pytest.mark.parametrize(("file", "text"), [(".env", "OTHER=1"), ("pyproject.toml", "[tool.other]\n")])
    def test_are_not_the_files_of_others(self, tmp_path: Path, file: str, text: str) -> None:
        require_no_settings_in(str(tmp_path))
        (tmp_path / file).write_text(text)
        require_no_settings_in(str(tmp_path))


@pytest.mark.process
class TestPath:
    @pytest.mark.parametrize(
        "python_path",
        [
            "",
            "{0}/one",
            "{0}/one:{0}/two",
            "{0}/one:{0}/one",
            ":{0}/one",
            "{0}/one:",
            "one:../two",
            "{0}/missing",
            "{0}/one/",
            "~",
        ],
    )
    @pytest.mark.parametrize("flags", [(), ("-P",)])
    def test_is_that_of_a_program_started_by_its_name(
        self, tmp_path: Path, python_path: str, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        work = tmp_path / "work"
        for directory in (work, tmp_path / "one", tmp_path / "two"):
            directory.mkdir()
        (work / "show.py").write_text("import json, sys\nprint(json.dumps(sys.path))\n")
        # Without its directory in the path, a module there cannot be found by its name.
        program = [*flags, "show.py"] if flags else ["-m", "show"]

        def shown(**environment: str) -> list[str]:
            entries: list[str] = json.loads(
                subprocess.check_output([sys.executable, *program], cwd=work, env=environment)
            )
            return entries

        base = shown()[0 if flags else 1 :]
        environment = {"PYTHONPATH": python_path.format(tmp_path)}
        monkeypatch.chdir(work)
        if flags:
            monkeypatch.setattr(sys, "flags", _Safe())
        assert path_in(str(work), environment, base) == shown(**environment)


class _Safe:
    safe_path = True


class TestEntries:
    def test_are_absolute_and_each_is_there_once(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert entries_of("/a:b:/a:/c/../d") == ["/a", str(tmp_path / "b"), "/d"]
        assert entries_of("") == []


class TestReadyContexts:
    @pytest.fixture(autouse=True)
    def restored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ssl, "create_default_context", ssl.create_default_context)

    def test_each_is_handed_out_once(self) -> None:
        contexts = ReadyContexts()
        first = ssl.create_default_context(cafile=certifi.where())
        contexts.make_ready()
        made = [ssl.create_default_context(cafile=certifi.where()) for _ in range(10)]
        assert len({id(context) for context in (first, *made)}) == 11

    def test_those_that_are_ready_are_handed_out(self) -> None:
        contexts = ReadyContexts()
        ssl.create_default_context(cafile=certifi.where())
        contexts.make_ready()
        ready = [*contexts._ready]
        assert ready
        made = [ssl.create_default_context(cafile=certifi.where()) for _ in ready]
        assert {*map(id, made)} == {*map(id, ready)}

    def test_who_asks_for_others_gets_those(self, tmp_path: Path) -> None:
        contexts = ReadyContexts()
        ssl.create_default_context(cafile=certifi.where())
        contexts.make_ready()
        ready = len(contexts._ready)
        other = tmp_path / "authorities.pem"
        other.write_bytes(Path(certifi.where()).read_bytes())
        ssl.create_default_context(cafile=str(other))
        ssl.create_default_context()
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        assert not server.check_hostname
        assert len(contexts._ready) == ready

    def test_none_are_made_if_nobody_asked(self) -> None:
        contexts = ReadyContexts()
        contexts.make_ready()
        assert contexts.authorities is None
        assert contexts._ready == []


class TestSiblings:
    @pytest.mark.parametrize(
        ("what", "value"), [("sys.platform", "darwin"), ("platform.machine", lambda: "riscv64")]
    )
    def test_are_refused_on_other_systems_and_machines(
        self, monkeypatch: pytest.MonkeyPatch, what: str, value: str | Callable[[], str]
    ) -> None:
        monkeypatch.setattr(f"{siblings.__name__}.{what}", value)
        with pytest.raises(UnfitError, match="is not known to allow it"):
            siblings.sibling_maker()

    def test_are_refused_with_libraries_that_have_to_be_told_of_forks(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ssl, "OPENSSL_VERSION_INFO", (1, 1, 1, 0, 0))
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(sys, "platform", "linux")
        with pytest.raises(UnfitError, match="has to be told of forks"):
            siblings.sibling_maker()
