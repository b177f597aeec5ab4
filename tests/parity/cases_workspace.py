"""Cases about where a flow comes from and where it runs."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from play import Case, Play
from registry import collect
from stage import make_repository

CASES: list[Case] = []
case = collect(CASES)

PLAIN = "plain.py:plain"
_STEPS = "prefect.deployments.steps"


@case()
async def pull_from_git(play: Play) -> None:
    """Pull steps that clone a local git repository."""
    repository = play.directory("outer") / "flows-repository"
    make_repository(repository, play.stage.flows)
    clone: dict[str, Any] = {f"{_STEPS}.git_clone": {"repository": str(repository), "branch": "main"}}
    await play.rest(await play.schedule(await play.deploy(PLAIN, path=None, pull_steps=[clone])))


@case()
async def pull_from_git_into_working_dir(play: Play) -> None:
    """The same in a working directory of its own."""
    repository = play.directory("outer") / "flows-repository"
    make_repository(repository, play.stage.flows)
    clone: dict[str, Any] = {f"{_STEPS}.git_clone": {"repository": str(repository), "branch": "main"}}
    working = play.directory("working")
    deployment = await play.deploy(
        PLAIN, path=None, pull_steps=[clone], variables={"working_dir": str(working)}
    )
    await play.rest(await play.schedule(deployment))
    play.remarks.append(
        "left in the working directory: " + " ".join(sorted(p.name for p in working.iterdir()))
    )


@case()
async def pull_sets_directory(play: Play) -> None:
    """A pull step that only says where the flow is."""
    step = {f"{_STEPS}.set_working_directory": {"directory": str(play.stage.flows)}}
    await play.rest(await play.schedule(await play.deploy(PLAIN, path=None, pull_steps=[step])))


@case()
async def pull_runs_script(play: Play) -> None:
    """Pull steps one of which uses the output of another."""
    steps = [
        {f"{_STEPS}.run_shell_script": {"id": "where", "script": f"echo {play.stage.flows}"}},
        {f"{_STEPS}.set_working_directory": {"directory": "{{ where.stdout }}"}},
    ]
    await play.rest(await play.schedule(await play.deploy(PLAIN, path=None, pull_steps=steps)))


@case()
async def pull_fails(play: Play) -> None:
    """A pull step that fails."""
    step = {f"{_STEPS}.git_clone": {"repository": str(play.side.files / "no-such-repository")}}
    await play.rest(await play.schedule(await play.deploy(PLAIN, path=None, pull_steps=[step])))


@case(cold=True)
async def pull_with_explicit_command(play: Play) -> None:
    """Pull steps of a run whose command is explicit."""
    step = {f"{_STEPS}.set_working_directory": {"directory": str(play.stage.flows)}}
    deployment = await play.deploy(
        PLAIN, path=None, pull_steps=[step], variables={"command": f"{sys.executable} -m prefect.engine"}
    )
    await play.rest(await play.schedule(deployment))


@case()
async def entrypoint_missing(play: Play) -> None:
    """A file that does not exist."""
    await play.rest(await play.schedule(await play.deploy("no_such_file.py:plain")))


@case()
async def function_missing(play: Play) -> None:
    """A function that does not exist."""
    await play.rest(await play.schedule(await play.deploy("plain.py:no_such_flow")))


@case()
async def import_fails(play: Play) -> None:
    """A module that raises while it is imported."""
    await play.rest(await play.schedule(await play.deploy("broken.py:broken")))


@case()
async def path_missing(play: Play) -> None:
    """A deployment whose path does not exist."""
    deployment = await play.deploy(PLAIN, path=str(play.side.files / "no-such-path"))
    await play.rest(await play.schedule(deployment))


@case(cold=True)
async def uv_project(play: Play) -> None:
    """A project that is launched by uv (of which the matrix has a stand-in)."""
    project = play.directory("project")
    for path in play.stage.flows.glob("*.py"):
        (project / path.name).write_bytes(path.read_bytes())
    (project / "pyproject.toml").write_text(
        '[project]\nname = "parity"\nversion = "1"\ndependencies = ["prefect>=3"]\n'
    )
    deployment = await play.deploy(
        PLAIN,
        path=str(project),
        variables={"env": {"PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES": "true"}},
    )
    await play.rest(await play.schedule(deployment))


@case()
async def uv_project_not_wanted(play: Play) -> None:
    """The same project without the setting that asks for it."""
    project = play.directory("project")
    for path in play.stage.flows.glob("*.py"):
        (project / path.name).write_bytes(path.read_bytes())
    (project / "pyproject.toml").write_text(
        '[project]\nname = "parity"\nversion = "1"\ndependencies = ["prefect>=3"]\n'
    )
    await play.rest(await play.schedule(await play.deploy(PLAIN, path=str(project))))


@case()
async def pull_raises(play: Play) -> None:
    """A pull step of one's own that raises."""
    await play.rest(await play.schedule(await _deploy_after(play, "fails")))


@case()
async def pull_exits(play: Play) -> None:
    """A pull step that ends the process."""
    await play.rest(await play.schedule(await _deploy_after(play, "exits", code=5)))


@case()
async def pull_leaves_others_behind(play: Play) -> None:
    """A pull step that leaves a thread and a process that go on."""
    run = await play.schedule(await _deploy_after(play, "leaves_others_behind"))
    await play.rest(run)
    play.remarks.append(f"children left: {len(play.children(run))}")


@case(lossy=True)
async def pull_is_terminated(play: Play) -> None:
    """SIGTERM while the workspace is prepared."""
    run = await play.schedule(await _deploy_after(play, "waits"))
    os.kill(await play.preparing(run), signal.SIGTERM)
    await play.rest(run)


@case(lossy=True)
async def pull_is_killed(play: Play) -> None:
    """SIGKILL while the workspace is prepared."""
    run = await play.schedule(await _deploy_after(play, "waits"))
    os.kill(await play.preparing(run), signal.SIGKILL)
    await play.rest(run)


@case(lossy=True)
async def pull_is_cancelled(play: Play) -> None:
    """A run that is cancelled while its workspace is prepared."""
    run = await play.schedule(await _deploy_after(play, "waits"))
    await play.preparing(run)
    await play.cancel(run)
    await play.rest(run)


async def _deploy_after(play: Play, step: str, **arguments: Any) -> str:
    """Deploy a flow that runs after a step of one's own."""
    steps = [
        {f"{play.stage.flows}/steps.py:{step}": arguments},
        {f"{_STEPS}.set_working_directory": {"directory": str(play.stage.flows)}},
    ]
    return await play.deploy(PLAIN, path=None, pull_steps=steps)
