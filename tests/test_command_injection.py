"""What the server sends is data: it reaches no shell, forges no line, and does nothing to a terminal."""

from __future__ import annotations

import json
import shlex
import stat
import sys
from pathlib import Path
from typing import Any, Final

import command
import pytest
from command import COMPLETES, WAITS, Launcher, Prefect

launch = command.launch
prefect = command.prefect

pytestmark = pytest.mark.process

# A line of its own that looks like the worker's, the title of the terminal, and its screen.
FORGED: Final = "12:00:00.000 | ERROR   | trioworker.flow_runs - all is lost"
EVIL: Final = f"fox\n{FORGED}\r\x1b]0;owned\x07\x1b[2J\x9b31m"

# Becomes the command with a umask under which everybody may read and write what it makes.
_OPEN_UMASK: Final = "import os, sys; os.umask(0); os.execvp(sys.argv[1], sys.argv[1:])"

# In the kernel's tables of sockets.
LISTENS: Final = "0A"
LOOPBACK: Final = "0100007F"

NOTES: Final = (
    """
(here / "noted").write_text(json.dumps([sys.argv[1:], os.environ["DATA"], os.getcwd()]))
"""
    + COMPLETES
)


def shell_words(mark: Path) -> list[str]:
    """What a shell would make a file of."""
    touch = f"touch {mark}"
    return [
        f"; {touch} ;",
        f"$({touch})",
        f"`{touch}`",
        f"| {touch}",
        f"&& {touch}",
        f"\n{touch}\n",
        f"'; {touch}; '",
        f'"; {touch}; "',
        "*",
        "~",
        "$HOME",
        "> /nowhere/at/all",
    ]


