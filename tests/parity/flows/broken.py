"""A module that cannot be imported."""

from prefect import flow

raise RuntimeError("this module cannot be imported")


@flow  # type: ignore[unreachable]
def broken() -> None:
    """Never come to life."""
