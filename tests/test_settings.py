"""Settings: each source and rule by example, and Prefect itself as the judge."""

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from trioworker import settings as settings_module
from trioworker.settings import Settings, SettingsError

Write = Callable[[str, str], None]


class Place:
    """A working directory and an environment to load settings from, with a home of its own."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "work"
        self.home = root / "home"
        self.directory.mkdir()
        self.home.mkdir()
        self.environment: dict[str, str] = {"HOME": str(self.home)}

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def write_profiles(self, text: str) -> Path:
        path = self.home / ".prefect" / "profiles.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def load(self, **environment: str) -> Settings:
        return Settings.load({**self.environment, **environment}, self.directory)

    def error(self, **environment: str) -> str:
        with pytest.raises(SettingsError) as caught:
            self.load(**environment)
        return str(caught.value)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# Each way to set PREFECT_WORKER_QUERY_SECONDS, the one that counts most first.


def _by_environment(place: Place, seconds: int) -> str:
    place.environment["PREFECT_WORKER_QUERY_SECONDS"] = str(seconds)
    return "environment variable"


def _by_dotenv(place: Place, seconds: int) -> str:
    return f".env file {place.write('.env', f'PREFECT_WORKER_QUERY_SECONDS={seconds}')}"


def _by_prefect_toml(place: Place, seconds: int) -> str:
    path = place.write("prefect.toml", f"[worker]\nquery_seconds = {seconds}")
    return f"prefect.toml file {path}"


def _by_pyproject(place: Place, seconds: int) -> str:
    path = place.write("pyproject.toml", f"[tool.prefect.worker]\nquery_seconds = {seconds}")
    return f"[tool.prefect] in {path}"


def _by_profile(place: Place, seconds: int) -> str:
    path = place.write_profiles(
        f'active = "demo"\n[profiles.demo]\nPREFECT_WORKER_QUERY_SECONDS = "{seconds}"'
    )
    return f"profile 'demo' in {path}"


SOURCES = [_by_environment, _by_dotenv, _by_prefect_toml, _by_pyproject, _by_profile]


@pytest.mark.parametrize("source", SOURCES)
def test_value_comes_from_the_only_source_that_has_it(
    place: Place, source: Callable[[Place, int], str]
) -> None:
    expected_source = source(place, 3)

    settings = place.load()

    assert settings.worker_query_seconds == 3
    assert settings.source_of("worker_query_seconds") == expected_source
    assert settings.source_of("PREFECT_WORKER_QUERY_SECONDS") == expected_source


@pytest.mark.parametrize(("higher", "lower"), list(combinations(SOURCES, 2)))
def test_higher_source_hides_the_lower_one(
    place: Place, higher: Callable[[Place, int], str], lower: Callable[[Place, int], str]
) -> None:
    lower(place, 7)
    expected_source = higher(place, 3)

    settings = place.load()

    assert settings.worker_query_seconds == 3
    assert settings.source_of("worker_query_seconds") == expected_source


def test_defaults_hold_where_nothing_is_set(place: Place) -> None:
    settings = place.load()

    assert settings.api_url is None
    assert settings.api_request_timeout == 60
    assert settings.worker_prefetch_seconds is None
    assert settings.worker_cancellation_poll_seconds is None
    assert settings.home == place.home / ".prefect"
    assert settings.give_up_after is None
    assert settings.source_of("api_url") == settings.source_of("home") == "default"


def test_the_process_environment_is_not_consulted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write(".env", "PREFECT_API_KEY=${ELSEWHERE}")
    place.write_profiles('[profiles.demo]\nPREFECT_API_AUTH_STRING = "a:b"')
    for name, value in {
        "HOME": "/elsewhere",
        "ELSEWHERE": "leaked",
        "PREFECT_API_URL": "http://leaked/api",
        "PREFECT_PROFILE": "leaked",
        "PREFECT_HOME": "/leaked",
        "SSL_CERT_FILE": "/leaked",
    }.items():
        monkeypatch.setenv(name, value)

    settings = place.load(PREFECT_PROFILE="demo")

    assert settings.api_url is None
    assert settings.api_key is None
    assert settings.api_auth_string == "a:b"
    assert settings.api_ssl_cert_file is None
    assert settings.home == place.home / ".prefect"


def test_every_form_of_value_is_read(place: Place) -> None:
    settings = place.load(
        PREFECT_API_URL="https://example.test/api/",
        PREFECT_API_TLS_INSECURE_SKIP_VERIFY="Yes",
        PREFECT_API_SSL_CERT_FILE="/certificates/ca.pem",
        PREFECT_CLIENT_MAX_RETRIES="0",
        PREFECT_CLIENT_RETRY_EXTRA_CODES="404, 429",
        PREFECT_CLIENT_CUSTOM_HEADERS='{"X-Team": "data"}',
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED="off",
        PREFECT_WORKER_PREFETCH_SECONDS="0",
        PREFECT_WORKER_WEBSERVER_PORT="0",
        PREFECT_LOGGING_LEVEL="warning",
        PREFECT_HOME="~/elsewhere",
        TRIOWORKER_GIVE_UP_AFTER="1.5",
        TRIOWORKER_PYTHON="/usr/bin/python3",
        TRIOWORKER_WARM_START="no",
        TRIOWORKER_PRELOAD="pandas, numpy.linalg torch,",
    )

    assert settings.api_url == "https://example.test/api"
    assert settings.api_tls_insecure_skip_verify is True
    assert settings.api_ssl_cert_file == Path("/certificates/ca.pem")
    assert settings.client_max_retries == 0
    assert settings.client_retry_extra_codes == {404, 429}
    assert settings.client_custom_headers == {"X-Team": "data"}
    assert settings.client_csrf_support_enabled is False
    assert settings.worker_prefetch_seconds == 0
    assert settings.worker_webserver_port == 0
    assert settings.logging_level == "WARNING"
    assert settings.home == place.home / "elsewhere"
    assert settings.give_up_after == 1.5
    assert settings.python == "/usr/bin/python3"
    assert settings.warm_start is False
    assert settings.preload == ("pandas", "numpy.linalg", "torch")


@pytest.mark.parametrize(
    ("written", "codes"), [("", set()), ("404", {404}), ("404,429", {404, 429}), ("[404, 429]", {404, 429})]
)
def test_status_codes_may_be_one_or_several(place: Place, written: str, codes: set[int]) -> None:
    assert place.load(PREFECT_CLIENT_RETRY_EXTRA_CODES=written).client_retry_extra_codes == codes


def test_names_of_variables_count_in_any_case(place: Place) -> None:
    assert place.load(prefect_worker_query_seconds="4").worker_query_seconds == 4


def test_empty_text_is_none_and_hides_lower_sources(place: Place) -> None:
    place.write("prefect.toml", '[api]\nurl = "http://lower/api"\nssl_cert_file = "/lower.pem"')

    settings = place.load(PREFECT_API_URL="", PREFECT_API_SSL_CERT_FILE="", TRIOWORKER_GIVE_UP_AFTER="")

    assert settings.api_url is None
    assert settings.api_ssl_cert_file is None
    assert settings.give_up_after is None
    assert settings.source_of("api_url") == "environment variable"


def test_dotenv_values_refer_to_the_environment_and_to_earlier_ones(place: Place) -> None:
    place.write(".env", "NAME=${WHO}-${MISSING:-x}\nPREFECT_API_KEY=${NAME}\nPREFECT_UI_URL\n")

    assert place.load(WHO="ann").api_key == "ann-x"


def test_own_settings_are_read_from_dotenv_but_not_from_toml_or_profile(place: Place) -> None:
    place.write(".env", "TRIOWORKER_GIVE_UP_AFTER=5")
    place.write("prefect.toml", '[trioworker]\npython = "/toml"')
    place.write_profiles('active = "demo"\n[profiles.demo]\nTRIOWORKER_PYTHON = "/profile"')

    settings = place.load()

    assert settings.give_up_after == 5
    assert settings.python is None
    assert settings.source_of("TRIOWORKER_GIVE_UP_AFTER") == f".env file {place.directory / '.env'}"


def test_headers_of_all_sources_are_put_together(place: Place) -> None:
    path = place.write("prefect.toml", '[client.custom_headers]\nA = "toml"\nB = "toml"')

    settings = place.load(PREFECT_CLIENT_CUSTOM_HEADERS='{"A": "environment"}')

    assert settings.client_custom_headers == {"A": "environment", "B": "toml"}
    assert settings.source_of("client_custom_headers") == f"environment variable, prefect.toml file {path}"


def test_debug_mode_sets_the_logging_level(place: Place) -> None:
    settings = place.load(PREFECT_DEBUG_MODE="1", PREFECT_LOGGING_LEVEL="ERROR")

    assert settings.logging_level == "DEBUG"
    assert settings.source_of("logging_level") == "PREFECT_DEBUG_MODE"


def test_logging_file_is_in_the_home_directory_unless_it_is_elsewhere(place: Place) -> None:
    usual = place.load(PREFECT_HOME="/prefect", PREFECT_LOGGING_CONFIG_PATH="")
    elsewhere = place.load(PREFECT_LOGGING_SETTINGS_PATH="~/x.yml")

    assert usual.logging_config_path == Path("/prefect/logging.yml")
    assert usual.source_of("logging_config_path") == "default"
    assert elsewhere.logging_config_path == Path("~/x.yml")
    assert "PREFECT_LOGGING_CONFIG_PATH" not in usual.environment_for_runs()


@pytest.mark.parametrize(("written", "log_format"), [("text", "text"), ("JSON", "json")])
def test_log_format_is_text_or_json(place: Place, written: str, log_format: str) -> None:
    assert place.load(TRIOWORKER_LOG_FORMAT=written).log_format == log_format
    assert "text or json" in place.error(TRIOWORKER_LOG_FORMAT="xml")


def test_variables_are_what_is_set_and_what_holds_otherwise_under_all_names(place: Place) -> None:
    place.write("prefect.toml", '[logging]\nlevel = "warning"\n[results]\ndefault_serializer = "json"')

    variables = place.load(PREFECT_CLIENT_ENABLE_METRICS="yes", TRIOWORKER_LOG_FORMAT="json").variables()

    assert variables["PREFECT_LOGGING_LEVEL"] == "WARNING"
    assert variables["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"
    assert variables["PREFECT_CLIENT_METRICS_ENABLED"] == "True"
    assert variables["PREFECT_CLIENT_ENABLE_METRICS"] == "True"
    assert variables["PREFECT_WORKER_QUERY_SECONDS"] == "10.0"
    assert variables["PREFECT_HOME"] == str(place.home / ".prefect")
    assert "PREFECT_API_URL" not in variables
    assert "TRIOWORKER_LOG_FORMAT" not in variables


def test_certificates_of_the_system_are_used_where_prefect_names_none(place: Place) -> None:
    settings = place.load(SSL_CERT_FILE="/system.pem")

    assert settings.api_ssl_cert_file == Path("/system.pem")
    assert settings.source_of("api_ssl_cert_file") == "environment variable SSL_CERT_FILE"
    assert "PREFECT_API_SSL_CERT_FILE" not in settings.environment_for_runs()


@pytest.mark.parametrize(
    ("api_url", "ui_url"),
    [
        ("http://127.0.0.1:4200/api", "http://127.0.0.1:4200"),
        ("http://ann:secret@host/api", "http://host"),
        (
            "https://api.prefect.cloud/api/accounts/1/workspaces/2",
            "https://app.prefect.cloud/account/1/workspace/2",
        ),
    ],
)
def test_ui_url_is_worked_out_from_the_api_url(place: Place, api_url: str, ui_url: str) -> None:
    settings = place.load(PREFECT_API_URL=api_url)

    assert settings.ui_url == ui_url
    assert settings.source_of("ui_url") == "worked out from PREFECT_API_URL"
    assert "PREFECT_UI_URL" not in settings.environment_for_runs()


# Profiles

TWO_PROFILES = """
active = "one"
[profiles.one]
PREFECT_API_URL = "http://one/api"
[profiles.two]
PREFECT_API_URL = "http://two/api"
"""


def test_profile_variable_chooses_another_than_the_active_profile(place: Place) -> None:
    path = place.write_profiles(TWO_PROFILES)

    settings = place.load(PREFECT_PROFILE="two")

    assert settings.api_url == "http://two/api"
    assert settings.source_of("api_url") == f"profile 'two' in {path}"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (".env", "PREFECT_PROFILES_PATH=own.toml"),
        ("prefect.toml", 'profiles_path = "own.toml"'),
        ("pyproject.toml", '[tool.prefect]\nprofiles_path = "own.toml"'),
    ],
)
def test_profiles_path_may_stand_in_a_file_of_the_working_directory(
    place: Place, file: str, text: str
) -> None:
    place.write(file, text)
    place.write("own.toml", TWO_PROFILES)

    assert place.load().api_url == "http://one/api"


def test_profiles_are_looked_for_in_prefect_home(place: Place) -> None:
    place.write("elsewhere/profiles.toml", TWO_PROFILES)

    assert place.load(PREFECT_HOME=str(place.directory / "elsewhere")).api_url == "http://one/api"


def test_built_in_profiles_are_there_without_a_profiles_file(place: Place) -> None:
    assert place.load().environment_for_runs() == {"PREFECT_SERVER_EPHEMERAL_ENABLED": "true"}
    local = place.load(PREFECT_PROFILE="local")
    assert local.api_url == "http://127.0.0.1:4200/api"
    assert local.source_of("api_url") == "profile 'local' built into Prefect"


def test_profiles_are_ignored_in_prefects_test_mode(place: Place) -> None:
    place.write_profiles(TWO_PROFILES)

    settings = place.load(PREFECT_TEST_MODE="1", PREFECT_PROFILE="missing")

    assert settings.api_url is None
    assert settings.logging_level == "DEBUG"


def test_profile_that_does_not_exist_is_an_error_that_lists_those_that_do(place: Place) -> None:
    path = place.write_profiles(TWO_PROFILES)

    assert place.error(PREFECT_PROFILE="three") == (
        "PREFECT_PROFILE (environment variable) names the profile 'three', which does not exist; "
        f"the profiles in {path} are: one, two"
    )


def test_active_key_that_names_no_profile_is_an_error(place: Place) -> None:
    path = place.write_profiles('active = "gone"')

    assert place.error() == (
        f"'active' in {path} names the profile 'gone', which does not exist; the profiles in {path} are: none"
    )


# Errors


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PREFECT_WORKER_QUERY_SECONDS", "soon", "a number of seconds above 0"),
        ("PREFECT_WORKER_QUERY_SECONDS", "", "a number of seconds above 0"),
        ("PREFECT_WORKER_QUERY_SECONDS", "nan", "a number of seconds above 0"),
        ("PREFECT_WORKER_HEARTBEAT_SECONDS", "0", "a number of seconds above 0"),
        ("PREFECT_WORKER_HEARTBEAT_SECONDS", "inf", "a number of seconds above 0"),
        ("PREFECT_WORKER_PREFETCH_SECONDS", "-1", "a number of seconds, 0 or more"),
        ("PREFECT_CLIENT_RETRY_JITTER_FACTOR", "-0.1", "a number, 0 or more"),
        ("PREFECT_CLIENT_MAX_RETRIES", "1.5", "a whole number, 0 or more"),
        ("PREFECT_WORKER_WEBSERVER_PORT", "65536", "a port number from 0 to 65535"),
        ("PREFECT_WORKER_WEBSERVER_HOST", "", "a host name or address"),
        ("PREFECT_WORKER_DEBUG_MODE", "perhaps", "true or false"),
        ("PREFECT_LOGGING_LEVEL", "LOUD", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        (
            "PREFECT_CLIENT_RETRY_EXTRA_CODES",
            "404,",
            "HTTP status codes separated by commas, such as 404,429",
        ),
        ("PREFECT_API_URL", "127.0.0.1:4200/api", "a URL such as http://127.0.0.1:4200/api"),
        ("PREFECT_HOME", "", "a path"),
        ("TRIOWORKER_GIVE_UP_AFTER", "never", "a number of seconds above 0"),
        ("TRIOWORKER_WARM_START", "lukewarm", "true or false"),
        ("TRIOWORKER_PRELOAD", "pandas;numpy", "the names of modules, with commas between them"),
        ("TRIOWORKER_PRELOAD", "a-package", "the names of modules, with commas between them"),
        ("TRIOWORKER_PRELOAD", "..relative", "the names of modules, with commas between them"),
    ],
)
def test_unfit_value_is_an_error_that_says_what_is_accepted(
    place: Place, name: str, value: str, expected: str
) -> None:
    assert place.error(**{name: value}) == f"{name}={value!r} (environment variable): expected {expected}"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[worker]\nquery_seconds = true", "PREFECT_WORKER_QUERY_SECONDS=True"),
        ("[worker.webserver]\nhost = 1", "PREFECT_WORKER_WEBSERVER_HOST=1"),
        ("[api]\nurl = 1", "PREFECT_API_URL=1"),
        ("[api]\nkey = 123456", "PREFECT_API_KEY"),
    ],
)
def test_toml_value_of_the_wrong_type_is_an_error(place: Place, toml: str, message: str) -> None:
    path = place.write("prefect.toml", toml)

    assert place.error().startswith(f"{message} (prefect.toml file {path}): expected ")


@pytest.mark.parametrize("value", ["not JSON: hunter2", '["hunter2"]', '{"password": {"is": "hunter2"}}'])
def test_error_about_a_secret_does_not_show_it(place: Place, value: str) -> None:
    message = place.error(PREFECT_CLIENT_CUSTOM_HEADERS=value)

    assert message.startswith("PREFECT_CLIENT_CUSTOM_HEADERS (environment variable): expected a JSON object")
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ann:hunter2@host/api", "***@host/api"),
        ("http://ann:hunter2@host:port/api", "http://***@host:port/api"),
        # These must be written otherwise in a URL, and who does not know is told without showing them.
        ("http://ann:hun/ter2@host/api", "http://***@host/api"),
        ("http://ann:hun ter2@host/api", "http://***@host/api"),
        ("http://ann:hun@ter2@host:port/api", "http://***@host:port/api"),
    ],
)
def test_error_about_a_url_does_not_show_its_password(place: Place, url: str, shown: str) -> None:
    message = place.error(PREFECT_API_URL=url)

    assert message.startswith(f"PREFECT_API_URL='{shown}' (environment variable): expected a URL")


@pytest.mark.parametrize("file", ["prefect.toml", "pyproject.toml", "profiles.toml"])
def test_broken_toml_file_is_an_error_that_names_the_file_and_the_reason(place: Place, file: str) -> None:
    path = place.write(file, "x = 1\nbroken value\n")

    message = place.error(PREFECT_PROFILES_PATH="profiles.toml")

    assert message.startswith(f"{path} is not valid TOML: ")
    assert "line 2" in message


@pytest.mark.parametrize("file", [".env", "prefect.toml"])
def test_file_that_is_no_text_is_an_error(place: Place, file: str) -> None:
    path = place.directory / file
    path.write_bytes(b"\xff\xfe")

    assert place.error().startswith(str(path))


@pytest.mark.parametrize("method", ["is_file", "read_text"])
def test_file_closed_to_the_user_is_an_error(
    place: Place, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    path = place.write("prefect.toml", "")

    def refuse(*arguments: object, **options: object) -> bool:
        raise PermissionError("not yours")

    with monkeypatch.context() as patch:
        patch.setattr(Path, method, refuse)
        message = place.error()

    file = place.directory / ".env" if method == "is_file" else path
    assert message == f"{file} cannot be read: not yours"


def test_user_without_a_home_directory_is_told_what_to_set(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def know_nobody(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", know_nobody)
    del place.environment["HOME"]

    assert "set PREFECT_HOME" in place.error()
    assert place.load(PREFECT_HOME="/somewhere").home == Path("/somewhere")


@pytest.mark.parametrize(
    ("file", "text", "table"),
    [
        ("pyproject.toml", "tool = 1", "'tool'"),
        ("pyproject.toml", "[tool]\nprefect = 1", "'prefect'"),
        ("profiles.toml", "profiles = 1", "'profiles'"),
        ("profiles.toml", 'active = "one"\n[profiles]\none = 1', "'one'"),
    ],
)
def test_value_where_a_table_belongs_is_an_error(place: Place, file: str, text: str, table: str) -> None:
    path = place.write(file, text)

    message = place.error(PREFECT_PROFILES_PATH="profiles.toml")

    assert message == f"{table} in {path} must be a table, not 1"


def test_source_of_something_that_is_no_setting_is_refused(place: Place) -> None:
    with pytest.raises(ValueError, match="'api_ulr' is not a setting"):
        place.load().source_of("api_ulr")


# Secrets


def test_repr_shows_no_secret(place: Place) -> None:
    place.write_profiles('active = "demo"\n[profiles.demo]\nPREFECT_API_AUTH_STRING = "hunter2-auth"')

    shown = repr(
        place.load(
            PREFECT_API_URL="http://ann:hunter2-password@host/api",
            PREFECT_API_KEY="hunter2-key",
            PREFECT_CLIENT_CUSTOM_HEADERS='{"Authorization": "hunter2-header"}',
            UNRELATED="hunter2-other",
        )
    )

    assert "hunter2" not in shown
    assert "api_url='http://***@host/api'" in shown


# What runs are given


def test_runs_are_given_every_prefect_setting_from_any_source(place: Place) -> None:
    place.write_profiles(
        'active = "demo"\n[profiles.demo]\n'
        'PREFECT_RESULTS_PERSIST_BY_DEFAULT = true\nPREFECT_API_KEY = "low"\nOTHER = "x"'
    )
    place.write("pyproject.toml", "[tool.prefect.tasks]\ndefault_retry_delay_seconds = [10, 1]")
    place.write("prefect.toml", '[client.custom_headers]\nA = "b"')
    place.write(".env", "PREFECT_API_KEY=middle")

    settings = place.load(
        PREFECT_API_KEY="high",
        PREFECT_HOME="~/p",
        PREFECT_PROFILES_PATH=str(place.home / ".prefect" / "profiles.toml"),
        PREFECT_PROFILE="demo",
        PREFECT__FLOW_RUN_ID="of another run",
        TRIOWORKER_PYTHON="python",
        UNRELATED="x",
    )

    assert settings.environment_for_runs() == {
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "True",
        "PREFECT_TASKS_DEFAULT_RETRY_DELAY_SECONDS": "[10, 1]",
        "PREFECT_CLIENT_CUSTOM_HEADERS": '{"A": "b"}',
        "PREFECT_API_KEY": "high",
        "PREFECT_HOME": str(place.home / "p"),
        "PREFECT_PROFILES_PATH": str(place.home / ".prefect" / "profiles.toml"),
    }


def test_former_name_in_a_higher_source_hides_the_current_name_in_a_lower_one(place: Place) -> None:
    place.write("prefect.toml", "[flows]\nheartbeat_frequency = 60")

    settings = place.load(PREFECT_RUNNER_HEARTBEAT_FREQUENCY="40")

    assert settings.environment_for_runs()["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "40"
    assert settings.source_of("PREFECT_RUNNER_HEARTBEAT_FREQUENCY") == "environment variable"


@pytest.mark.parametrize("current_first", [True, False])
def test_current_name_beats_the_former_one_in_the_same_source(place: Place, current_first: bool) -> None:
    both = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60", "PREFECT_RUNNER_HEARTBEAT_FREQUENCY": "40"}
    names = sorted(both, reverse=not current_first)

    settings = place.load(**{name: both[name] for name in names})

    assert settings.environment_for_runs()["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "60"


def test_environment_is_kept_as_a_copy_that_cannot_be_changed(place: Place) -> None:
    environment = {"HOME": str(place.home), "PATH": "/bin"}

    settings = Settings.load(environment, place.directory)
    environment["PATH"] = "/changed"

    assert settings.environment["PATH"] == "/bin"
    assert not hasattr(settings.environment, "__setitem__")


# --local-server


def test_with_api_url_says_where_the_url_came_from_and_passes_it_to_runs(place: Place) -> None:
    before = place.load(PREFECT_API_URL="http://elsewhere/api", PREFECT_API_KEY="key")

    after = before.with_api_url("http://127.0.0.1:5000/api/")

    assert after.api_url == "http://127.0.0.1:5000/api"
    assert after.ui_url == "http://127.0.0.1:5000"
    assert after.source_of("api_url") == "--local-server"
    assert after.environment_for_runs()["PREFECT_API_URL"] == "http://127.0.0.1:5000/api"
    assert after.api_key == "key"
    assert before.api_url == "http://elsewhere/api"
    assert before.source_of("api_url") == "environment variable"


def test_with_api_url_keeps_a_ui_url_that_the_user_has_set(place: Place) -> None:
    settings = place.load(PREFECT_UI_URL="http://ui").with_api_url("http://127.0.0.1:5000/api")

    assert settings.ui_url == "http://ui"
    assert settings.source_of("ui_url") == "environment variable"


@pytest.mark.process
def test_loading_without_files_imports_no_parser_of_files(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from trioworker.settings import Settings;"
        "Settings.load({'HOME': '/nowhere'}, Path('/nowhere'));"
        "print(sorted({'tomllib', 'dotenv', 'prefect'} & set(sys.modules)))"
    )

    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert completed.stdout == "[]\n"


# Prefect itself

PROFILES = """
active = "demo"
[profiles.demo]
PREFECT_API_URL = "http://profile/api"
PREFECT_WORKER_QUERY_SECONDS = "21"
PREFECT_WORKER_PREFETCH_SECONDS = 22
PREFECT_WORKER_DEBUG_MODE = true
PREFECT_CLIENT_RETRY_EXTRA_CODES = [404]
PREFECT_CLIENT_CUSTOM_HEADERS = '{"Profile": "yes", "Shared": "profile"}'
PREFECT_FLOWS_HEARTBEAT_FREQUENCY = 61
PREFECT_RESULTS_PERSIST_BY_DEFAULT = true
[profiles.other]
PREFECT_API_URL = "http://other/api"
PREFECT_RUNNER_HEARTBEAT_FREQUENCY = "62"
[profiles.ephemeral]
PREFECT_API_KEY = "own ephemeral"
"""

PREFECT_TOML = """
debug_mode = false
ui_url = "http://ui.toml"
[api]
request_timeout = 31
[client]
retry_extra_codes = [404, 429]
[client.custom_headers]
Toml = "yes"
Shared = "toml"
[worker]
heartbeat_seconds = "32"
query_seconds = 33
[worker.webserver]
port = 34
[logging]
level = "warning"
extra_loggers = ["b", "a"]
[logging.to_api]
enabled = false
[server.api]
host = "server.toml"
"""

PYPROJECT = """
[tool.prefect.worker]
query_seconds = 41
prefetch_seconds = 42.5
[tool.prefect.client.custom_headers]
Pyproject = "yes"
[tool.other]
x = 1
"""

DOTENV = """
BASE=http://dotenv
prefect_api_url=${BASE}/${PART:-api}
export PREFECT_API_KEY='quoted # key'
PREFECT_API_AUTH_STRING
PREFECT_WORKER_WEBSERVER_HOST=localhost # a comment
PREFECT_WORKER_QUERY_SECONDS=51
"""

ALL_FILES = {
    ".env": DOTENV,
    "prefect.toml": PREFECT_TOML,
    "pyproject.toml": PYPROJECT,
    "p.toml": PROFILES,
}

SETUPS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "nothing": ({}, {}),
    "environment": (
        {
            "PREFECT_API_URL": "https://host:4200/base/api",
            "prefect_api_key": "lower-case",
            "PREFECT_API_AUTH_STRING": "",
            "PREFECT_API_SSL_CERT_FILE": "",
            "PREFECT_API_TLS_INSECURE_SKIP_VERIFY": "on",
            "PREFECT_API_REQUEST_TIMEOUT": "1e1",
            "PREFECT_CLIENT_MAX_RETRIES": "3",
            "PREFECT_CLIENT_RETRY_JITTER_FACTOR": "0",
            "PREFECT_CLIENT_RETRY_EXTRA_CODES": "[404, 500]",
            "PREFECT_CLIENT_CUSTOM_HEADERS": '{"A": "b"}',
            "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "F",
            "PREFECT_WORKER_QUERY_SECONDS": " 4 ",
            "PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "9",
            "PREFECT_WORKER_WEBSERVER_PORT": "80.0",
            "PREFECT_LOGGING_LEVEL": "Error",
            "PREFECT_HOME": "~/elsewhere",
            "PREFECT_NO_SUCH_SETTING": "x",
        },
        {},
    ),
    ".env": ({"PREFECT_WORKER_HEARTBEAT_SECONDS": "5"}, {".env": DOTENV}),
    "prefect.toml": ({}, {"prefect.toml": PREFECT_TOML}),
    "pyproject.toml": ({}, {"pyproject.toml": PYPROJECT}),
    "profile": ({"PREFECT_PROFILES_PATH": "p.toml"}, {"p.toml": PROFILES}),
    "chosen profile": ({"PREFECT_PROFILES_PATH": "p.toml", "PREFECT_PROFILE": "other"}, {"p.toml": PROFILES}),
    "profile in home": ({"PREFECT_HOME": "."}, {"profiles.toml": PROFILES}),
    "built-in profile": ({"PREFECT_PROFILE": "local"}, {}),
    "built-in profile asked of a file": (
        {"PREFECT_PROFILES_PATH": "p.toml", "PREFECT_PROFILE": "local"},
        {"p.toml": PROFILES},
    ),
    "built-in profile with a home": ({"PREFECT_PROFILE": "local", "PREFECT_HOME": "none"}, {}),
    "profiles path in pyproject": (
        {},
        {"pyproject.toml": '[tool.prefect]\nprofiles_path = "p.toml"', "p.toml": PROFILES},
    ),
    "everything": (
        {
            "PREFECT_PROFILES_PATH": "p.toml",
            "PREFECT_CLIENT_CUSTOM_HEADERS": '{"Shared": "environment"}',
            "PREFECT_RUNNER_HEARTBEAT_FREQUENCY": "63",
        },
        ALL_FILES,
    ),
    "debug mode": ({"PREFECT_DEBUG_MODE": "1", "PREFECT_LOGGING_LEVEL": "ERROR"}, {}),
    "test mode": ({"PREFECT_TEST_MODE": "1", "PREFECT_PROFILES_PATH": "p.toml"}, {"p.toml": PROFILES}),
    "cloud": ({"PREFECT_API_URL": "https://api.prefect.cloud/api/accounts/1/workspaces/2"}, {}),
    "own cloud": (
        {
            "PREFECT_API_URL": "https://cloud.test/api/accounts/1/workspaces/2",
            "PREFECT_CLOUD_API_URL": "https://cloud.test/api",
            "PREFECT_CLOUD_UI_URL": "https://ui.test",
        },
        {},
    ),
}

# Reads {names, setups: {name: [environment, directory]}}; for each set-up, writes the values of the named
# settings and the variables that Prefect's worker would give to a run.
PREFECT_READER = """
import json, os, sys
from prefect.settings import sources
from prefect.settings.legacy import _get_settings_fields
from prefect.settings.models.root import Settings

