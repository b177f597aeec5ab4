"""The public names: what is promised is there, and says what it is."""

from __future__ import annotations

import ast
import inspect
import re
import types
from importlib.resources import files
from pathlib import Path

import attrs
import pytest
from docstrings import PUBLIC, Docstring, Documented, classes, documented, errors_raised, own_attributes

import trioworker
import trioworker.testing
from trioworker.config import WorkerOptions

TYPING_TESTS = Path(__file__).parent / "typing_of_public_api"

# Parameters that nobody but the library gives, and members whose words are Prefect's.
NEED_NO_WORDS = {
    "Watch": {"mailbox", "on_close"},
    "StateType": set(trioworker.StateType.__members__),
}

# What a look at the code takes for an error of theirs, though it cannot come to that.
NOT_RAISED = {
    ("FakePrefect.cancel", ValueError),
    ("FakePrefect.flow_runs", LookupError),
}

# Those whose errors come from what they are made of, or are given.
KNOWN_ERRORS = {
    "Cron": {"ConfigurationError"},
    "Interval": {"ConfigurationError"},
    "RRule": {"ConfigurationError"},
    "Settings.load": {"SettingsError"},
    "TrioFlows.check": {"ConfigurationError"},
    "TrioFlows.deploy": {"ConfigurationError", "WorkerRefusedError", "SettingsError", "APIError"},
    "TrioFlows.flow": {"ConfigurationError"},
    "Worker.create_flow_run": {"RequestRefusedError", "ObjectNotFoundError", "APIError", "RuntimeError"},
    "Worker.run": {"WorkerError", "SettingsError", "APIError", "RuntimeError"},
    "Worker.watch": {"ValueError"},
    "WorkerConfig": {"ConfigurationError", "SettingsError"},
    "current_flow_run": {"LookupError"},
    "occurrences": {"ScheduleError", "ModuleNotFoundError"},
    "open_worker": {"WorkerError", "SettingsError", "APIError"},
}

CONCEPTS_OF_PREFECT = {
    "APIError",
    "APILost",
    "APIRegained",
    "Cron",
    "CurrentFlowRun",
    "FakePrefect",
    "FakePrefectAPI",
    "FlowDeployment",
    "Heartbeat",
    "Interval",
    "LeaseRenewal",
    "PrefectServer",
    "RRule",
    "RunClaimed",
    "RunHappening",
    "RunStatus",
    "Script",
    "Settings",
    "StateType",
    "TrioFlow",
    "TrioFlows",
    "Worker",
    "WorkerConfig",
    "WorkerRefusedError",
    "WorkerStatus",
    "occurrences",
    "open_worker",
}

# Names of what is a time or a duration, if it is a number.
_TIME = re.compile(
    r"(^|_)(seconds|timeout|age|interval|grace|delay|at|latency|bound|duration|after|before)(_|$)"
)
_NUMBER = re.compile(r"\b(float|int)\b")
_NO_TIMES = {"chance", "client_retry_jitter_factor"}


def exported(module: types.ModuleType) -> set[str]:
    """The names that a module's source takes from the package's other modules, to be found in it."""
    imports = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trioworker")
    ]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def exempt(path: str) -> set[str]:
    return NEED_NO_WORDS.get(path, set())


def tells_seconds(text: str) -> bool:
    return "second" in text.lower()


def is_time(name: str, annotation: object) -> bool:
    return bool(_NUMBER.search(str(annotation))) and (
        bool(_TIME.search(name)) or ("float" in str(annotation) and name not in _NO_TIMES)
    )


each_module = pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)


@each_module
def test_all_is_what_is_exported(module: types.ModuleType) -> None:
    assert exported(module) == {name for name in module.__all__ if not name.startswith("_")}


@each_module
def test_all_is_sorted_and_without_repetitions(module: types.ModuleType) -> None:
    assert list(module.__all__) == sorted(set(module.__all__))


@each_module
def test_all_is_what_dir_shows(module: types.ModuleType) -> None:
    assert set(module.__all__) <= set(dir(module))


