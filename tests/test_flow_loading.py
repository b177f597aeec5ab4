"""Where functions are found that the command line is told of by name, and what is said where they are not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from trioworker import TrioFlows
from trioworker.command.flow_loading import load_flows
from trioworker.errors import ConfigurationError

APP = """
import trioworker

app = trioworker.TrioFlows()

@app.flow()
async def work() -> None: ...
"""


@attrs.frozen
class Project:
    """A directory with somebody's modules."""

    directory: Path

    def has(self, path: str, content: str) -> Path:
        file = self.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return file

    def load(self, reference: str) -> TrioFlows:
        return load_flows(reference, self.directory)

    def complaint(self, reference: str) -> str:
        with pytest.raises(ConfigurationError) as caught:
            self.load(reference)
        return str(caught.value)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Somebody's modules; what is imported of them is forgotten again."""
    path, modules, write = list(sys.path), dict(sys.modules), sys.dont_write_bytecode
    # Else a module that is written twice within a second would be the first one.
    sys.dont_write_bytecode = True
    yield Project(tmp_path)
    sys.path[:], sys.dont_write_bytecode = path, write
    for name in sys.modules.keys() - modules.keys():
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


class TestFound:
    def test_module_beside_the_command(self, project: Project) -> None:
        project.has("beside.py", APP)
        assert [flow.name for flow in project.load("beside:app")] == ["work"]

    def test_module_of_a_package(self, project: Project) -> None:
        project.has("package_of_flows/part/flows.py", APP)
        assert len(project.load("package_of_flows.part.flows:app")) == 1

    def test_attribute_of_something_in_a_module(self, project: Project) -> None:
        project.has("within.py", f"{APP}\nclass Everything:\n    flows = app")
        assert len(project.load("within:Everything.flows")) == 1

    def test_module_elsewhere_on_the_path(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        project.has("library/flows_elsewhere.py", APP)
        monkeypatch.syspath_prepend(project.directory / "library")
        (nowhere := project.directory / "nowhere").mkdir()
        assert len(load_flows("flows_elsewhere:app", nowhere)) == 1

    def test_directory_is_searched_first_and_added_once(self, project: Project) -> None:
        project.has("first.py", APP)
        for _ in range(2):
            project.load("first:app")
        assert sys.path[0] == str(project.directory)
        assert sys.path.count(str(project.directory)) == 1


class TestNotFound:
    @pytest.mark.parametrize("reference", ["shop", "shop:", ":app", ":", "", ".shop:app", "shop..flows:app"])
    def test_name_that_is_none_is_answered_with_an_example(self, project: Project, reference: str) -> None:
        assert project.complaint(reference) == (
            f"{reference!r} does not say where the functions are: give MODULE:ATTRIBUTE, such as shop.flows:app."
        )

    @pytest.mark.parametrize(
        ("reference", "module"),
        [
            ("shop/flows.py:app", "shop.flows"),
            ("./flows.py:app", "flows"),
            ("../flows:app", "flows"),
            ("flows.py", "flows"),
        ],
    )
    def test_file_is_answered_with_its_module(self, project: Project, reference: str, module: str) -> None:
        file = reference.partition(":")[0]
        assert project.complaint(reference) == (
            f"{file!r} is a file: give its module instead, as it is imported from here, such as {module}."
        )

    @pytest.mark.parametrize("name", ["nothing_here", "nothing_here.flows", "has_no_parts.part"])
    def test_module_that_is_not_there(self, project: Project, name: str) -> None:
        project.has("has_no_parts/__init__.py", "")
        assert project.complaint(f"{name}:app") == (
            f"There is no module {name!r}, neither in {project.directory} nor where Python looks (PYTHONPATH)."
        )

    def test_wrong_attribute_is_answered_with_the_right_ones(self, project: Project) -> None:
        project.has("misnamed.py", f"{APP}\nother = trioworker.TrioFlows()\nnumber = 1")
        expected = "Module 'misnamed' has no 'flows'; TrioFlows objects in it: app, other."
        assert project.complaint("misnamed:flows") == expected

    def test_module_without_any_flows(self, project: Project) -> None:
        project.has("barren.py", "")
        assert (
            project.complaint("barren:app") == "Module 'barren' has no 'app'; TrioFlows objects in it: none."
        )

    @pytest.mark.parametrize(("value", "kind"), [("1", "int"), ("trioworker.TrioFlows", "type")])
    def test_what_is_no_flows_object(self, project: Project, value: str, kind: str) -> None:
        project.has(f"of_kind_{kind}.py", f"import trioworker\napp = {value}")
        expected = f"'of_kind_{kind}:app' is of type {kind}; it has to be a trioworker.TrioFlows."
        assert project.complaint(f"of_kind_{kind}:app") == expected


class TestBroken:
    def test_error_is_told_with_its_line(self, project: Project) -> None:
        project.has("raises.py", "x = 1\nraise ValueError('too late')\n")
        expected = "Module 'raises' cannot be imported: ValueError: too late (raises.py, line 2)"
        assert project.complaint("raises:app") == expected

    def test_error_without_words(self, project: Project) -> None:
        project.has("speechless.py", "assert False\n")
        expected = "Module 'speechless' cannot be imported: AssertionError (speechless.py, line 1)"
        assert project.complaint("speechless:app") == expected

    def test_missing_import_is_told_with_the_line_that_wants_it(self, project: Project) -> None:
        project.has("wants.py", "import os\n\nimport nothing_of_that_name\n")
        assert project.complaint("wants:app") == (
            "Module 'wants' cannot be imported: ModuleNotFoundError: No module named 'nothing_of_that_name'"
            " (wants.py, line 3)"
        )

    def test_syntax_error_is_told_with_its_own_line(self, project: Project) -> None:
        project.has("misspelt.py", "x = 1\n\ndef f(:\n    pass\n")
        complaint = project.complaint("misspelt:app")
        assert complaint.startswith("Module 'misspelt' cannot be imported: SyntaxError: ")
        assert complaint.endswith(" (misspelt.py, line 3)")

    def test_syntax_error_in_another_module_is_told_with_that(self, project: Project) -> None:
        project.has("parts/__init__.py", "")
        project.has("parts/misspelt_part.py", "x = = 1\n")
        project.has("whole.py", "import parts.misspelt_part\n")
        complaint = project.complaint("whole:app")
        assert complaint.endswith(f" ({Path('parts', 'misspelt_part.py')}, line 1)")

    def test_error_within_a_library_is_told_with_the_line_that_called_it(self, project: Project) -> None:
        project.has("calls.py", "import json\n\njson.loads('{')\n")
        assert project.complaint("calls:app").endswith(" (calls.py, line 3)")

    def test_library_in_an_environment_of_the_project_is_a_library(self, project: Project) -> None:
        project.has(".venv/lib/site-packages/some_library.py", "def f():\n    raise OSError('no')\n")
        project.has(
            "uses.py",
            "import sys\nsys.path.append(__file__[:-7] + '.venv/lib/site-packages')\n"
            "import some_library\nsome_library.f()\n",
        )
        assert project.complaint("uses:app").endswith("OSError: no (uses.py, line 4)")

    def test_declaration_that_is_refused_is_told_with_its_line(self, project: Project) -> None:
        project.has("twice.py", f"{APP}\n@app.flow(name='work')\nasync def other() -> None: ...\n")
        complaint = project.complaint("twice:app")
        assert "There are two flows 'work'" in complaint
        assert complaint.endswith(" (twice.py, line 9)")

    def test_script_that_ends_the_program(self, project: Project) -> None:
        project.has("script.py", "import sys\nsys.exit(3)\n")
        assert project.complaint("script:app").startswith(
            "Module 'script' ends the program when it is imported"
        )

    def test_ctrl_c_during_the_import_is_no_error_of_the_module(self, project: Project) -> None:
        project.has("interrupted.py", "raise KeyboardInterrupt\n")
        with pytest.raises(KeyboardInterrupt):
            project.load("interrupted:app")

    def test_module_can_be_mended_and_loaded(self, project: Project) -> None:
        project.has("mended.py", "raise ValueError\n")
        project.complaint("mended:app")
        project.has("mended.py", APP)
        assert len(project.load("mended:app")) == 1
