"""The settings of a worker: Prefect's own, found where Prefect 3.8.8 finds them, and ``TRIOWORKER_*``.

A setting is looked for, in this order, in the environment, ``.env``, ``prefect.toml`` and ``[tool.prefect]``
of ``pyproject.toml`` (these three in the working directory) and the active Prefect profile; otherwise its
default holds. ``TRIOWORKER_*`` settings are read from the environment and ``.env`` only.
"""

import json
import math
import os
import pwd
import re
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import urlsplit

import attrs

from trioworker.errors import ConfigurationError
from trioworker.lean_attrs import frozen

__all__ = ["Settings", "SettingsError"]

T = TypeVar("T")


class SettingsError(ConfigurationError):
    """A setting, or a file that holds settings, cannot be used.

    The message is for the user: which setting, where it came from, what is wrong, what is accepted.
    """


# --- The forms a value can take: each function accepts what the user wrote or says what is accepted.


class _UnacceptableError(Exception):
    """A value does not fit its setting; the argument names what does."""


def _text(value: object) -> str | None:
    if not isinstance(value, str):
        raise _UnacceptableError("text")
    # To Prefect an empty text is "none": it still hides what a lower source says.
    return value or None


def _host(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _UnacceptableError("a host name or address")
    return value


def _url(value: object) -> str:
    if not isinstance(value, str) or not _names_a_server(value):
        raise _UnacceptableError("a URL such as http://127.0.0.1:4200/api")
    return value.rstrip("/")


def _names_a_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is no number, or too large a one
    except ValueError:
        return False
    return parts.scheme.lower() in {"http", "https"} and bool(parts.hostname) and not re.search(r"\s", url)


def _url_or_none(value: object) -> str | None:
    return None if value == "" else _url(value)


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value:
        raise _UnacceptableError("a path")
    return Path(value)


def _path_or_none(value: object) -> Path | None:
    return None if value == "" else _path(value)


def _flag(value: object) -> bool:
    word = str(value).lower()
    if word in {"1", "true", "t", "yes", "y", "on"}:
        return True
    if word in {"0", "false", "f", "no", "n", "off"}:
        return False
    raise _UnacceptableError("true or false")


def is_module_name(name: str) -> bool:
    """Whether a module can have that name."""
    return all(part.isidentifier() for part in name.split("."))


def _modules(value: object) -> tuple[str, ...]:
    names = tuple(str(value).replace(",", " ").split())
    if all(map(is_module_name, names)):
        return names
    raise _UnacceptableError("the names of modules, with commas between them")


def _number(value: object) -> float:
    """The number that `value` is or spells, or NaN, which lies in no range."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _seconds(value: object) -> float:
    number = _number(value)
    if not 0 < number < math.inf:
        raise _UnacceptableError("a number of seconds above 0")
    return number


def _seconds_or_zero(value: object) -> float:
    number = _number(value)
    if not 0 <= number < math.inf:
        raise _UnacceptableError("a number of seconds, 0 or more")
    return number


def _heartbeat_seconds(value: object) -> float | None:
    if value in {None, ""}:
        return None
    number = _number(value)
    if not 30 <= number < math.inf:
        raise _UnacceptableError("a number of seconds, 30 or more, or nothing")
    return number


def _factor(value: object) -> float:
    number = _number(value)
    if not 0 <= number < math.inf:
        raise _UnacceptableError("a number, 0 or more")
    return number


def _count(value: object) -> int:
    number = _number(value)
    if not 0 <= number < math.inf or not number.is_integer():
        raise _UnacceptableError("a whole number, 0 or more")
    return int(number)


def _port(value: object) -> int:
    number = _number(value)
    if not 0 <= number <= 65535 or not number.is_integer():
        raise _UnacceptableError("a port number from 0 to 65535")
    return int(number)


def _level(value: object) -> str:
    level = str(value).upper()
    if level not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
        raise _UnacceptableError("one of DEBUG, INFO, WARNING, ERROR, CRITICAL")
    return level


def _log_format(value: object) -> str:
    name = str(value).lower()
    if name not in {"text", "json"}:
        raise _UnacceptableError("text or json")
    return name


def _status_codes(value: object) -> frozenset[int]:
    if value == "":
        return frozenset()
    if isinstance(value, str):
        # Both "404,429" and a JSON list are accepted by Prefect.
        value = value.strip("[] ").split(",")
    codes = [_number(code) for code in (value if isinstance(value, list) else [value])]
    if not all(100 <= code <= 599 and code.is_integer() for code in codes):
        raise _UnacceptableError("HTTP status codes separated by commas, such as 404,429")
    return frozenset(int(code) for code in codes)


def _headers(value: object) -> Mapping[str, str]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
        raise _UnacceptableError('a JSON object of texts, such as {"X-Team": "data"}')
    return MappingProxyType(dict(value))


# --- The table of settings.


@frozen
class _Declaration:
    """How the user writes a field of `Settings`: under which name, and in which form."""

    name: str
    parse: Callable[[object], Any]
    secret: bool


_DECLARATION: Final = "trioworker.setting"


def _declare(name: str, parse: Callable[[object], Any], *, secret: bool = False) -> dict[str, _Declaration]:
    return {_DECLARATION: _Declaration(name, parse, secret)}


def _shown(value: object) -> str:
    """The `repr` of a value without what stands before its last ``@``: a password, which may have anything in it."""
    text = repr(value)
    before, at, after = text.rpartition("@")
    if not at:
        return text
    scheme, slashes, _ = before.partition("//")
    return f"{scheme + slashes if slashes else text[0]}***@{after}"


def _setting(
    name: str,
    parse: Callable[[object], T],
    default: T,
    *,
    secret: bool = False,
    show: Callable[[Any], str] | None = None,
) -> T:
    """An `attrs.field`, in the short form of the table below."""
    metadata = _declare(name, parse, secret=secret)
    field: T = attrs.field(default=default, repr=show or not secret, metadata=metadata)
    return field


@frozen
class _Value:
    """A value as it was found, and where."""

    raw: object = attrs.field(repr=False)
    source: str
    given: bool = True
    """False for what was worked out from other values: that is not passed on to runs."""


_NOTHING_FOUND: Final[Mapping[str, _Value]] = MappingProxyType({})


@frozen(kw_only=True)
class Settings:
    """The settings of one worker, each knowing its source. Made by `load`.

    Those of the names ``PREFECT_*`` are Prefect's concepts, and so are their defaults.

    Attributes:
        home: ``PREFECT_HOME``: where Prefect keeps its files.
        debug_mode: ``PREFECT_DEBUG_MODE``: see `logging_level`.
        test_mode: ``PREFECT_TESTING_TEST_MODE``: see `logging_level`.
        ui_url: ``PREFECT_UI_URL``: worked out from the API's URL, as Prefect does it, unless the user has set it.
        cloud_api_url: ``PREFECT_CLOUD_API_URL``: what the API's URL begins with if it is that of Prefect Cloud.
        cloud_ui_url: ``PREFECT_CLOUD_UI_URL``: the UI that belongs to it.
        api_url: ``PREFECT_API_URL``: without a slash at its end; None unless the user has set it.
        api_key: ``PREFECT_API_KEY``: for Prefect Cloud. Never shown.
        api_auth_string: ``PREFECT_API_AUTH_STRING``: user and password for a server of one's own. Never shown.
        api_tls_insecure_skip_verify: ``PREFECT_API_TLS_INSECURE_SKIP_VERIFY``: whether any certificate will do.
        api_ssl_cert_file: ``PREFECT_API_SSL_CERT_FILE``: the authorities to trust; None for the usual ones.
        api_request_timeout: ``PREFECT_API_REQUEST_TIMEOUT``: seconds that one request may take.
        client_max_retries: ``PREFECT_CLIENT_MAX_RETRIES``: how often a request is repeated.
        client_retry_jitter_factor: ``PREFECT_CLIENT_RETRY_JITTER_FACTOR``: how far pauses before it vary.
        client_retry_extra_codes: ``PREFECT_CLIENT_RETRY_EXTRA_CODES``: statuses to repeat a request on, besides
            the usual ones.
        client_custom_headers: ``PREFECT_CLIENT_CUSTOM_HEADERS``: sent with every request. Never shown.
        client_csrf_support_enabled: ``PREFECT_CLIENT_CSRF_SUPPORT_ENABLED``: whether a token is fetched for servers
            that want one.
        client_metrics_enabled: ``PREFECT_CLIENT_METRICS_ENABLED``: whether flow runs serve metrics; we do not.
        client_metrics_port: ``PREFECT_CLIENT_METRICS_PORT``: where they do.
        worker_heartbeat_seconds: ``PREFECT_WORKER_HEARTBEAT_SECONDS``: seconds between two heartbeats of a worker.
        worker_query_seconds: ``PREFECT_WORKER_QUERY_SECONDS``: seconds between two polls for runs.
        worker_prefetch_seconds: ``PREFECT_WORKER_PREFETCH_SECONDS``: how many seconds ahead of their time runs are
            taken; None unless the user has set it.
        worker_cancellation_poll_seconds: ``PREFECT_WORKER_CANCELLATION_POLL_SECONDS``: seconds between two polls
            for cancelled runs; None unless the user has set it.
        flow_heartbeat_seconds: ``PREFECT_FLOWS_HEARTBEAT_FREQUENCY``: seconds between two signs of life of a run
            that is the call of a function; None is none.
        worker_debug_mode: ``PREFECT_WORKER_DEBUG_MODE``: whether the worker logs as at ``DEBUG``.
        worker_webserver_host: ``PREFECT_WORKER_WEBSERVER_HOST``: the address of the health server.
        worker_webserver_port: ``PREFECT_WORKER_WEBSERVER_PORT``: its port.
        logging_level: ``PREFECT_LOGGING_LEVEL``; ``DEBUG`` whenever Prefect's debug or test mode is on.
        logging_colors: ``PREFECT_LOGGING_COLORS``: whether the command may use colours on a terminal.
        logging_config_path: ``PREFECT_LOGGING_CONFIG_PATH``: ``logging.yml`` in `home` unless the user has set it;
            None in settings that were not loaded. The file need not exist.
        logging_to_api_enabled: ``PREFECT_LOGGING_TO_API_ENABLED``: whether logs of runs are sent to the API.
        server_api_host: ``PREFECT_SERVER_API_HOST``: the address of a server that the command starts.
        server_api_port: ``PREFECT_SERVER_API_PORT``: its port, unless that is taken.
        give_up_after: ``TRIOWORKER_GIVE_UP_AFTER``: seconds without an answer from the API after which the worker
            ends; None is never.
        python: ``TRIOWORKER_PYTHON``: interpreter that runs flows; None leaves the choice to the infrastructure.
        warm_start: ``TRIOWORKER_WARM_START``: whether the processes of runs are forked from one that has Prefect
            imported, where that makes no difference to them.
        preload: ``TRIOWORKER_PRELOAD``: modules that are imported there besides.
        log_format: ``TRIOWORKER_LOG_FORMAT``: what the command writes for people, or JSON: ``text`` or ``json``.
        websocket: ``TRIOWORKER_WEBSOCKET``: whether a worker listens to the API's events websocket.
        environment: The environment the settings were read from. Never shown.
    """

    home: Path = attrs.field(metadata=_declare("PREFECT_HOME", _path))
    debug_mode: bool = _setting("PREFECT_DEBUG_MODE", _flag, default=False)
    test_mode: bool = _setting("PREFECT_TESTING_TEST_MODE", _flag, default=False)
    ui_url: str | None = _setting("PREFECT_UI_URL", _text, None, show=_shown)
    cloud_api_url: str = _setting("PREFECT_CLOUD_API_URL", _url, "https://api.prefect.cloud/api")
    cloud_ui_url: str | None = _setting("PREFECT_CLOUD_UI_URL", _text, None)

    api_url: str | None = _setting("PREFECT_API_URL", _url_or_none, None, show=_shown)
    api_key: str | None = _setting("PREFECT_API_KEY", _text, None, secret=True)
    api_auth_string: str | None = _setting("PREFECT_API_AUTH_STRING", _text, None, secret=True)
    api_tls_insecure_skip_verify: bool = _setting(
        "PREFECT_API_TLS_INSECURE_SKIP_VERIFY", _flag, default=False
    )
    api_ssl_cert_file: Path | None = attrs.field(
        default=None, metadata=_declare("PREFECT_API_SSL_CERT_FILE", _path_or_none)
    )
    api_request_timeout: float = _setting("PREFECT_API_REQUEST_TIMEOUT", _seconds, 60.0)

    client_max_retries: int = _setting("PREFECT_CLIENT_MAX_RETRIES", _count, 5)
    client_retry_jitter_factor: float = _setting("PREFECT_CLIENT_RETRY_JITTER_FACTOR", _factor, 0.2)
    client_retry_extra_codes: frozenset[int] = _setting(
        "PREFECT_CLIENT_RETRY_EXTRA_CODES", _status_codes, frozenset()
    )
    client_custom_headers: Mapping[str, str] = _setting(
        "PREFECT_CLIENT_CUSTOM_HEADERS", _headers, MappingProxyType({}), secret=True
    )
    client_csrf_support_enabled: bool = _setting("PREFECT_CLIENT_CSRF_SUPPORT_ENABLED", _flag, default=True)

    client_metrics_enabled: bool = _setting("PREFECT_CLIENT_METRICS_ENABLED", _flag, default=False)
    client_metrics_port: int = _setting("PREFECT_CLIENT_METRICS_PORT", _port, 4201)

    worker_heartbeat_seconds: float = _setting("PREFECT_WORKER_HEARTBEAT_SECONDS", _seconds, 30.0)
    worker_query_seconds: float = _setting("PREFECT_WORKER_QUERY_SECONDS", _seconds, 10.0)
    worker_prefetch_seconds: float | None = _setting(
        "PREFECT_WORKER_PREFETCH_SECONDS", _seconds_or_zero, None
    )
    worker_cancellation_poll_seconds: float | None = _setting(
        "PREFECT_WORKER_CANCELLATION_POLL_SECONDS", _seconds, None
    )
    flow_heartbeat_seconds: float | None = _setting(
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY", _heartbeat_seconds, cast("float | None", 180.0)
    )
    worker_debug_mode: bool = _setting("PREFECT_WORKER_DEBUG_MODE", _flag, default=False)
    worker_webserver_host: str = _setting("PREFECT_WORKER_WEBSERVER_HOST", _host, "0.0.0.0")  # noqa: S104 - Prefect's
    worker_webserver_port: int = _setting("PREFECT_WORKER_WEBSERVER_PORT", _port, 8080)

    logging_level: str = _setting("PREFECT_LOGGING_LEVEL", _level, "INFO")
    logging_colors: bool = _setting("PREFECT_LOGGING_COLORS", _flag, default=True)
    logging_config_path: Path | None = attrs.field(
        default=None, metadata=_declare("PREFECT_LOGGING_CONFIG_PATH", _path_or_none)
    )
    logging_to_api_enabled: bool = _setting("PREFECT_LOGGING_TO_API_ENABLED", _flag, default=True)

    server_api_host: str = _setting("PREFECT_SERVER_API_HOST", _host, "127.0.0.1")
    server_api_port: int = _setting("PREFECT_SERVER_API_PORT", _port, 4200)

    give_up_after: float | None = _setting("TRIOWORKER_GIVE_UP_AFTER", _seconds, None)
    python: str | None = _setting("TRIOWORKER_PYTHON", _text, None)
    warm_start: bool = _setting("TRIOWORKER_WARM_START", _flag, default=True)
    preload: tuple[str, ...] = _setting("TRIOWORKER_PRELOAD", _modules, default=())
    log_format: str = _setting("TRIOWORKER_LOG_FORMAT", _log_format, "text")
    websocket: bool = _setting("TRIOWORKER_WEBSOCKET", _flag, default=True)

    environment: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    _values: Mapping[str, _Value] = attrs.field(default=_NOTHING_FOUND, repr=False, eq=False, alias="values")

    @classmethod
    def load(
        cls,
        environment: Mapping[str, str] | None = None,
        working_directory: str | PathLike[str] | None = None,
    ) -> Self:
        """Read the settings that hold in `environment` and `working_directory`.

        Args:
            environment: The variables to look at, and no others; those of this process if not given.
            working_directory: Where ``.env``, ``prefect.toml`` and ``pyproject.toml`` are looked for; that of this
                process if not given.

        Raises:
            SettingsError: A value does not fit its setting, a file cannot be read or parsed, or the chosen
                profile does not exist.
        """
        environment = os.environ if environment is None else environment
        values: dict[str, _Value] = {}
        for layer in _layers(
            environment, Path.cwd() if working_directory is None else Path(working_directory)
        ):
            for name, raw in layer.values.items():
                values[name] = _laid_over(values.get(name), _Value(raw, layer.source), name)
        _work_out(values, environment)
        fields = {field: _held(field, values) for field in _DECLARATIONS}
        return cls(environment=MappingProxyType(dict(environment)), values=values, **fields)

    def source_of(self, name: str) -> str:
        """Where a value came from, in words for the user.

        Args:
            name: A field of this class, or the name of any setting, such as ``PREFECT_API_URL``.

        Raises:
            ValueError: There is no such field.
        """
        if name in _DECLARATIONS:
            name = _DECLARATIONS[name].name
        elif not name.startswith(("PREFECT_", "TRIOWORKER_")):
            raise ValueError(f"{name!r} is not a setting")
        value = self._values.get(_current_name(name))
        return "default" if value is None else value.source

    def environment_for_runs(self) -> dict[str, str]:
        """Every Prefect setting that the user has set anywhere, as variables for a flow run.

        Prefect's worker passes the same on, as ``to_environment_variables(exclude_unset=True)``. Settings
        that this class has no field for are included, as they were written.
        """
        return {
            name: _as_variable(value.raw)
            for name, value in self._values.items()
            if value.given and name.startswith("PREFECT_")
        }

    def variables(self) -> dict[str, str]:
        """Every Prefect setting whose value is known here, defaults and former names included, as variables.

        Prefect puts these into the placeholders of ``logging.yml``.
        """
        known = {name: _as_variable(value.raw) for name, value in self._values.items()}
        for field, declaration in _DECLARATIONS.items():
            value = getattr(self, field)
            if isinstance(value, str | int | float | Path):
                known[declaration.name] = str(value)
        former = {name: known[current] for name, current in _FORMER_NAMES.items() if current in known}
        return {name: text for name, text in {**former, **known}.items() if name.startswith("PREFECT_")}

    @property
    def connected_to_cloud(self) -> bool:
        """Whether the API is that of Prefect Cloud."""
        return self.api_url is not None and self.api_url.startswith(self.cloud_api_url)

    def with_api_url(self, url: str) -> Self:
        """These settings with the API at `url`, that of the server ``--local-server`` has started.

        Args:
            url: Prefect's ``PREFECT_API_URL``.

        Raises:
            SettingsError: It is no URL.
        """
        values = {**self._values, "PREFECT_API_URL": _Value(url.rstrip("/"), "--local-server")}
        _work_out_ui_url(values)
        return attrs.evolve(
            self, api_url=_held("api_url", values), ui_url=_held("ui_url", values), values=values
        )


_DECLARATIONS: Final[Mapping[str, _Declaration]] = {
    field.name: field.metadata[_DECLARATION]
    for field in attrs.fields(Settings)
    if _DECLARATION in field.metadata
}

_DEFAULTS: Final[Mapping[str, Any]] = {field.name: field.default for field in attrs.fields(Settings)}

_HEADERS: Final = _DECLARATIONS["client_custom_headers"]

# TOML tables that are the value of one setting; every other table is a group of settings.
_TABLE_VALUED: Final = {_HEADERS.name, "PREFECT_SERVER_SERVICES_DB_VACUUM_EVENT_RETENTION_OVERRIDES"}

# Names of former versions that Prefect 3.8.8 still reads, so that a former and a current name given in
# different sources are weighed against each other. Most of the server's own settings are left out: a run
# has no use for them.
_FORMER_NAMES: Final[Mapping[str, str]] = {
    "PREFECT_CLIENT_ENABLE_METRICS": "PREFECT_CLIENT_METRICS_ENABLED",
    "PREFECT_DEFAULT_DOCKER_BUILD_NAMESPACE": "PREFECT_DEPLOYMENTS_DEFAULT_DOCKER_BUILD_NAMESPACE",
    "PREFECT_DEFAULT_RESULT_STORAGE_BLOCK": "PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK",
    "PREFECT_DEFAULT_WORK_POOL_NAME": "PREFECT_DEPLOYMENTS_DEFAULT_WORK_POOL_NAME",
    "PREFECT_EXPERIMENTAL_WARN": "PREFECT_EXPERIMENTS_WARN",
    "PREFECT_EXPERIMENTS_PLUGINS_ALLOW": "PREFECT_PLUGINS_ALLOW",
    "PREFECT_EXPERIMENTS_PLUGINS_DENY": "PREFECT_PLUGINS_DENY",
    "PREFECT_EXPERIMENTS_PLUGINS_ENABLED": "PREFECT_PLUGINS_ENABLED",
    "PREFECT_EXPERIMENTS_PLUGINS_SAFE_MODE": "PREFECT_PLUGINS_SAFE_MODE",
    "PREFECT_EXPERIMENTS_PLUGINS_SETUP_TIMEOUT_SECONDS": "PREFECT_PLUGINS_SETUP_TIMEOUT_SECONDS",
    "PREFECT_EXPERIMENTS_PLUGINS_STRICT": "PREFECT_PLUGINS_STRICT",
    "PREFECT_FLOW_DEFAULT_RETRIES": "PREFECT_FLOWS_DEFAULT_RETRIES",
    "PREFECT_FLOW_DEFAULT_RETRY_DELAY_SECONDS": "PREFECT_FLOWS_DEFAULT_RETRY_DELAY_SECONDS",
    "PREFECT_LOCAL_STORAGE_PATH": "PREFECT_RESULTS_LOCAL_STORAGE_PATH",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "PREFECT_INTERNAL_LOGGING_LEVEL",
    "PREFECT_LOGGING_SETTINGS_PATH": "PREFECT_LOGGING_CONFIG_PATH",
    "PREFECT_RUNNER_HEARTBEAT_FREQUENCY": "PREFECT_FLOWS_HEARTBEAT_FREQUENCY",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "PREFECT_SERVER_EPHEMERAL_ENABLED",
    "PREFECT_TASK_DEFAULT_RETRIES": "PREFECT_TASKS_DEFAULT_RETRIES",
    "PREFECT_TASK_DEFAULT_RETRY_DELAY_SECONDS": "PREFECT_TASKS_DEFAULT_RETRY_DELAY_SECONDS",
    "PREFECT_TASK_RUNNER_THREAD_POOL_MAX_WORKERS": "PREFECT_TASKS_RUNNER_THREAD_POOL_MAX_WORKERS",
    "PREFECT_TASK_SCHEDULING_DEFAULT_STORAGE_BLOCK": "PREFECT_TASKS_SCHEDULING_DEFAULT_STORAGE_BLOCK",
    "PREFECT_TASK_SCHEDULING_DELETE_FAILED_SUBMISSIONS": (
        "PREFECT_TASKS_SCHEDULING_DELETE_FAILED_SUBMISSIONS"
    ),
    "PREFECT_TEST_MODE": "PREFECT_TESTING_TEST_MODE",
    "PREFECT_TEST_SETTING": "PREFECT_TESTING_TEST_SETTING",
    "PREFECT_UNIT_TEST_LOOP_DEBUG": "PREFECT_TESTING_UNIT_TEST_LOOP_DEBUG",
    "PREFECT_UNIT_TEST_MODE": "PREFECT_TESTING_UNIT_TEST_MODE",
}

# What `prefect.settings` ships as its own profiles file.
_BUILT_IN_PROFILES: Final[Mapping[str, Mapping[str, str]]] = {
    "ephemeral": {"PREFECT_SERVER_EPHEMERAL_ENABLED": "true"},
    "local": {"PREFECT_API_URL": "http://127.0.0.1:4200/api"},
    "test": {
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:///:memory:",
    },
    "cloud": {},
}


# --- The sources.


@frozen
class _Layer:
    """The settings one source holds, by their current names."""

    values: Mapping[str, object]
    source: str


def _layers(environment: Mapping[str, str], working_directory: Path) -> Iterator[_Layer]:
    """The sources, the one that yields to all others first."""
    dotenv_path = working_directory / ".env"
    dotenv = _read_dotenv(dotenv_path, environment)
    prefect_path = working_directory / "prefect.toml"
    prefect = _read_toml(prefect_path)
    pyproject_path = working_directory / "pyproject.toml"
    pyproject_place = f"in {pyproject_path}"
    tool = _table(_read_toml(pyproject_path), "tool", pyproject_place)
    pyproject = _table(tool, "prefect", pyproject_place)

    if not _in_test_mode(environment):
        profiles_path = _profiles_path(environment, dotenv, prefect, pyproject)
        if profiles_path is not None:
            profiles_path = working_directory / profiles_path
        yield _active_profile(environment, profiles_path)
    yield _Layer(dict(_named(pyproject, "PREFECT")), f"[tool.prefect] {pyproject_place}")
    yield _Layer(dict(_named(prefect, "PREFECT")), f"prefect.toml file {prefect_path}")
    yield _Layer(_from_variables(dotenv), f".env file {dotenv_path}")
    yield _Layer(_from_variables(environment), "environment variable")


def _in_test_mode(environment: Mapping[str, str]) -> bool:
    """Whether Prefect ignores the user's profiles: any text counts here, even "false"."""
    stems = ("TEST_MODE", "UNIT_TEST_MODE", "TESTING_TEST_MODE", "TESTING_UNIT_TEST_MODE")
    return any(environment.get(f"PREFECT_{stem}") for stem in stems)


def _from_variables(variables: Mapping[str, str | None]) -> dict[str, object]:
    """The settings among `variables`, whose names count in upper and lower case."""
    found: dict[str, object] = {}
    for written, value in variables.items():
        name = written.upper()
        # PREFECT__ variables tell a run who it is; PREFECT_PROFILE chooses a source and is no setting.
        if name.startswith("PREFECT_") and not name.startswith("PREFECT__") and name != "PREFECT_PROFILE":
            if value is not None:
                found[name] = value
        elif name.startswith("TRIOWORKER_") and value:
            found[name] = value
    return _under_current_names(found)


def _under_current_names(values: Mapping[str, object]) -> dict[str, object]:
    # Of a former and a current name in one source, the current one holds.
    former_first = sorted(values, key=lambda name: name not in _FORMER_NAMES)
    return {_current_name(name): values[name] for name in former_first}


def _current_name(name: str) -> str:
    return _FORMER_NAMES.get(name, name)


def _named(table: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    """The settings in a TOML table: ``port`` in ``[worker.webserver]`` is PREFECT_WORKER_WEBSERVER_PORT."""
    for key, value in table.items():
        name = f"{prefix}_{key.upper()}"
        if isinstance(value, dict) and name not in _TABLE_VALUED:
            yield from _named(value, name)
        else:
            yield name, value


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # such as a home directory that is closed to this user
        raise SettingsError(f"{path} cannot be read: {error}") from error


def _read_dotenv(path: Path, environment: Mapping[str, str]) -> dict[str, str | None]:
    if not _is_file(path):
        return {}
    # Here, for it takes as long to import as all else: most workers have no .env file.
    from dotenv import dotenv_values  # noqa: PLC0415
    from dotenv.variables import parse_variables  # noqa: PLC0415

    try:
        written = dotenv_values(path, interpolate=False, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    # python-dotenv's own interpolation would consult the environment of this process.
    values: dict[str, str | None] = {}
    for name, text in written.items():
        known = {**environment, **values}
        values[name] = text and "".join(atom.resolve(known) for atom in parse_variables(text))
    return values


def _read_toml(path: Path) -> dict[str, Any]:
    if not _is_file(path):
        return {}
    import tomllib  # noqa: PLC0415 - costly, and most workers read no TOML file

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error


def _table(parent: Mapping[str, Any], key: str, place: str) -> Mapping[str, Any]:
    table = parent.get(key, {})
    if not isinstance(table, Mapping):
        raise SettingsError(f"{key!r} {place} must be a table, not {table!r}")
    return table


def _profiles_path(
    environment: Mapping[str, str],
    dotenv: Mapping[str, str | None],
    prefect: Mapping[str, object],
    pyproject: Mapping[str, object],
) -> Path | None:
    """Where Prefect looks for profiles; None for its built-in ones. It expands no ``~`` here."""
    configured = (
        environment.get("PREFECT_PROFILES_PATH")
        or dotenv.get("PREFECT_PROFILES_PATH")
        or prefect.get("profiles_path")
        or pyproject.get("profiles_path")
    )
    if configured:
        return Path(str(configured))
    if environment.get("PREFECT_HOME"):
        return Path(environment["PREFECT_HOME"], "profiles.toml")
    usual = _home_of_user(environment) / ".prefect" / "profiles.toml"
    return usual if _is_file(usual) else None


def _active_profile(environment: Mapping[str, str], path: Path | None) -> _Layer:
    place = f"in {path}" if path is not None else "built into Prefect"
    contents: Mapping[str, Any]
    contents = _read_toml(path) if path is not None else {"profiles": _BUILT_IN_PROFILES}
    profiles = _table(contents, "profiles", place)
    chosen = environment.get("PREFECT_PROFILE")
    active = str(chosen or contents.get("active") or "")
    if active in profiles:
        profile = _table(profiles, active, place)
        settings = {name: raw for name, raw in profile.items() if name.startswith("PREFECT_")}
        return _Layer(_under_current_names(settings), f"profile {active!r} {place}")
    # Prefect falls back to its default profile whenever the file lacks the one that was asked for, with
    # a warning unless it is one of the built-in names. A worker on a profile nobody chose helps nobody.
    if active and active not in _BUILT_IN_PROFILES:
        by = "PREFECT_PROFILE (environment variable)" if chosen else f"'active' in {path}"
        raise SettingsError(
            f"{by} names the profile {active!r}, which does not exist; "
            f"the profiles {place} are: {', '.join(sorted(profiles)) or 'none'}"
        )
    return _Layer(_BUILT_IN_PROFILES["ephemeral"], "profile 'ephemeral' built into Prefect")


# --- From what was found to what holds.


def _laid_over(below: _Value | None, above: _Value, name: str) -> _Value:
    """What holds when two sources give a value: the upper one, but headers of both are put together."""
    if below is None or name != _HEADERS.name:
        return above
    headers = {**_parse(_HEADERS, below), **_parse(_HEADERS, above)}
    return _Value(headers, f"{above.source}, {below.source}")


def _parse(declaration: _Declaration, value: _Value) -> Any:
    try:
        return declaration.parse(value.raw)
    except _UnacceptableError as error:
        shown = "" if declaration.secret else f"={_shown(value.raw)}"
        raise SettingsError(f"{declaration.name}{shown} ({value.source}): expected {error}") from None


def _held(field: str, values: Mapping[str, _Value]) -> Any:
    """What `field` of `Settings` is, given what was found."""
    value = values.get(_DECLARATIONS[field].name)
    return _DEFAULTS[field] if value is None else _parse(_DECLARATIONS[field], value)


def _work_out(values: dict[str, _Value], environment: Mapping[str, str]) -> None:
    """Add to `values` what Prefect makes of one setting when it looks at another."""
    home = values.get("PREFECT_HOME") or _Value("~/.prefect", "default", given=False)
    values["PREFECT_HOME"] = attrs.evolve(home, raw=_expanded(home.raw, environment))
    if not values.get("PREFECT_LOGGING_CONFIG_PATH", _Value("", "")).raw:
        usual = str(_held("home", values) / "logging.yml")
        values["PREFECT_LOGGING_CONFIG_PATH"] = _Value(usual, "default", given=False)
    if environment.get("SSL_CERT_FILE") and "PREFECT_API_SSL_CERT_FILE" not in values:
        certificates = _Value(environment["SSL_CERT_FILE"], "environment variable SSL_CERT_FILE", given=False)
        values["PREFECT_API_SSL_CERT_FILE"] = certificates
    for field in ("debug_mode", "test_mode"):
        if _held(field, values):
            values["PREFECT_LOGGING_LEVEL"] = _Value("DEBUG", _DECLARATIONS[field].name, given=False)
    _work_out_ui_url(values)


def _work_out_ui_url(values: dict[str, _Value]) -> None:
    api_url: str | None = _held("api_url", values)
    found = values.get("PREFECT_UI_URL")
    if api_url is not None and (found is None or not found.given):
        ui_url = _infer_ui_url(api_url, _held("cloud_api_url", values), _held("cloud_ui_url", values))
        values["PREFECT_UI_URL"] = _Value(ui_url, "worked out from PREFECT_API_URL", given=False)


def _expanded(path: object, environment: Mapping[str, str]) -> object:
    if isinstance(path, str) and (path == "~" or path.startswith("~/")):
        return str(_home_of_user(environment) / path[2:])
    return path


def _home_of_user(environment: Mapping[str, str]) -> Path:
    try:
        return Path(environment.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        message = f"user {os.getuid()} has no home directory: set PREFECT_HOME, or HOME, to a directory"
        raise SettingsError(message) from None


def _infer_ui_url(api_url: str, cloud_api_url: str, cloud_ui_url: str | None) -> str:
    """Where people look at what `api_url` serves: `ui_url` goes into links, so it bears no credentials."""
    url = re.sub(r"//[^/\s]*@", "//", api_url)
    if url.startswith(cloud_api_url):
        cloud_app = re.sub(r"^https://api(?=[.\w]*\.prefect\.)", "https://app", cloud_api_url)
        url = url.replace(cloud_api_url, cloud_ui_url or cloud_app.removesuffix("/api"))
    url = url.removesuffix("/api").replace("/api/", "/")
    return url.replace("/accounts/", "/account/").replace("/workspaces/", "/workspace/")


def _as_variable(raw: object) -> str:
    """`raw` as Prefect reads it from a variable."""
    if isinstance(raw, Mapping):
        return json.dumps(dict(raw))
    # Prefect joins lists with commas, which not all its settings read back, and sorts them.
    return json.dumps(raw) if isinstance(raw, list) else str(raw)
