"""A plain function that trioworker serves, without a process for each run."""

import trioworker

app = trioworker.TrioFlows()


@app.flow
async def call() -> None:
    """Do nothing: a flow like any other, as far as Prefect is concerned."""
