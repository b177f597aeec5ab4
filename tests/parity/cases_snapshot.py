"""Cases in which a flow writes down all that it finds, in various surroundings."""

from __future__ import annotations

from typing import Any

from play import Case, Play
from registry import collect

CASES: list[Case] = []
case = collect(CASES, alike=False)

_IN_FLOW = "snapshot.py:in_flow"
_STEPS = "prefect.deployments.steps"


@case()
async def snapshot(play: Play) -> None:
    """What a flow finds."""
    await play.completes(_IN_FLOW)


@case()
async def snapshot_async(play: Play) -> None:
    """What an async flow finds."""
    await play.completes("snapshot.py:in_async_flow")


@case()
async def snapshot_task(play: Play) -> None:
    """What a task finds."""
    await play.completes("snapshot.py:in_task")


@case()
async def snapshot_submitted_task(play: Play) -> None:
    """What a task finds that runs beside its flow."""
    await play.completes("snapshot.py:in_submitted_task")


@case()
async def snapshot_subflow(play: Play) -> None:
    """What a flow finds that is called by a flow."""
    await play.completes("snapshot.py:in_subflow")


@case()
async def snapshot_not_streamed(play: Play) -> None:
    """What a flow finds whose output is not shown."""
    await _take(play, variables={"stream_output": False})


@case()
async def snapshot_with_settings(play: Play) -> None:
    """What a flow finds with other settings of Prefect's and of libraries."""
    env = {
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "user,another",
        "PREFECT_LOGGING_LOG_PRINTS": "true",
        "PREFECT_CLIENT_MAX_RETRIES": "9",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
        "PREFECT_TASK_RUNNER_THREAD_POOL_MAX_WORKERS": "3",
        "FSSPEC_FILE_AUTO_MKDIR": "1",
    }
    await _take(play, variables={"env": env})


@case()
async def snapshot_with_variables_read_at_import(play: Play) -> None:
    """What a flow finds with variables that libraries read when they are imported, or connect."""
    configuration = play.directory("fsspec")
    (configuration / "fsspec.json").write_text('{"file": {"auto_mkdir": true}}')
    env = {
        "FSSPEC_CONFIG_DIR": str(configuration),
        "PYDANTIC_DISABLE_PLUGINS": "__all__",
        "SSLKEYLOGFILE": str(play.directory("tls") / "keys"),
        "WEBSOCKETS_MAX_NUM_HEADERS": "100",
    }
    await _take(play, variables={"env": env})


@case()
async def snapshot_with_terminal(play: Play) -> None:
    """What a flow finds with variables that are about terminals."""
    await _take(
        play,
        variables={"env": {"COLUMNS": "123", "LINES": "45", "FORCE_COLOR": "1", "TERM": "xterm-256color"}},
    )


@case()
async def snapshot_without_colours(play: Play) -> None:
    """What a flow finds that is to write without colours."""
    await _take(play, variables={"env": {"NO_COLOR": "1", "PREFECT_LOGGING_COLORS": "false"}})


@case()
async def snapshot_in_another_time_zone(play: Play) -> None:
    """What a flow finds in another time zone."""
    await _take(play, variables={"env": {"TZ": "Asia/Tokyo"}})


@case()
async def snapshot_in_another_language(play: Play) -> None:
    """What a flow finds in another language and with other characters."""
    await _take(play, variables={"env": {"LANG": "POSIX", "LC_ALL": "C"}})


@case()
async def snapshot_with_python_options(play: Play) -> None:
    """What a flow finds with variables that are about Python."""
    env = {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "PYTHONWARNINGS": "always"}
    await _take(play, variables={"env": env})


@case()
async def snapshot_with_python_path(play: Play) -> None:
    """What a flow finds with further directories to import from."""
    await _take(play, variables={"env": {"PYTHONPATH": f"{play.directory('one')}:{play.directory('two')}"}})


@case()
async def snapshot_with_many_variables(play: Play) -> None:
    """What a flow finds with 300 KB of variables."""
    env = {f"PARITY_LARGE_{name}": name * 100_000 for name in "ABC"} | {"PARITY_ODD": "ä\n\t'\"\\ü€😀"}
    await _take(play, variables={"env": env})


@case()
async def snapshot_with_a_large_variable(play: Play) -> None:
    """A variable of 300 KB, which is more than the kernel takes."""
    variables = {"env": {"PARITY_LARGE": "x" * 300_000}}
    await play.rest(await play.schedule(await play.deploy("bystander.py:does_nothing", variables=variables)))


@case("odd")
async def snapshot_with_odd_bytes(play: Play) -> None:
    """What a flow finds where the worker has a variable that is no text."""
    await _take(play, completes=False)


