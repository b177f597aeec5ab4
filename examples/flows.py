"""A flow, its deployment and three runs of it: what a user of Prefect writes, with the stock client."""

import random
import sys
import time
from pathlib import Path

from prefect import flow
from prefect.deployments import run_deployment


@flow(log_prints=True)  # type: ignore[untyped-decorator]
def count_petals(flower: str, petals: int) -> str:
    """Count the petals of a flower, one by one."""
    for petal in range(petals):
        print(f"{flower}: petal {petal + 1} of {petals}")
        time.sleep(random.uniform(0.1, 0.4))  # noqa: S311 - flowers need no cryptography
    return f"{flower} has {petals} petals"


def deploy_and_schedule(work_pool: str) -> None:
    """Make the flow known to the work pool, and ask for three runs of it."""
    here = Path(__file__).resolve()
    deployable = flow.from_source(source=str(here.parent), entrypoint=f"{here.name}:count_petals")
    deployable.deploy(
        name="quickstart",
        work_pool_name=work_pool,
        # The example shows the runs in a table of its own.
        job_variables={"stream_output": False},
        print_next_steps=False,
    )
    for flower, petals in {"daisy": 21, "buttercup": 5, "lily": 3}.items():
        run_deployment(
            "count-petals/quickstart",
            parameters={"flower": flower, "petals": petals},
            flow_run_name=flower,
            timeout=0,
        )


if __name__ == "__main__":
    deploy_and_schedule(sys.argv[1])
