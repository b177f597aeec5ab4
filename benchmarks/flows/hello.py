"""The flows that are run: one that says hello, and one that has to be cancelled."""

import time

from prefect import flow


@flow(log_prints=True)  # type: ignore[untyped-decorator]
def hello(name: str = "Marvin") -> None:
    """Say hello."""
    print(f"Hello, {name}!")


@flow  # type: ignore[untyped-decorator]
def nap() -> None:
    """Sleep for longer than anybody waits."""
    time.sleep(3600)
