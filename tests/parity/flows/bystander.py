"""A flow that looks at nothing."""

from prefect import flow


@flow  # type: ignore[untyped-decorator]
def does_nothing() -> None:
    """Do nothing."""
