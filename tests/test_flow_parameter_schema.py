from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
)
from uuid import uuid4

import attrs
import httpx
import pytest
from conftest import PrefectServer
from parameter_classes import (
    Account,
    Box,
    Colour,
    Crop,
    Node,
    Options,
    Sizes,
)

from trioworker.flows.parameters import ParameterError, Parameters

COMMON_SIGNATURES = '''
from __future__ import annotations
import collections.abc as c, datetime as d, decimal, enum, pathlib, typing as t, uuid

class Colour(enum.Enum):
    """What it looks like."""
    RED = "red"
    BLUE = "blue"

class Level(enum.IntEnum):
    LOW = 1

class Mixed(enum.Enum):
    A = "a"
    B = 1

Number = t.NewType("Number", int)

async def plain(path: str, width: int = 640, scale: float = 1.5, keep: bool = False, anything: t.Any = None,
                nothing: None = None, untyped=3, also_untyped="y", *, last: str = "x"):
    """Make a picture smaller.

    A second paragraph.

    Args:
        path: where it is
            on the disk
        width (int): in pixels

        scale: by how much

    Returns:
        nothing: at all
    """

def unions(a: int | None, b: t.Optional[str] = "q", c: int | str = 1, d: int | str | None = None,
           e: t.Union[Colour, None] = None, f: list[int | None] = [1]): ...

def values(a: t.Literal["a", "b"], b: t.Literal["z"] = "z", c: t.Literal[1, "b", None] = 1,
           d: Colour = Colour.RED, e: Level = Level.LOW, f: Mixed = Mixed.B):
    """Takes values.

    Arguments:
      a: one
      d: a colour
    """

def scalars(dt: d.datetime = d.datetime(2030, 1, 1, tzinfo=d.timezone.utc), da: d.date = d.date(2030, 1, 1),
            ti: d.time = d.time(1), td: d.timedelta = d.timedelta(days=1, seconds=3690.5),
            zero: d.timedelta = d.timedelta(), week: d.timedelta = d.timedelta(days=7),
            back: d.timedelta = d.timedelta(seconds=-60), naive: d.datetime = d.datetime(2030, 1, 1),
            u: uuid.UUID = uuid.UUID(int=3), p: pathlib.Path = pathlib.Path("a"),
            de: decimal.Decimal = decimal.Decimal("1.5"), by: bytes = b"a", x=object(), number: Number = 3): ...

def collections(a: list[int], b: tuple[int, str], c_: tuple[int, ...], d_: set[int], e: frozenset[str],
                f: c.Sequence[int], g: c.Mapping[str, int], h: dict[str, list[int]], i: dict, j: list, k: tuple,
                l: c.Iterable[int], m: tuple[()], n: dict[int, str], o: set[int] = {1}, p: tuple[int, int] = (1, 2),
                q: list[Colour] = [Colour.RED], r: dict[str, t.Any] = {"a": 1}): ...

def empty(): ...

FUNCTIONS = [plain, unions, values, scalars, collections, empty]
'''

ASK_PREFECT = """
import json, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
import signatures
from prefect.utilities.callables import parameter_schema
json.dump([parameter_schema(function).model_dump() for function in signatures.FUNCTIONS], sys.stdout)
"""


