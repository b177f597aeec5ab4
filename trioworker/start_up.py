"""The first words with the API: which kind of worker does the pool want, and is there an API at all?"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from trioworker.api.client import PrefectAPI
from trioworker.api.errors import (
    APINotFoundError,
    NotAuthenticatedError,
    NotPermittedError,
    RequestRefusedError,
)
from trioworker.config import WorkerConfig
from trioworker.errors import ConfigurationError, sole_errors_bare
from trioworker.notices import Notify
from trioworker.service import Rhythm, patiently
from trioworker.work_pool import Discovery, discover, notice_of_paused_queues

_logger = logging.getLogger(__name__)

# Seconds after which the first request has been sent, which takes longer than any other.
_ON_ITS_WAY = 0.005


async def discover_patiently(
    api: PrefectAPI, config: WorkerConfig, patience: Rhythm, meanwhile: Callable[[], None]
) -> Discovery:
    """Look at the work pool, for as long as it takes the API to answer.

    Args:
        api: the API.
        config: of the worker.
        patience: the delays between attempts.
        meanwhile: called while the API is at work, unless it has answered before.

    Before the first good answer a refusal is taken for a mistake in the configuration, not for an outage.

    Raises:
        ConfigurationError: the URL or the key is wrong; says what to mend.
        WorkerRefusedError: the pool's runs are not for workers.
    """

    async def look() -> Discovery:
        try:
            return await discover(api, config.pool, config.effective_worker_type)
        except RequestRefusedError as error:
            raise explain_refusal(config, error) from error

    async def use_the_time() -> None:
        await trio.sleep(_ON_ITS_WAY)
        meanwhile()

    with sole_errors_bare():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use_the_time)
            discovery = await patiently(look, patience, api.condition)
            nursery.cancel_scope.cancel()
    return discovery


async def tell_of_paused_queues(
    api: PrefectAPI, config: WorkerConfig, patience: Rhythm, notify: Notify
) -> None:
    """Say so if none of the worker's queues gives it a run; that it cannot be found out is nobody's trouble."""

    async def look() -> None:
        try:
            notice = await notice_of_paused_queues(api, config.pool, config.queues)
        except RequestRefusedError as error:
            # Also where it would be an outage for others: whoever may not know it, works all the same.
            _logger.debug("Whether the work queues are paused is not known: %s", error)
            return
        if notice is not None:
            notify(notice)

    await patiently(look, patience, api.condition)


def explain_refusal(config: WorkerConfig, error: RequestRefusedError) -> ConfigurationError:
    """What to mend when the API refuses the worker's very first requests."""
    return ConfigurationError(_what_to_mend(error, config))


def _what_to_mend(error: RequestRefusedError, config: WorkerConfig) -> str:
    settings = config.settings
    url = f"{config.shown_api_url} ({settings.source_of('api_url')})"
    match error:
        case NotAuthenticatedError() if settings.api_key or settings.api_auth_string:
            name = "api_key" if settings.api_key else "api_auth_string"
            return (
                f"The API at {url} does not accept PREFECT_{name.upper()} ({settings.source_of(name)}):"
                f" {error.detail}. Check whether it is right and has not expired."
            )
        case NotAuthenticatedError():
            return (
                f"The API at {url} wants to know who you are: set PREFECT_API_KEY for Prefect Cloud, or"
                " PREFECT_API_AUTH_STRING for a server of your own that asks for it."
            )
        case NotPermittedError():
            return (
                f"The API at {url} does not permit this worker to have work pool {config.pool!r}: {error.detail}."
                " Check the permissions of PREFECT_API_KEY and the workspace in the URL."
            )
        case APINotFoundError():
            return (
                f"There is no Prefect API at {url}. Check PREFECT_API_URL: that of a server of your own ends in"
                " /api, that of Prefect Cloud in /api/accounts/ID/workspaces/ID."
            )
        case _:
            return f"The API at {url} refuses this worker: {error}"
