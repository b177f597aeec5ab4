"""Cases about the job configuration: parameters, job variables, templates, blocks, variables."""

from __future__ import annotations

import sys

from play import Case, Play
from registry import collect

CASES: list[Case] = []
case = collect(CASES)

PLAIN = "plain.py:plain"


@case()
async def parameters(play: Play) -> None:
    """Parameters of the deployment and of the run."""
    deployment = await play.deploy(PLAIN, parameters={"number": 2, "words": ["a"]})
    await play.rest(await play.schedule(deployment, parameters={"number": 3, "words": ["ä", "{{ b }}"]}))


@case()
async def env(play: Play) -> None:
    """Environment variables of the deployment."""
    variables = {"env": {"PARITY_TEXT": "text", "PARITY_EMPTY": "", "PREFECT_LOGGING_LEVEL": "DEBUG"}}
    await play.rest(await play.schedule(await play.deploy(PLAIN, variables=variables)))


@case()
async def dotted_env(play: Play) -> None:
    """Environment variables by dotted keys, beside a nested one."""
    variables = {"env.PARITY_DOTTED": "dotted", "env.PARITY_BOTH": "dotted", "env": {"PARITY_BOTH": "nested"}}
    run = await play.schedule(
        await play.deploy(PLAIN, variables=variables), job_variables={"env.PARITY_OF_RUN": "dotted"}
    )
    await play.rest(run)


@case()
async def null_in_env(play: Play) -> None:
    """A null takes a variable away."""
    variables = {"env": {"PARITY_UNWANTED": None, "PARITY_FROM_WORKER": "from the deployment"}}
    run = await play.schedule(
        await play.deploy(PLAIN, variables=variables), job_variables={"env": {"PARITY_FROM_WORKER": None}}
    )
    await play.rest(run)


@case("levels")
async def three_levels(play: Play) -> None:
    """Job variables of the template, the deployment and the run; all kinds of placeholders."""
    variables = {"env": {"PARITY_B": "deployment", "PARITY_C": "deployment"}, "flavour": "sour"}
    run = await play.schedule(
        await play.deploy(PLAIN, variables=variables),
        job_variables={"env": {"PARITY_C": "run"}, "number": 8, "labels": {"a": "b"}},
    )
    await play.rest(run)


@case("levels")
async def template_defaults(play: Play) -> None:
    """Nothing but what the template says."""
    await play.rest(await play.schedule(await play.deploy(PLAIN)))


@case("levels")
async def overridden_fixed_env(play: Play) -> None:
    """A deployment overrides what the template has fixed."""
    variables = {"env": {"PARITY_FIXED": "deployment", "PARITY_RENDERED": "as {{ flavour }} as it was"}}
    await play.rest(await play.schedule(await play.deploy(PLAIN, variables=variables)))


@case("levels")
async def name_template(play: Play) -> None:
    """A name with context, and a command beside it."""
    variables = {"name": "{{ ctx.flow.name }}-{{ ctx.flow_run.name }}-job"}
    await play.rest(await play.schedule(await play.deploy(PLAIN, variables=variables)))


@case()
async def block_secret(play: Play) -> None:
    """A secret block, whole and by a path inside it."""
    variables = {
        "env": {
            "PARITY_SECRET": "{{ prefect.blocks.secret.parity-secret }}",
            "PARITY_VALUE": "{{ prefect.blocks.secret.parity-secret.value }}",
            "PARITY_LEAF": "{{ prefect.blocks.secret.parity-tree.value.leaf }}",
        }
    }
    await play.rest(await play.schedule(await play.deploy(PLAIN, variables=variables)))


@case("loose")
async def block_by_reference(play: Play) -> None:
    """A block by `$ref`, as the value of a variable."""
    path = "block_types/slug/secret/block_documents/name/parity-tree"
    block = await play.stage.rest.call("GET", path)
    variables = {"env": {"PARITY_REF": {"$ref": {"block_document_id": block["id"]}}}}
    await play.rest(await play.schedule(await play.deploy(PLAIN, variables=variables)))


@case()
async def variable(play: Play) -> None:
    """Variables of the server, alone, inside a text, and nested."""
    variables = {
        "env": {
            "PARITY_ALONE": "{{ prefect.variables.parity_text }}",
            "PARITY_INSIDE": "<{{ prefect.variables.parity_text }}>",
            "PARITY_TREE": "{{ prefect.variables.parity_tree }}",
        }
    }
    await play.rest(await play.schedule(await play.deploy(PLAIN, variables=variables)))


