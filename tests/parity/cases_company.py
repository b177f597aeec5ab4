"""Cases about what a flow does besides being a flow: output, processes, threads, tasks, modules of its own."""

from __future__ import annotations

import inspect
import os
import random
import signal

import trio
from play import Case, Play
from registry import collect

CASES: list[Case] = []
case = collect(CASES)


@case()
async def output(play: Play) -> None:
    """Everything that can be written, the last without an end of line."""
    await play.completes("output.py:writes")


@case()
async def output_never_flushed(play: Play) -> None:
    """Output in a buffer when the process ends at once."""
    await play.once("output.py:vanishes")


@case()
async def output_not_streamed(play: Play) -> None:
    """Output that the worker does not show."""
    deployment = await play.deploy("output.py:writes", variables={"stream_output": False})
    await play.rest(await play.schedule(deployment))


@case()
async def log_at_the_end(play: Play) -> None:
    """Two thousand lines of log, and the end."""
    await play.completes("output.py:logs", lines=2000)


@case(slow=True)
async def multiprocessing_spawn(play: Play) -> None:
    """Processes that `multiprocessing` spawns."""
    await play.completes("company.py:forks", method="spawn")


@case()
async def multiprocessing_fork(play: Play) -> None:
    """Processes that `multiprocessing` forks."""
    await play.completes("company.py:forks", method="fork")


@case(slow=True)
async def multiprocessing_forkserver(play: Play) -> None:
    """Processes that the server of `multiprocessing` forks."""
    await play.completes("company.py:forks", method="forkserver")


@case()
async def programs(play: Play) -> None:
    """Programs that a flow starts, what they inherit, and signals of a flow's own."""
    await play.completes("company.py:starts_programs")


@case()
async def things_left_to_the_end(play: Play) -> None:
    """A thread that goes on, an open file, functions to be called at the end."""
    run = await play.completes("company.py:leaves_things_to_the_end")
    play.remarks.append(play.file(run, "unflushed").read_text())


@case()
async def many_tasks(play: Play) -> None:
    """Sixty tasks in threads."""
    run = await play.completes("work.py:has_many_tasks", count=60)
    await _know_tasks(play, run)


@case()
async def many_async_tasks(play: Play) -> None:
    """Sixty tasks in the event loop."""
    run = await play.completes("work.py:awaits_many_tasks", count=60)
    await _know_tasks(play, run)


@case()
async def results_kept(play: Play) -> None:
    """Results that are kept and found again."""
    await play.completes("work.py:keeps_results")


@case()
async def async_task_left(play: Play) -> None:
    """A task of the event loop that nobody waits for."""
    await play.completes("work.py:leaves_a_task")


@case(lossy=True)
async def sigint_from_outside(play: Play) -> None:
    """SIGINT."""
    run = await play.schedule(await play.deploy("ends.py:waits"))
    os.kill(await play.begun(run), signal.SIGINT)
    await play.rest(run)


@case(lossy=True)
async def sigint_to_async(play: Play) -> None:
    """SIGINT to an async flow."""
    run = await play.schedule(await play.deploy("work.py:waits"))
    os.kill(await play.begun(run), signal.SIGINT)
    await play.rest(run)


@case(lossy=True)
async def sigterm_to_async(play: Play) -> None:
    """SIGTERM to an async flow."""
    run = await play.schedule(await play.deploy("work.py:waits"))
    os.kill(await play.begun(run), signal.SIGTERM)
    await play.rest(run)


@case()
async def cancelled_async(play: Play) -> None:
    """An async flow that is cancelled."""
    run = await play.schedule(await play.deploy("work.py:waits"))
    await play.begun(run)
    await play.cancel(run)
    await play.rest(run)


@case()
async def syntax_error(play: Play) -> None:
    """A module that is no Python."""
    project = play.directory("project")
    (project / "wrong.py").write_text("def (:\n")
    await play.rest(await play.schedule(await play.deploy("wrong.py:plain", path=str(project))))


@case()
async def import_missing(play: Play) -> None:
    """A module that imports what is not there."""
    project = play.directory("project")
    (project / "wrong.py").write_text("import no_such_module\n")
    await play.rest(await play.schedule(await play.deploy("wrong.py:plain", path=str(project))))


@case(cold=True)
async def local_module_with_a_known_name(play: Play) -> None:
    """A module beside the flow that has the name of one that Prefect imports, and all that is in it."""
    await _run_beside(play, "random.py", inspect.getsource(random) + "\nLOCAL = 'the local one'\n")


@case(cold=True)
async def local_module_in_the_way(play: Play) -> None:
    """A module beside the flow that has the name of one that Prefect imports, and nothing that is in it."""
    await _run_beside(play, "yaml.py", "WHAT = 'a local one'\n")


@case(cold=True)
async def local_package_in_the_way(play: Play) -> None:
    """The same as a package."""
    await _run_beside(play, "yaml/__init__.py", "WHAT = 'a local one'\n")


@case(cold=True)
async def local_sitecustomize(play: Play) -> None:
    """A `sitecustomize` beside the flow, which is executed when an interpreter starts there."""
    text = "import random\nrandom.LOCAL = 'customized'\n"
    await _run_beside(play, "sitecustomize.py", text)


@case()
async def local_module_with_a_name_of_its_own(play: Play) -> None:
    """A module beside the flow whose name nobody else has."""
    await _run_beside(play, "helpful.py", "")


async def _run_beside(play: Play, name: str, text: str) -> None:
    project = play.directory("project")
    for source in play.stage.flows.glob("*.py"):
        (project / source.name).write_bytes(source.read_bytes())
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text(text)
    await play.rest(await play.schedule(await play.deploy("shadow.py:sees", path=str(project))))


async def _know_tasks(play: Play, run: str) -> None:
    body = {
        "flow_runs": {"id": {"any_": [run]}},
        "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    # Their states are events, of which the server takes note by and by.
    with play.patience("all tasks to be known as completed"):
        while await play.stage.rest.call("POST", "task_runs/count", body) < 60:  # noqa: ASYNC110
            await trio.sleep(0.5)
