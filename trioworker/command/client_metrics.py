"""Prefect's client metrics, which this worker does not serve."""

from __future__ import annotations

from trioworker.notices import Notice
from trioworker.settings import Settings


def client_metrics_notice(settings: Settings) -> Notice | None:
    """What to tell a user who has switched `PREFECT_CLIENT_METRICS_ENABLED` on.

    Prefect's worker then serves Prometheus metrics of its own client, such as the number of events it has sent.
    """
    if not settings.client_metrics_enabled:
        return None
    return Notice(
        f"PREFECT_CLIENT_METRICS_ENABLED ({settings.source_of('client_metrics_enabled')}): this worker serves no"
        f" Prometheus metrics, so nothing of its own is on port {settings.client_metrics_port}; flow runs are"
        " given the setting as ever.",
        warning=True,
    )