@case()
async def missing_block(play: Play) -> None:
    """A block that does not exist."""
    variables = {"env": {"PARITY_BLOCK": "{{ prefect.blocks.secret.no-such-block }}"}}
    await play.rest(await play.schedule(await play.deploy(PLAIN, variables=variables)))


@case()
async def missing_variable(play: Play) -> None:
    """Variables that do not exist."""
    variables = {
        "env": {
            "PARITY_ALONE": "{{ prefect.variables.no_such_variable }}",
            "PARITY_INSIDE": "<{{ prefect.variables.no_such_variable }}>",
        }
    }
    await play.rest(await play.schedule(await play.deploy(PLAIN, variables=variables)))


@case("loose")
async def env_is_a_text(play: Play) -> None:
    """A template whose environment is not an object."""
    await play.rest(await play.schedule(await play.deploy(PLAIN, variables={"env": "text"})))


@case("loose")
async def command_is_a_number(play: Play) -> None:
    """A template whose command is not a text."""
    await play.rest(await play.schedule(await play.deploy(PLAIN, variables={"command": 5})))


@case("loose")
async def env_of_many_types(play: Play) -> None:
    """Numbers, truth values and lists as values of variables."""
    values = {"PARITY_INT": 1, "PARITY_FLOAT": 1.5, "PARITY_TRUE": True, "PARITY_LIST": [1, "a"]}
    await play.rest(await play.schedule(await play.deploy(PLAIN, variables={"env": values})))


@case()
async def working_dir_missing(play: Play) -> None:
    """A working directory that does not exist."""
    variables = {"working_dir": str(play.side.files / "no-such-directory")}
    await play.rest(await play.schedule(await play.deploy(PLAIN, variables=variables)))


@case()
async def working_dir(play: Play) -> None:
    """A working directory."""
    variables = {"working_dir": str(play.directory("working"))}
    await play.rest(await play.schedule(await play.deploy(PLAIN, variables=variables)))


@case(cold=True)
async def command_of_the_engine(play: Play) -> None:
    """An explicit command that is the engine's."""
    variables = {"command": "python -m prefect.engine"}
    await play.rest(await play.schedule(await play.deploy(PLAIN, variables=variables)))


@case(cold=True)
async def command_of_another_program(play: Play) -> None:
    """An explicit command that knows nothing of Prefect and ends well."""
    command = f"{sys.executable} '{play.stage.flows / 'bare.py'}' 0"
    await play.rest(await play.schedule(await play.deploy(PLAIN, variables={"command": command})))


@case(cold=True)
async def command_that_fails(play: Play) -> None:
    """An explicit command that knows nothing of Prefect and fails."""
    command = f"{sys.executable} '{play.stage.flows / 'bare.py'}' 9"
    await play.rest(await play.schedule(await play.deploy(PLAIN, variables={"command": command})))


@case()
async def command_missing(play: Play) -> None:
    """An explicit command that does not exist."""
    await play.rest(
        await play.schedule(await play.deploy(PLAIN, variables={"command": "no-such-command --at-all"}))
    )


@case()
async def tags(play: Play) -> None:
    """Tags of the deployment and of the run."""
    deployment = await play.deploy(PLAIN, tags=["of-deployment", "of-both"])
    await play.rest(await play.schedule(deployment, tags=["of-run", "of-both"]))


@case()
async def stream_output_off(play: Play) -> None:
    """Output that the worker does not show."""
    deployment = await play.deploy("plain.py:prints", variables={"stream_output": False})
    await play.rest(await play.schedule(deployment))


@case()
async def no_deployment(play: Play) -> None:
    """A run without a deployment, scheduled in the work pool itself."""
    rest = play.stage.rest
    flow = await rest.call("POST", "flows/", {"name": "plain"})
    play.names[flow["id"]] = "FLOW"
    body = {
        "flow_id": flow["id"],
        "name": f"{play.case.name}-1",
        "work_pool_name": play.side.pool("main"),
        "state": {"type": "SCHEDULED"},
    }
    run = play.knows((await rest.call("POST", "flow_runs/", body))["id"])
    await play.rest(run)
