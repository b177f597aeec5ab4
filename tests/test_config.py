"""What a worker can be told to do, and what it refuses to be told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support import URL, settings

from trioworker import ConfigurationError, Settings, WorkerConfig


def config(directory: Path, values: Mapping[str, str] | None = None, **options: Any) -> WorkerConfig:
    return WorkerConfig(**{"pool": "pool", "settings": settings(values or {}, directory), **options})


def nested(levels: int) -> dict[str, Any]:
    template: dict[str, Any] = {}
    for _ in range(levels):
        template = {"deeper": template}
    return template


def test_names_and_templates_of_any_script_are_taken(tmp_path: Path) -> None:
    told = config(
        tmp_path, pool="бассейн", name="\U0001f600", queues=["é"], base_job_template={"ü": "\U0001f600"}
    )
    assert told.name == "\U0001f600"


def test_defaults_stay_below_the_thirty_seconds_of_kubernetes(tmp_path: Path) -> None:
    assert config(tmp_path).stop_bound == 28


def test_name_is_unique_unless_given(tmp_path: Path) -> None:
    one, two = config(tmp_path), config(tmp_path)
    assert one.name.startswith("ProcessWorker ")
    assert one.name != two.name
    assert config(tmp_path, name="mine").name == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": ""}, "name of the work pool is empty"),
        ({"name": ""}, "Worker name cannot contain"),
        ({"queues": ["high", ""]}, "name of a work queue is empty"),
        ({"flows": print}, "flows must be a trioworker.TrioFlows"),
        ({"limit": "4"}, "limit must be a whole number of runs, or None, not '4'"),
        ({"limit": 2.5}, "limit must be a whole number of runs, or None, not 2.5"),
        ({"drain_timeout": None}, "drain_timeout must be 0 seconds or more, not None"),
        ({"kill_grace": "5"}, "kill_grace must be 0 seconds or more, not '5'"),
        ({"queues": "high"}, "must be a list of names, not the text 'high'"),
        ({"name": "a\nb"}, "a line break or the like"),
        ({"name": "a/b"}, "Worker name cannot contain"),
        ({"name": "a%b"}, "Worker name cannot contain"),
        ({"limit": 0}, "would let none start"),
        ({"limit": -1}, "would let none start"),
        ({"drain_timeout": -1}, "drain_timeout must be 0 seconds or more, not -1"),
        ({"kill_grace": -0.1}, "kill_grace must be 0 seconds or more"),
        ({"flush_timeout": math.nan}, "flush_timeout must be 0 seconds or more, not nan"),
        ({"prefetch_seconds": -1}, "prefetch_seconds must be 0 seconds or more"),
        ({"name": "w\udcff"}, r"The name of the worker is no Unicode text: 'w\\udcff'\.$"),
        ({"pool": "p\udcff"}, r"The name of the work pool is no Unicode text: 'p\\udcff'\.$"),
        ({"queues": ["a", "q\udcff"]}, r"The name of the work queue is no Unicode text: 'q\\udcff'\.$"),
        ({"worker_type": "t\udcff"}, r"The name of the worker type is no Unicode text: 't\\udcff'\.$"),
        ({"preload": "pandas"}, "preload must be a list of names of modules, not 'pandas'"),
        ({"preload": ["pandas", "a b"]}, "preload must be a list of names of modules"),
        ({"preload": [""]}, "preload must be a list of names of modules"),
        ({"preload": [3]}, "preload must be a list of names of modules"),
        ({"preload": {"pandas"}}, "preload must be a list of names of modules"),
        ({"websocket": "false"}, "websocket must be True, False or None, not 'false'"),
        ({"warm_start": 0}, "warm_start must be True, False or None, not 0"),
        ({"launch_rate": True}, "launch_rate must be more than 0 runs a second, not True"),
        (
            {"base_job_template": {"a": math.nan}},
            "The base job template holds what JSON cannot: Out of range",
        ),
        (
            {"base_job_template": {"a": object()}},
            "The base job template holds what JSON cannot: Object of type",
        ),
        ({"base_job_template": {"\ud800": 1}}, "The base job template holds half a character"),
        ({"base_job_template": nested(100_000)}, "The base job template is nested too deeply"),
    ],
)
def test_what_cannot_be_right_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        config(tmp_path, **options)


@pytest.mark.parametrize("field", ["drain_timeout", "kill_grace", "flush_timeout", "prefetch_seconds"])
def test_no_seconds_at_all_are_allowed(tmp_path: Path, field: str) -> None:
    options: dict[str, Any] = {field: 0}
    assert getattr(config(tmp_path, **options), field) == 0


def test_worker_without_api_says_what_to_set(tmp_path: Path) -> None:
    nothing = Settings.load({"HOME": str(tmp_path)}, tmp_path)
    with pytest.raises(ConfigurationError, match="PREFECT_API_URL is not set") as caught:
        WorkerConfig(pool="pool", settings=nothing)
    # In words that fit `trioworker deploy` too, which has no such option.
    assert "`trioworker start --local-server` starts one and says its URL" in str(caught.value)


def test_each_run_is_taken_when_it_is_due_unless_a_prefetch_is_set(tmp_path: Path) -> None:
    assert config(tmp_path).effective_prefetch_seconds is None
    # There is no second poll that could take it when it is due.
    assert config(tmp_path, run_once=True).effective_prefetch_seconds == 10
    values = {"PREFECT_WORKER_PREFETCH_SECONDS": "10"}
    assert config(tmp_path, values).effective_prefetch_seconds == 10


@pytest.mark.parametrize(
    ("values", "options", "listens"),
    [
        ({}, {}, True),
        ({"TRIOWORKER_WEBSOCKET": "false"}, {}, False),
        ({"TRIOWORKER_WEBSOCKET": "false"}, {"websocket": True}, True),
        ({"TRIOWORKER_WEBSOCKET": "true"}, {"websocket": False}, False),
    ],
)
def test_websocket_is_listened_to_unless_it_is_switched_off(
    tmp_path: Path, values: dict[str, str], options: dict[str, bool], listens: bool
) -> None:
    assert config(tmp_path, values, **options).listens is listens


def test_prefetch_comes_from_the_settings_unless_given(tmp_path: Path) -> None:
    values = {"PREFECT_WORKER_PREFETCH_SECONDS": "33"}
    assert config(tmp_path, values).effective_prefetch_seconds == 33
    assert config(tmp_path, values, prefetch_seconds=0).effective_prefetch_seconds == 0


def test_warm_starts_come_from_the_settings_unless_given(tmp_path: Path) -> None:
    values = {"TRIOWORKER_WARM_START": "false", "TRIOWORKER_PRELOAD": "pandas,numpy"}
    told = config(tmp_path).effective_settings
    assert (told.warm_start, [*told.preload]) == (True, [])
    told = config(tmp_path, values).effective_settings
    assert (told.warm_start, [*told.preload]) == (False, ["pandas", "numpy"])
    told = config(tmp_path, values, warm_start=True, preload=["torch"]).effective_settings
    assert (told.warm_start, [*told.preload]) == (True, ["torch"])
    told = config(tmp_path, values, preload=[]).effective_settings
    assert (told.warm_start, [*told.preload]) == (False, [])


def test_cancellations_are_polled_for_every_other_poll_unless_set(tmp_path: Path) -> None:
    assert config(tmp_path, {"PREFECT_WORKER_QUERY_SECONDS": "7"}).cancellation_poll_seconds == 14
    values = {"PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "99"}
    assert config(tmp_path, values).cancellation_poll_seconds == 99


def test_transport_is_told_what_the_settings_say(tmp_path: Path) -> None:
    values = {
        "PREFECT_API_KEY": "key",
        "PREFECT_API_REQUEST_TIMEOUT": "12",
        "PREFECT_CLIENT_MAX_RETRIES": "2",
        "PREFECT_CLIENT_RETRY_JITTER_FACTOR": "0.5",
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "418",
        "PREFECT_CLIENT_CUSTOM_HEADERS": '{"X-Team": "data"}',
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
    }
    transport = config(tmp_path, values).transport_config()
    assert transport.url == URL
    assert transport.key == "key"
    assert transport.timeout == 12
    assert transport.max_retries == 2
    assert transport.retry_jitter == 0.5
    assert transport.retry_extra_codes == frozenset({418})
    assert transport.headers == {"X-Team": "data"}
    assert transport.csrf is False
    assert transport.verify is True


def test_certificates_are_checked_as_the_settings_say(tmp_path: Path) -> None:
    authorities = tmp_path / "authorities.pem"
    file = {"PREFECT_API_SSL_CERT_FILE": str(authorities)}
    assert config(tmp_path, file).transport_config().verify == authorities
    skip = {"PREFECT_API_TLS_INSECURE_SKIP_VERIFY": "true"}
    assert config(tmp_path, {**file, **skip}).transport_config().verify is False


def test_secrets_do_not_show(tmp_path: Path) -> None:
    told = config(tmp_path, {"PREFECT_API_KEY": "hush"})
    assert "hush" not in repr(told)
    assert "hush" not in repr(told.transport_config())
