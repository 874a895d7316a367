"""Typed answers: held to a schema where the backend can, checked and mended everywhere."""

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest
from tests.prompting.llm.test_text import able
from tests.scripting import scripted

import shoal
from shoal import llm
from shoal.errors import InvalidOutput, UsageError
from shoal.techniques.self_consistency import self_consistency


@dataclass
class City:
    name: str
    people: int


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Point(msgspec.Struct):
    x: float
    y: float = 0.0


class Both(TypedDict):
    city: City
    colour: Colour


class Pair(NamedTuple):
    a: int
    b: str


CITY = '{"name": "Nice", "people": 340000}'


@pytest.mark.parametrize(
    ("cls", "said", "value"),
    [
        (City, CITY, City("Nice", 340000)),
        (Point, '{"x": 1}', Point(1.0)),
        (Both, f'{{"city": {CITY}, "colour": "red"}}', {"city": City("Nice", 340000), "colour": Colour.RED}),
        (Pair, '{"value": [1, "b"]}', Pair(1, "b")),
        (Colour, '{"value": "blue"}', Colour.BLUE),
        (int, '{"value": 4}', 4),
        (int, "4", 4),
        (float, '{"value": 4}', 4.0),
        (bool, '{"value": true}', True),
        (str, '{"value": "x"}', "x"),
        (list[City], f'{{"value": [{CITY}]}}', [City("Nice", 340000)]),
        (dict[str, int], '{"value": 3}', {"value": 3}),
        (City | None, '{"value": null}', None),
        (Literal["a", "b"], '{"value": "b"}', "b"),
    ],
)
def test_types(cls: Any, said: str, value: Any) -> None:
    model, backend = scripted(lambda request: said)
    assert shoal.run(llm.generate_object("q", cls), model=model) == value
    schema = backend.requests[0].params.json_schema
    assert schema is not None
    root = schema.value()
    if "$ref" in root:
        root = root["$defs"][root["$ref"].rpartition("/")[2]]
    assert root["type"] == "object"


def test_a_pydantic_model() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Town(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        name: str
        people: int = pydantic.Field(gt=0)

    said = iter(['{"name": "Nice", "people": 0}', CITY])
    model, backend = scripted(lambda request: next(said))
    assert shoal.run(llm.generate_object("q", Town), model=model) == Town(name="Nice", people=340000)
    assert "greater than 0" in backend.requests[1].messages[-1].text


def test_what_does_not_fit_goes_back_with_the_error() -> None:
    said = iter(["no idea", '{"name": "Nice", "people": "many"}', CITY])
    model, backend = scripted(lambda request: next(said))
    assert shoal.run(llm.generate_object("Which city?", City), model=model) == City("Nice", 340000)
    last = backend.requests[2].messages
    assert [message.role for message in last] == ["user", "assistant", "user", "assistant", "user"]
    assert "Expected `int`, got `str` - at `$.people`" in last[-1].text


def test_it_ends_where_mending_does_not_help() -> None:
    model, backend = scripted(lambda request: "no idea")
    with pytest.raises(InvalidOutput, match=r"no City in 2 answers; the last: not JSON .*'no idea'"):
        shoal.run(llm.generate_object("q", City, retries=1), model=model)
    assert len(backend.requests) == 2


def test_a_technique_is_held_to_the_schema_too() -> None:
    model, backend = scripted(lambda request: CITY)
    voted = shoal.apply(self_consistency, model, n=3)
    assert shoal.run(llm.generate_object("Which city?", City), model=voted) == City("Nice", 340000)
    assert all(request.params.json_schema for request in backend.requests)
    assert len(backend.requests) == 3


@pytest.mark.parametrize("said", [CITY, f"```json\n{CITY}\n```", f"Here it is: {CITY} Good?", f"\n{CITY}\n"])
def test_a_backend_without_schemas_is_shown_the_schema(said: str) -> None:
    model, backend = able(lambda request: said)
    value = shoal.run(llm.generate_object("Which city?", City, system="s"), model=model)
    assert value == City("Nice", 340000)
    (request,) = backend.requests
    assert request.params.json_schema is None
    assert request.messages[0].text == "s"
    assert json.dumps({"type": "integer"}) in request.messages[1].text


@pytest.mark.parametrize("said", ["", "{", "[" * 100_000, '{"a":' * 50_000, "NaN", '{"name": 1e999}'])
def test_hostile_text_is_no_value_and_no_crash(said: str) -> None:
    model, _ = scripted(lambda request: said)
    with pytest.raises(InvalidOutput):
        shoal.run(llm.generate_object("q", City, retries=0), model=model)


def test_a_type_without_a_schema_is_named() -> None:
    class Odd:
        pass

    with pytest.raises(UsageError, match="generate_object: Odd has no JSON schema"):
        shoal.run(llm.generate_object("q", Odd), model=scripted(lambda request: "")[0])


@pytest.mark.parametrize(
    ("cls", "said", "value"),
    [
        (list[int], "As in [1], the answer is [2, 3].", [2, 3]),
        (City, f'{{"name": "Rome"}} no, {CITY}', City("Nice", 340000)),
        (dict[int, str], '{"1": "a"}', {1: "a"}),
    ],
)
def test_of_several_values_the_last_that_fits_is_meant(cls: Any, said: str, value: Any) -> None:
    model, _ = able(lambda request: said)
    assert shoal.run(llm.generate_object("q", cls), model=model) == value


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (int, "1,234"),
        (int, "2023-05-01"),
        (int, "007"),
        (float, "3 or 4"),
        (float, "NaN"),
        (str, '{"value": "\\ud83d"}'),
    ],
)
def test_what_is_not_the_value_is_not_taken_for_it(cls: Any, said: str) -> None:
    model, _ = able(lambda request: said)
    with pytest.raises(InvalidOutput):
        shoal.run(llm.generate_object("q", cls, retries=0), model=model)
    with pytest.raises(UsageError, match="retries=-1 is below 0"):
        shoal.run(llm.generate_object("q", cls, retries=-1), model=model)