@pytest.mark.process
def test_what_is_published_of_common_signatures_is_what_prefect_publishes(
    tmp_path: Path, process_environment: dict[str, str]
) -> None:
    source = tmp_path / "signatures.py"
    source.write_text(COMMON_SIGNATURES)
    answer = subprocess.run(
        [sys.executable, "-c", ASK_PREFECT, str(tmp_path)],
        env=process_environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=60,
    )
    spec = importlib.util.spec_from_file_location("signatures", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    expected = json.loads(answer.stdout)

    assert len(expected) == len(module.FUNCTIONS)
    for function, schema in zip(module.FUNCTIONS, expected, strict=True):
        assert Parameters.of(function).schema == schema


def test_classes_are_published_as_definitions() -> None:
    def function(crop: Crop, node: Node, box: Box[int]) -> None: ...

    schema = Parameters.of(function).schema

    assert schema["properties"]["crop"] == {"$ref": "#/definitions/Crop", "title": "crop", "position": 0}
    assert schema["definitions"]["Crop"] == {
        "title": "Crop",
        "type": "object",
        "description": "A part of a picture.\n\nIn pixels.",
        "properties": {
            "left": {"title": "Left", "type": "integer"},
            "top": {"title": "Top", "type": "integer", "default": 0},
            "tags": {"title": "Tags", "type": "array", "items": {"type": "string"}},
        },
        "required": ["left"],
        "additionalProperties": False,
    }
    assert schema["definitions"]["Node"]["properties"]["next"] == {
        "title": "Next",
        "anyOf": [{"$ref": "#/definitions/Node"}, {"type": "null"}],
        "default": None,
    }
    assert schema["definitions"]["Box_int_"]["properties"]["content"] == {
        "title": "Content",
        "type": "integer",
    }
    assert json.loads(json.dumps(schema)) == schema


def test_dataclasses_and_typed_dicts_are_published_as_definitions() -> None:
    def function(account: Account, options: Options, sizes: Sizes) -> None: ...

    definitions = Parameters.of(function).schema["definitions"]

    assert definitions["Account"]["required"] == ["user", "password"]
    assert set(definitions["Account"]["properties"]) == {"user", "password", "limits"}
    assert "description" not in definitions["Account"]
    assert definitions["Options"]["required"] == ["width"]
    assert definitions["Sizes"]["required"] == ["small"]


def test_classes_of_the_same_name_are_told_apart() -> None:
    first = attrs.make_class("Same", {"a": attrs.field(type=int)})
    second = attrs.make_class("Same", {"b": attrs.field(type=int)})

    def function(one: Any, two: Any) -> None: ...

    function.__annotations__ = {"one": first, "two": second}
    schema = Parameters.of(function).schema

    references = [
        schema["properties"][name]["$ref"].removeprefix("#/definitions/") for name in ("one", "two")
    ]
    assert [list(schema["definitions"][name]["properties"]) for name in references] == [["a"], ["b"]]


def published(hint: Any) -> Any:
    def function(it: Any) -> None: ...

    function.__annotations__ = {"it": hint}
    schema = Parameters.of(function).schema
    assert schema["properties"]["it"].pop("title") == "it"
    assert schema["properties"]["it"].pop("position") == 0
    return schema["properties"]["it"]


def test_a_description_may_stand_in_the_annotation() -> None:
    @attrs.frozen
    class Doc:
        documentation: str

    assert published(Annotated[int, 3, "a number"])["description"] == "a number"
    assert published(Annotated[int, Doc("a number")])["description"] == "a number"
    assert "description" not in published(Annotated[int, 3])


def test_defaults_are_published_as_they_would_be_read() -> None:
    def function(
        crop: Crop = Crop(1, tags=["a"]),  # noqa: B008
        account: Account = Account("a", "b"),  # noqa: B008
        sizes: Sizes = {"small": 1},  # noqa: B006
        letters: frozenset[str] = frozenset("cab"),
        infinite: float = float("inf"),
    ) -> None: ...

    parameters = Parameters.of(function)

    defaults = {name: part.get("default") for name, part in parameters.schema["properties"].items()}
    assert defaults == {
        "crop": {"left": 1, "top": 0, "tags": ["a"]},
        "account": {"user": "a", "password": "b", "limits": []},
        "sizes": {"small": 1},
        "letters": ["a", "b", "c"],
        "infinite": None,
    }
    assert "default" not in parameters.schema["properties"]["infinite"]
    assert parameters.schema["required"] == []
    del defaults["infinite"]
    assert parameters.structure(defaults) == {
        "crop": Crop(1, tags=["a"]),
        "account": Account("a", "b"),
        "sizes": {"small": 1},
        "letters": frozenset("abc"),
    }


# Prefect's server.


class ServedSignature:
    @staticmethod
    async def flow(  # noqa: PLR0917
        path: str,
        colour: Colour,
        crop: Crop,
        width: int | None = None,
        size: int | str = "large",
        mode: Literal["a", "b"] = "a",
        moment: datetime | None = None,
        node: Node | None = None,
        pair: tuple[int, str] = (1, "a"),
        letters: set[str] = frozenset("ab"),  # type: ignore[assignment]
    ) -> None: ...


GOOD: dict[str, Any] = {"path": "a", "colour": "red", "crop": {"left": 1}}


async def test_prefects_server_enforces_what_is_published(prefect_server: PrefectServer) -> None:
    parameters = Parameters.of(ServedSignature.flow)
    name = f"parameters-{uuid4()}"
    flow = await prefect_server.acall("POST", "flows/", {"name": name})
    await prefect_server.acall("POST", "work_pools/", {"name": name, "type": "trio"})
    deployment = await prefect_server.acall(
        "POST",
        "deployments/",
        {
            "name": name,
            "flow_id": flow["id"],
            "work_pool_name": name,
            "parameter_openapi_schema": parameters.schema,
            "enforce_parameter_schema": True,
        },
    )

    accepted: list[dict[str, Any]] = [
        GOOD,
        GOOD | {"width": None, "size": 3, "mode": "b", "moment": "2030-01-31T12:00:00Z"},
        GOOD | {"width": 3, "moment": None, "pair": [1, "b"], "letters": ["x"]},
        GOOD | {"node": {"name": "a", "next": {"name": "b", "children": [{"name": "c"}]}}},
    ]
    refused: list[dict[str, Any]] = [
        {},
        GOOD | {"colour": "green"},
        GOOD | {"crop": {}},
        GOOD | {"crop": {"left": "x"}},
        GOOD | {"crop": {"left": 1, "lfet": 1}},
        GOOD | {"width": "wide"},
        GOOD | {"size": [1]},
        GOOD | {"mode": "c"},
        GOOD | {"node": {"name": "a", "next": {"name": 1}}},
        GOOD | {"pair": [1]},
    ]
    create = f"deployments/{deployment['id']}/create_flow_run"
    for values in accepted:
        run = await prefect_server.acall("POST", create, {"parameters": values})
        assert set(parameters.structure(run["parameters"])) == set(values)
    for values in refused:
        with pytest.raises(httpx.HTTPStatusError) as caught:
            await prefect_server.acall("POST", create, {"parameters": values})
        assert caught.value.response.status_code == 409
        with pytest.raises(ParameterError):
            parameters.structure(values)