@case()
async def snapshot_in_another_home(play: Play) -> None:
    """What a flow finds with other home and temporary directories."""
    home = play.directory("home")
    env = {"HOME": str(home), "PREFECT_HOME": f"{home}/prefect", "TMPDIR": str(play.directory("temporary"))}
    await _take(play, variables={"env": env})


@case()
async def snapshot_with_profile(play: Play) -> None:
    """What a flow finds with another profile of Prefect's."""
    home = play.directory("home")
    (home / "profiles.toml").write_text(
        'active = "first"\n\n[profiles.first]\nPREFECT_CLIENT_MAX_RETRIES = "8"\n\n'
        '[profiles.second]\nPREFECT_CLIENT_MAX_RETRIES = "7"\nPREFECT_LOGGING_LOG_PRINTS = "true"\n'
    )
    env = {"PREFECT_HOME": str(home), "PREFECT_PROFILE": "second"}
    await _take(play, variables={"env": env})


@case()
async def snapshot_with_logging_file(play: Play) -> None:
    """What a flow finds with loggers that are set up by a file."""
    file = play.directory("logging") / "logging.yml"
    file.write_text(
        "version: 1\ndisable_existing_loggers: true\n"
        "formatters:\n  short:\n    format: '%(levelname)s %(message)s'\n"
        "handlers:\n  here:\n    class: logging.StreamHandler\n    level: 0\n    formatter: short\n"
        "loggers:\n  prefect:\n    level: WARNING\n    handlers: [here]\n  user:\n    level: DEBUG\n"
        "root:\n  level: ERROR\n  handlers: [here]\n"
    )
    await _take(play, variables={"env": {"PREFECT_LOGGING_SETTINGS_PATH": str(file)}})


@case(cold=True)
async def snapshot_beside_prefect_toml(play: Play) -> None:
    """What a flow finds beside a `prefect.toml`."""
    await _take_beside(play, "prefect.toml", "[client]\nmax_retries = 6\n\n[logging]\nlevel = 'DEBUG'\n")


@case(cold=True)
async def snapshot_beside_dotenv(play: Play) -> None:
    """What a flow finds beside a `.env`."""
    await _take_beside(play, ".env", "PREFECT_CLIENT_MAX_RETRIES=5\nPARITY_DOTENV=1\n")


@case(cold=True)
async def snapshot_beside_pyproject(play: Play) -> None:
    """What a flow finds beside a `pyproject.toml` with settings of Prefect's."""
    await _take_beside(play, "pyproject.toml", "[tool.prefect.client]\nmax_retries = 4\n")


@case(cold=True)
async def snapshot_in_working_dir_with_settings(play: Play) -> None:
    """What a flow finds in a working directory with a `prefect.toml`."""
    working = play.directory("working")
    (working / "prefect.toml").write_text("[client]\nmax_retries = 3\n")
    await _take(play, variables={"working_dir": str(working)})


@case()
async def snapshot_in_working_dir(play: Play) -> None:
    """What a flow finds in a working directory."""
    await _take(play, variables={"working_dir": str(play.directory("working"))})


@case()
async def snapshot_after_steps(play: Play) -> None:
    """What a flow finds after steps that have changed variables, directory and path."""
    directory = play.directory("of-steps")
    steps = [
        {f"{play.stage.flows}/steps.py:change_everything": {"directory": str(directory)}},
        {f"{_STEPS}.set_working_directory": {"directory": str(play.stage.flows)}},
    ]
    await _take(play, path=None, pull_steps=steps)


@case(cold=True)
async def snapshot_after_steps_with_settings(play: Play) -> None:
    """What a flow finds after steps that have changed settings."""
    steps = [
        {f"{play.stage.flows}/steps.py:change_settings": {}},
        {f"{_STEPS}.set_working_directory": {"directory": str(play.stage.flows)}},
    ]
    await _take(play, path=None, pull_steps=steps)


@case()
async def snapshot_after_steps_for_the_process(play: Play) -> None:
    """What a flow finds after a step that has changed limits and the mask for new files."""
    steps = [
        {f"{play.stage.flows}/steps.py:change_process": {}},
        {f"{_STEPS}.set_working_directory": {"directory": str(play.stage.flows)}},
    ]
    await _take(play, path=None, pull_steps=steps)


async def _take(play: Play, *, completes: bool = True, **fields: Any) -> None:
    run = await play.schedule(await play.deploy(_IN_FLOW, **fields))
    await play.rest(run)
    if completes:
        await play.must_be_completed(run)


async def _take_beside(play: Play, name: str, text: str) -> None:
    project = play.directory("project")
    for source in play.stage.flows.glob("*.py"):
        (project / source.name).write_bytes(source.read_bytes())
    (project / name).write_text(text)
    await _take(play, path=str(project))