@each_module
def test_all_is_what_a_star_import_brings(module: types.ModuleType) -> None:
    namespace: dict[str, object] = {}
    exec(f"from {module.__name__} import *", namespace)  # noqa: S102 - functions cannot have such an import
    assert namespace.keys() - {"__builtins__"} == set(module.__all__)
    assert all(namespace[name] is getattr(module, name) for name in module.__all__)


def test_name_that_does_not_exist_is_missed_as_in_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'trioworker' has no attribute 'Agent'"):
        getattr(trioworker, "Agent")  # noqa: B009 - a type checker would not let it pass otherwise


def test_version_is_that_of_the_distribution() -> None:
    assert trioworker.__version__.count(".") == 2


# Types


def test_package_says_that_it_is_typed() -> None:
    assert files("trioworker").joinpath("py.typed").is_file()


def test_open_worker_takes_what_a_configuration_takes() -> None:
    fields = attrs.fields(trioworker.WorkerConfig)
    taken = {name: of.__forward_arg__ for name, of in WorkerOptions.__annotations__.items()}
    assert taken == {field.name: field.type for field in fields}
    without_default = {field.name for field in fields if field.default is attrs.NOTHING}
    assert WorkerOptions.__required_keys__ == without_default


@each_module
def test_typing_tests_use_every_name(module: types.ModuleType) -> None:
    used: set[str] = set()
    for file in TYPING_TESTS.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Name):
                used.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                used.add(node.attr)
    assert set(module.__all__) - used == set()


# Docstrings


@each_module
def test_module_has_a_docstring(module: types.ModuleType) -> None:
    assert module.__doc__


def test_every_class_function_method_and_property_has_a_docstring() -> None:
    assert [each.path for each in documented() if not each.docstring.text] == []


def test_every_attribute_is_explained() -> None:
    unexplained = {
        f"{name}.{attribute}"
        for name, of in classes()
        for attribute in own_attributes(of)
        if attribute not in {**Docstring.of(of).entries("Attributes")} and attribute not in exempt(name)
    }
    assert unexplained == set()


def test_only_attributes_that_there_are_are_explained() -> None:
    invented = {
        f"{name}.{attribute}"
        for name, of in classes()
        for attribute in Docstring.of(of).entries("Attributes")
        if attribute not in {each for base in of.__mro__ for each in own_attributes(base)}
    }
    assert invented == set()


def test_every_parameter_is_explained() -> None:
    """Each is in `Args`, or an attribute of its name is explained, or the sentences speak of it.

    Or another method, whose name is given, explains it.
    """
    unexplained = {
        f"{each.path}({parameter.name})"
        for each in documented()
        if not each.docstring.reference
        for parameter in each.parameters
        if parameter.name not in {*each.docstring.entries("Args"), *each.docstring.entries("Attributes")}
        and f"`{parameter.name}`" not in each.docstring.text
        and parameter.name not in exempt(each.path)
    }
    assert unexplained == set()


def test_only_parameters_that_there_are_are_explained() -> None:
    invented = {
        f"{each.path}({name})"
        for each in documented()
        if each.function is not None
        for name in each.docstring.entries("Args")
        if name not in inspect.signature(each.function).parameters
    }
    assert invented == set()


def test_explanations_that_are_elsewhere_are_there() -> None:
    from trioworker.api.client import PrefectAPI
    from trioworker.infrastructure.protocol import Infrastructure

    homes: dict[str, type] = {"PrefectAPI": PrefectAPI, "Infrastructure": Infrastructure}
    missing = [
        each.path
        for each in documented()
        if (reference := each.docstring.reference)
        and not inspect.getdoc(getattr(homes[reference[0]], reference[1], None))
    ]
    assert missing == []


def test_every_time_has_its_unit() -> None:
    """Whatever is a number of seconds is called so where it is explained."""
    assert _attributes_without_unit() | _parameters_without_unit() | _results_without_unit() == set()


def _attributes_without_unit() -> set[str]:
    return {
        f"{name}.{attribute}"
        for name, of in classes()
        if "times are in seconds" not in (of.__doc__ or "").lower()
        for attribute in own_attributes(of)
        if is_time(attribute, inspect.get_annotations(of).get(attribute))
        and not tells_seconds(Docstring.of(of).entries("Attributes").get(attribute, ""))
    }


