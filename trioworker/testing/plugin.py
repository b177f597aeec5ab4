"""The pytest plugin: fixtures for tests of programs that run a worker or serve flows.

pytest imports this in every test run, so that nothing of Trio, httpx or the rest of trioworker may be imported here
before a test asks for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from trioworker.testing.fake_prefect import FakePrefect
    from trioworker.testing.server import PrefectServer


@pytest.fixture
def prefect_api(request: pytest.FixtureRequest) -> FakePrefect:
    """A Prefect in memory, fresh for each test: a `trioworker.testing.FakePrefect`.

    Its time is Trio's: virtual in a test that asks for pytest-trio's `autojump_clock` or `mock_clock`, else real.
    Records of level INFO get as far as the logs of flow runs, if the root logger was set to less: that is set to INFO
    for the length of the test.
    """
    from trioworker.testing.fake_prefect import FakePrefect  # noqa: PLC0415 - see above

    _let_info_pass(request)
    return FakePrefect()


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A real Prefect server on this machine: a `trioworker.testing.PrefectServer`.

    It is started once for all tests that ask for it, with a home of its own: give what you create in it names of its
    own. Where Prefect is not installed, the tests are skipped.
    """
    from trioworker.testing.server import MISSING, is_installed, open_server  # noqa: PLC0415 - see above

    if not is_installed():
        pytest.skip(MISSING)
    with open_server(tmp_path_factory.mktemp("prefect_server")) as server:
        yield server


def _let_info_pass(request: pytest.FixtureRequest) -> None:
    root = logging.getLogger()
    if root.level <= logging.INFO:
        return
    if request.config.pluginmanager.hasplugin("logging-plugin"):
        # It puts the level back even if the test itself changes it once more.
        request.getfixturevalue("caplog").set_level(logging.INFO)
    else:
        request.addfinalizer(partial(root.setLevel, root.level))
        root.setLevel(logging.INFO)
