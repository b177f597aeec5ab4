"""Every example in README.md and docs/ is run; see `documentation.py` for how they are told apart."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import asyncclick as click
import pytest
import trio
from conftest import PrefectServer, clean_environment
from documentation import CONSOLE, PYTHON, ROOT, SHOWN_ONLY, Example, documents, examples, examples_in

from trioworker.command.cli import trioworker as command_line

pytestmark = pytest.mark.process

EXAMPLES = [example for document in documents() for example in examples(document)]
RUN = [example for example in EXAMPLES if example.language == PYTHON and example.reason is None]
TYPED = [example for example in EXAMPLES if example.language == CONSOLE and example.reason is None]

# What is left out, by document, with how many of its blocks.
NOT_RUN: dict[str, int] = {}

_POOL = re.compile(r"""\bpool=["']([^"']+)["']|\bopen_worker\(["']([^"']+)["']""")
_ONLINE_SECONDS = 60
_END_SECONDS = 60


def named(example: Example) -> str:
    return str(example)


@pytest.fixture
def page(tmp_path: Path) -> Callable[[Example], Path]:
    """Write an example into a directory where the named blocks before it on its page are too."""

    def write(example: Example) -> Path:
        (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
        for earlier in RUN:
            if earlier.document == example.document and earlier.line < example.line and earlier.file_name:
                (tmp_path / earlier.file_name).write_text(earlier.text)
        path = tmp_path / (example.file_name or ("test_example.py" if example.has_tests else "example.py"))
        path.write_text(example.text)
        return path

    return write


def environment(directory: Path) -> dict[str, str]:
    return clean_environment() | {"HOME": str(directory), "PREFECT_HOME": str(directory / "prefect")}


@pytest.mark.parametrize("example", [each for each in RUN if not each.needs_server], ids=named)
def test_example_runs(example: Example, page: Callable[[Example], Path]) -> None:
    path = page(example)
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider"] if example.has_tests else []
    finished = subprocess.run(
        [sys.executable, *command, path],
        cwd=path.parent,
        env=environment(path.parent),
        capture_output=True,
        text=True,
        check=False,
        timeout=_END_SECONDS,
    )
    assert finished.returncode == 0, f"{example}:\n{finished.stdout}{finished.stderr}"
    if example.has_tests:
        assert "passed" in finished.stdout
        assert "skipped" not in finished.stdout


@pytest.mark.parametrize("example", [each for each in RUN if each.needs_server], ids=named)
def test_program_runs(
    example: Example, page: Callable[[Example], Path], prefect_server: PrefectServer, tmp_path: Path
) -> None:
    """It ends by itself, or when it is interrupted after its worker was seen at work."""
    path = page(example)
    output = tmp_path / "output"
    with output.open("wb") as writes:
        program = subprocess.Popen(
            [sys.executable, path],
            cwd=tmp_path,
            env=prefect_server.environment,
            stdout=writes,
            stderr=subprocess.STDOUT,
        )
    try:
        pools = [first or second for first, second in _POOL.findall(example.text)]
        worked = _wait_until_at_work(program, prefect_server, pools)
        if worked and not example.is_guest:
            program.send_signal(signal.SIGINT)
        status = program.wait(_END_SECONDS)
    finally:
        program.kill()
        program.wait()
    said = output.read_text()
    assert worked or status == 0, f"{example} came to no worker that the server knows:\n{said}"
    interrupted = status == -signal.SIGINT and said.rstrip().endswith("KeyboardInterrupt")
    assert status == 0 or interrupted, f"{example} ended with {status}:\n{said}"


def _wait_until_at_work(program: subprocess.Popen[bytes], server: PrefectServer, pools: list[str]) -> bool:
    """Whether every pool that the program names has got a worker; False if the program has ended before."""
    deadline = time.monotonic() + _ONLINE_SECONDS
    while program.poll() is None:
        if pools and all(_has_worker(server, pool) for pool in pools):
            return True
        assert time.monotonic() < deadline, f"no worker for {pools} within {_ONLINE_SECONDS} s"
        time.sleep(0.2)
    return False


def _has_worker(server: PrefectServer, pool: str) -> bool:
    known = server.call("POST", "work_pools/filter", {"work_pools": {"name": {"any_": [pool]}}})
    return bool(known) and any(
        worker["status"] == "ONLINE"
        for worker in server.call("POST", f"work_pools/{pool}/workers/filter", {})
    )


@pytest.mark.parametrize("example", TYPED, ids=named)
def test_commands_exist(example: Example) -> None:
    assert example.commands, f"{example}: there is no line that begins with `$ `"
    for command in example.commands:
        _check_command(shlex.split(command))


def _check_command(words: list[str]) -> None:
    """Fail if a command, or one of its options, does not exist, and for one that nobody here knows."""
    match words:
        case ["make", *targets]:
            subprocess.run(
                ["make", "--dry-run", "--silent", *targets], cwd=ROOT, check=True, capture_output=True
            )
        case ["trioworker", *arguments]:
            _check_arguments(arguments)
        case ["prefect", *arguments]:
            _check_prefects_command(arguments)
        case ["pip", "install", requirement]:
            _check_requirement(requirement)
        case ["export", assignment]:
            assert re.fullmatch(r"(PREFECT|TRIOWORKER)_[A-Z_]+=\S+", assignment), assignment
        case ["pytest", *options]:
            subprocess.run(
                [sys.executable, "-m", "pytest", *options, "--version"], check=True, capture_output=True
            )
        case ["python", path] if path.startswith("examples/"):
            assert (ROOT / path).is_file(), path
        case _:
            pytest.fail(f"No way is known to check {shlex.join(words)!r}: add one to _check_command")


def _check_arguments(arguments: list[str]) -> None:
    """Parse as the command does, without running it."""
    command: click.Command = command_line
    context = click.Context(command, info_name="trioworker")
    while isinstance(command, click.Group):
        name, *arguments = arguments or [""]
        found = command.commands.get(name)
        assert found is not None, f"there is no `trioworker {name}`"
        context = click.Context(found, parent=context, info_name=name)
        command = found
    trio.run(command.make_parser(context).parse_args, list(arguments))


def _check_prefects_command(arguments: list[str]) -> None:
    """Prefect's own help knows the command and its options."""
    words = list(takewhile(lambda word: re.fullmatch(r"[a-z][a-z-]*", word), arguments))
    helped = subprocess.run(
        [sys.executable, "-m", "prefect", *words, "--help"],
        check=True,
        capture_output=True,
        text=True,
        env=clean_environment() | {"COLUMNS": "200", "NO_COLOR": "1"},
    )
    known = set(re.findall(r"--?[\w-]+", helped.stdout))
    assert {word.partition("=")[0] for word in arguments if word.startswith("-")} <= known


def _check_requirement(requirement: str) -> None:
    named = re.fullmatch(r"trioworker(?:\[([\w,]+)\])?", requirement)
    assert named is not None, f"{requirement!r} is not this project"
    extras = set((named[1] or "").split(",")) - {""}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extras <= set(project["optional-dependencies"])


PAGE = """
<!-- not run: it would order
     a pizza -->
```python
order()
```

1. In a list:

   ```python
   # pizza.py
   def test_it(): ...
   ```

```console
$ make \\
  demo     # and wait
a line of output
$ make test
```

```python
import trio
trio.run(main)
```
"""


def test_examples_are_told_apart() -> None:
    left_out, tests, typed, program = examples_in(PAGE, "page.md")
    assert (str(left_out), left_out.reason) == ("page.md:4", "it would order\n     a pizza")
    assert (tests.file_name, tests.has_tests, tests.needs_server, tests.reason) == (
        "pizza.py",
        True,
        False,
        None,
    )
    assert [command.split() for command in typed.commands] == [["make", "demo"], ["make", "test"]]
    assert (program.needs_server, program.has_tests, program.file_name) == (True, False, None)


@pytest.mark.parametrize(
    "command",
    [
        ["rm", "-r", "everything"],
        ["make", "coffee"],
        ["trioworker", "brew"],
        ["trioworker", "start", "--cofee"],
        ["pip", "install", "trioworker[milk]"],
        ["prefect", "deployment", "run", "--milk"],
    ],
    ids=" ".join,
)
def test_command_that_does_not_exist_is_found_out(command: list[str]) -> None:
    problems = (AssertionError, subprocess.CalledProcessError, click.UsageError, pytest.fail.Exception)
    with pytest.raises(problems):
        _check_command(command)


def test_nothing_is_left_out_in_silence() -> None:
    left_out: dict[str, int] = {}
    for example in EXAMPLES:
        if example.reason is not None:
            assert example.reason, f"{example}: say why it is not run"
            left_out[example.document] = left_out.get(example.document, 0) + 1
    assert left_out == NOT_RUN


def test_every_block_says_what_it_is() -> None:
    """One without a language, or with one that nobody knows, would be run by nobody."""
    unknown = [
        f"{example} {example.language!r}"
        for example in EXAMPLES
        if example.language not in {PYTHON, CONSOLE, *SHOWN_ONLY}
    ]
    assert unknown == []


def test_named_blocks_are_called_by_names_of_their_own() -> None:
    named_files = [(each.document, each.file_name) for each in RUN if each.file_name]
    assert len(set(named_files)) == len(named_files)


def test_programs_find_no_server_by_accident() -> None:
    assert not {"PREFECT_API_URL", "PREFECT_PROFILE"} & set(environment(Path(os.devnull)))