async def test_words_of_a_command_are_arguments_and_nothing_else(
    launch: Launcher, prefect: Prefect, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    words = shell_words(mark)
    directory = tmp_path / f"$(touch mark); touch mark `touch mark`\n{'x'}"
    directory.mkdir()
    pool = await prefect.pool()
    script = prefect.directory / "script.py"
    deployment = await prefect.deployment(pool, NOTES)
    (made,) = prefect.directory.glob("flow-*.py")
    made.rename(script)
    data = "".join(words)
    changed = {
        "command": shlex.join([sys.executable, str(script), *words]),
        "env": {"DATA": data, "$(touch mark)": data, "A B;C": data},
        "working_dir": str(directory),
    }
    await prefect.call("PATCH", f"deployments/{deployment}", {"job_variables": changed})
    run = await prefect.run(deployment, name=data, parameters={"parameter": data})

    worker = await launch.worker("-p", pool, api=prefect.url)

    await prefect.reached(run, "Completed", worker)
    assert json.loads((prefect.directory / "noted").read_text()) == [words, data, str(directory)]
    assert await worker.stop() == 0
    assert not [path for path in (tmp_path, directory, Path.cwd()) if (path / "mark").exists()]


@pytest.mark.parametrize(
    "fields",
    [
        {"entrypoint": "flow.py; touch MARK:hello", "path": "HERE"},
        {"entrypoint": "$(touch MARK).py:hello", "path": "`touch MARK`"},
        {"entrypoint": "flow.py:hello`touch MARK`", "path": "; touch MARK"},
        {"entrypoint": "flow.py:hello", "path": "HERE", "parameters": {"$(touch MARK)": "; touch MARK"}},
    ],
)
async def test_entrypoint_path_and_parameters_reach_no_shell(
    launch: Launcher, prefect: Prefect, tmp_path: Path, fields: dict[str, Any]
) -> None:
    mark = tmp_path / "mark"
    filled = json.dumps(fields).replace("MARK", str(mark)).replace("HERE", str(prefect.directory))
    pool = await prefect.pool()
    deployment = await prefect.deployment(pool, variables={"stream_output": False}, **json.loads(filled))
    run = await prefect.run(deployment)

    worker = await launch("start", "-p", pool, "--run-once", api=prefect.url)

    assert await worker.exit_code() == 0
    assert await prefect.state_name(run) in {"Crashed", "Failed"}
    assert not mark.exists()


@pytest.mark.parametrize("terminal", [False, True])
async def test_names_forge_no_line_and_do_nothing_to_a_terminal(
    launch: Launcher, prefect: Prefect, *, terminal: bool
) -> None:
    pool = await prefect.pool()
    await prefect.call("POST", f"work_pools/{pool}/queues", {"name": EVIL, "is_paused": True})
    fine = await prefect.deployment(pool, COMPLETES, tags=[EVIL])
    broken = await prefect.deployment(pool, variables={"command": f"no-such-program '{EVIL}'"})
    nothing: dict[str, Any] = {"entrypoint": "nothing.py:nothing", "path": str(prefect.directory)}
    failing = await prefect.deployment(pool, "raise SystemExit(3)", **nothing)
    runs = [await prefect.run(deployment, name=EVIL) for deployment in (fine, broken, failing)]

    worker = await launch(
        *("start", "-p", pool, "--run-once"),
        api=prefect.url,
        terminal=terminal,
        PREFECT_WORKER_DEBUG_MODE="1",
        NO_COLOR="1",
    )

    assert await worker.exit_code() == 0
    assert [await prefect.state_name(run) for run in runs] == ["Completed", "Crashed", "Crashed"]
    shown = worker.raw_output
    assert "fox" in shown
    assert not [line for line in worker.output.splitlines() if line.startswith(FORGED)]
    # A terminal itself puts a \\r before each line's end.
    assert not set(shown.replace("\r\n", "\n")) & set("\x1b\x07\x9b\r")


async def test_nobody_else_can_reach_what_a_worker_has_for_its_runs(
    launch: Launcher, prefect: Prefect, tmp_path: Path
) -> None:
    """Under the most generous umask: no file, no socket by name, and of its ports only some on loopback."""
    (tmp_path / "guard.py").write_text(
        "import time, pathlib\nfrom prefect import flow\n\n@flow\ndef guard(here):\n"
        "    while not pathlib.Path(here, 'go').exists():\n        time.sleep(0.02)\n"
    )
    pool = await prefect.pool()
    deployment = await prefect.deployment(
        pool,
        entrypoint=f"{tmp_path}/guard.py:guard",
        path="",
        parameters={"here": str(prefect.directory)},
    )
    run = await prefect.run(deployment)
    # It never answers the worker, who keeps listening for that.
    silent = await prefect.run(await prefect.deployment(pool, WAITS))
    worker = await launch.worker(
        *("-p", pool),
        api=prefect.url,
        program=(sys.executable, "-c", _OPEN_UMASK, *command.MODULE),
    )
    await prefect.reached(run, "Running", worker)
    await prefect.reached(silent, "Running", worker)

    made = list(launch.temporary.iterdir())
    assert any(path.name.startswith("prefect-workspace-attempt-") for path in made)
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o700}
    (configuration,) = launch.temporary.rglob("supervisor.json")
    assert stat.S_IMODE(configuration.stat().st_mode) == 0o600
    # The worker talks to the template over a pair of sockets that only the two of them have.
    assert any(" template " in process for process in launch.processes())
    pids = [int(process.partition(" ")[0]) for process in launch.processes()]
    sockets = set().union(*map(sockets_of, pids))
    assert sockets & names_of_unix_sockets().keys()
    assert [name for number, name in names_of_unix_sockets().items() if number in sockets and name] == []
    listening = {number: address for number, address in listening_ports().items() if number in sockets}
    assert set(listening.values()) == {LOOPBACK}
    prefect.go()
    await prefect.reached(run, "Completed", worker)
    await prefect.reached(silent, "Completed", worker)
    assert await worker.stop() == 0


def sockets_of(pid: int) -> set[str]:
    """The sockets of a process, by the kernel's numbers for them."""
    links = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:")}


def names_of_unix_sockets() -> dict[str, str]:
    """The name of each Unix socket by its number; empty for those that have none."""
    lines = [line.split(maxsplit=7) for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {number: "".join(name) for _, _, _, _, _, _, number, *name in lines}


def listening_ports() -> dict[str, str]:
    """The address of each TCP socket that listens, by its number, in the kernel's notation."""
    files = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
    lines = [line.split() for file in files if file.exists() for line in file.read_text().splitlines()[1:]]
    return {line[9]: line[1].partition(":")[0] for line in lines if line[3] == LISTENS}