def _parameters_without_unit() -> set[str]:
    return {
        f"{each.path}({parameter.name})"
        for each in documented()
        if not each.docstring.reference
        for parameter in each.parameters
        if is_time(parameter.name, parameter.annotation)
        and not tells_seconds(each.docstring.entries("Args").get(parameter.name, each.docstring.text))
    }


def _results_without_unit() -> set[str]:
    return {
        each.path
        for each in documented()
        if not inspect.isclass(each.thing) and each.function is not None and not each.docstring.reference
        if "float" in str(inspect.signature(each.function).return_annotation)
        and not tells_seconds(each.docstring.text)
    }


def test_errors_that_the_code_raises_are_told() -> None:
    untold = {
        f"{each.path}: {error.__name__}"
        for each in documented()
        for error in _errors(each)
        if not each.docstring.reference
        and (each.path, error) not in NOT_RAISED
        and not each.docstring.entries("Raises").keys() & {base.__name__ for base in error.__mro__}
    }
    assert untold == set()


def _errors(of: Documented) -> set[type[Exception]]:
    if of.function is None:
        return set()
    return errors_raised(of.function, of.thing if inspect.isclass(of.thing) else of.owner)


@pytest.mark.parametrize("path", KNOWN_ERRORS)
def test_errors_that_are_known_are_told(path: str) -> None:
    [told] = [set(each.docstring.entries("Raises")) for each in documented() if each.path == path]
    assert KNOWN_ERRORS[path] <= told


@pytest.mark.parametrize("name", sorted(CONCEPTS_OF_PREFECT))
def test_what_is_a_concept_of_prefect_says_so(name: str) -> None:
    [text] = [each.docstring.text for each in documented() if each.path == name]
    assert "Prefect" in text


@pytest.mark.parametrize(
    "field", sorted(field.name for field in attrs.fields(trioworker.Settings) if field.metadata)
)
def test_every_setting_says_by_which_name_the_user_knows_it(field: str) -> None:
    [declaration] = attrs.fields_dict(trioworker.Settings)[field].metadata.values()
    explained = Docstring.of(trioworker.Settings).entries("Attributes")[field]
    assert explained.startswith(f"``{declaration.name}``")


# Secrets


SECRETS = {
    "PREFECT_API_URL": "http://ann:hunter2-password@127.0.0.1:1/api",
    "PREFECT_API_KEY": "hunter2-key",
    "PREFECT_API_AUTH_STRING": "ann:hunter2-auth",
    "PREFECT_CLIENT_CUSTOM_HEADERS": '{"Authorization": "hunter2-header"}',
    "UNRELATED": "hunter2-other",
}


def test_no_secret_is_shown_by_anything_that_holds_one(tmp_path: Path) -> None:
    """Such a `repr` is in logs of a host, and in every failed assertion of a test."""
    settings = trioworker.Settings.load({"PREFECT_HOME": str(tmp_path), **SECRETS}, tmp_path)
    config = trioworker.WorkerConfig(pool="pool", settings=settings)
    worker = trioworker.Worker(config)
    server = trioworker.testing.PrefectServer("http://127.0.0.1:1/api", dict(SECRETS), tmp_path)
    holders = [settings, config, config.transport_config(), worker, worker.status(), worker.watch(), server]
    shown = {type(holder).__name__: repr(holder) for holder in holders}
    assert [name for name, text in shown.items() if "hunter2" in text] == []


def test_refusals_show_no_secret(tmp_path: Path) -> None:
    environment = {"PREFECT_HOME": str(tmp_path), **SECRETS}
    settings = trioworker.Settings.load(environment, tmp_path)
    for wrong in ({"pool": ""}, {"pool": "pool", "limit": 0}, {"pool": "pool", "drain_timeout": -1}):
        with pytest.raises(trioworker.ConfigurationError) as refusal:
            trioworker.WorkerConfig(settings=settings, **wrong)
        assert "hunter2" not in str(refusal.value)
