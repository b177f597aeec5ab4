"""A flow beside modules that have the names of others."""

import random

import probe
from prefect import flow


@flow  # type: ignore[untyped-decorator]
def sees() -> None:
    """Note which module it has got."""
    probe.take()
    probe.note(probe.this_run(), f"random: {getattr(random, 'LOCAL', 'the usual one')}")