asked = json.load(sys.stdin)
fields = _get_settings_fields(Settings)
answer = {}
for setup, (environment, directory) in asked["setups"].items():
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sources._file_cache.clear()
    settings = Settings()
    values = {name: fields[name].value_from(settings) for name in asked["names"]}
    answer[setup] = [values, settings.to_environment_variables(exclude_unset=True)]
print(json.dumps(answer, default=lambda value: sorted(value) if isinstance(value, set) else str(value)))
"""


def ask_prefect(
    setups: Mapping[str, tuple[Mapping[str, str], Path]], names: list[str], home: Path
) -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
    question = {
        "names": names,
        "setups": {name: (dict(variables), str(place)) for name, (variables, place) in setups.items()},
    }
    completed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREFECT_READER],
        input=json.dumps(question),
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    answer: dict[str, tuple[dict[str, Any], dict[str, str]]] = json.loads(completed.stdout.splitlines()[-1])
    return answer


def as_prefect_says(value: object) -> object:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value) if isinstance(value, Path) else value


@pytest.mark.process
def test_values_and_what_runs_are_given_agree_with_prefect(tmp_path: Path) -> None:
    home = tmp_path / "home"
    empty = tmp_path / "empty"
    home.mkdir()
    empty.mkdir()
    setups: dict[str, tuple[dict[str, str], Path]] = {}
    for name, (environment, files) in SETUPS.items():
        directory = tmp_path / name
        directory.mkdir()
        for file, text in files.items():
            (directory / file).write_text(text, encoding="utf-8")
        setups[name] = ({"HOME": str(home), **environment}, directory)
    ours = {name: Settings.load(*setup) for name, setup in setups.items()}
    declared = {
        field: declaration.name
        for field, declaration in settings_module._DECLARATIONS.items()
        if declaration.name.startswith("PREFECT_")
        # What Prefect infers here is not a setting of the user's, and ours stays None.
        and field not in {"worker_cancellation_poll_seconds", "cloud_ui_url"}
    }

    theirs = ask_prefect(setups, list(declared.values()), home)

    assert len(theirs) == len(SETUPS)
    for name, (values, _) in theirs.items():
        expected = {setting: value if value != "" else None for setting, value in values.items()}
        found = {setting: as_prefect_says(getattr(ours[name], field)) for field, setting in declared.items()}
        if found["PREFECT_WORKER_PREFETCH_SECONDS"] is None:
            # Ours tell whether somebody has set it; Prefect's say what holds if nobody has.
            found["PREFECT_WORKER_PREFETCH_SECONDS"] = 10.0
        assert found == expected, name

    # A run in an empty directory must come to the same settings by our variables as by Prefect's.
    runs: dict[str, tuple[dict[str, str], Path]] = {}
    for name, (_, variables) in theirs.items():
        runs[f"{name}: ours"] = ({"HOME": str(home), **ours[name].environment_for_runs()}, empty)
        runs[f"{name}: theirs"] = ({"HOME": str(home), **variables}, empty)
    inside = ask_prefect(runs, [], home)
    for name in theirs:
        assert inside[f"{name}: ours"] == inside[f"{name}: theirs"], name
