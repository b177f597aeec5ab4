"""The environment of a flow run's process, in the layers in which Prefect's process worker builds it."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

__all__ = ["run_environment"]

# Of the session between a run and the worker that started it. A worker that is itself started by a run has
# those of that run, which are none of its runs' business.
_CONTROL_VARIABLES = {"PREFECT__CONTROL_PORT", "PREFECT__CONTROL_TOKEN"}


def run_environment(
    flow_run_id: UUID,
    *,
    worker: Mapping[str, str],
    settings: Mapping[str, str],
    attribution: Mapping[str, str],
    job: Mapping[str, str | None],
    settings_win: bool,
) -> dict[str, str]:
    """What a flow run finds in its environment, but for its control channel.

    A null in the job's layer takes away what the settings and the attribution would add, but neither what the
    worker has in its own environment nor what the settings say in a layer of their own.

    Args:
        flow_run_id: which run.
        worker: the environment of the worker.
        settings: the Prefect settings that hold in the worker.
        attribution: who runs it, and what.
        job: the `env` of the job configuration.
        settings_win: whether the settings go over the job's layer (as with an explicit command) or under it.
    """
    prepared = {**settings, **attribution, **job}
    set_by_job = {name: value for name, value in prepared.items() if value is not None}
    layers = (worker, set_by_job, settings) if settings_win else (settings, worker, set_by_job)
    environment = {name: value for layer in layers for name, value in layer.items()}
    for name in _CONTROL_VARIABLES:
        environment.pop(name, None)
    return {
        **environment,
        "PREFECT__FLOW_RUN_ID": str(flow_run_id),
        # The worker calls these hooks itself, in a process of their own.
        "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
    }
