"""The lease on a slot of a deployment's concurrency limit, renewed for as long as a run lasts."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import trio

from trioworker.api.client import PrefectAPI
from trioworker.api.errors import APIError, APIUnavailableError, is_outage
from trioworker.service import Rhythm

# As in Prefect's own engine.
LEASE_SECONDS = 300.0
_RENEWED_AFTER = 0.75 * LEASE_SECONDS


async def keep_lease(
    api: PrefectAPI, lease_id: UUID, patience: Rhythm, on_lost: Callable[[str], None]
) -> None:
    """Renew a lease until cancelled, or until it is lost: the server gives the slot to another run then.

    An API that is away is asked again for as long as the lease is good.

    Args:
        api: the API.
        lease_id: which lease.
        patience: the delays between attempts that fail.
        on_lost: told why, if it is lost.
    """
    good_until = trio.current_time() + LEASE_SECONDS
    failures = 0
    while True:
        asked = trio.current_time()
        try:
            await api.renew_concurrency_lease(lease_id, LEASE_SECONDS)
        except APIError as error:
            left = good_until - trio.current_time()
            if not is_outage(error) or left <= 0:
                on_lost(str(error))
                return
            failures += 1
            retry_after = error.retry_after if isinstance(error, APIUnavailableError) else None
            await api.condition.sleep(min(patience.delay(failures, retry_after), left))
        else:
            failures = 0
            # The server counts from some moment after that.
            good_until = asked + LEASE_SECONDS
            await trio.sleep_until(asked + _RENEWED_AFTER)
