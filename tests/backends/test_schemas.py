"""Schemas before they are sent: what a grammar would not keep, and what strict mode takes."""

from typing import Any

import pytest

from shoal.backends.schemas import UNANCHORED, check_enforced, fits_strict, without_closed_tuples
from shoal.errors import BadRequest
from shoal.runtime.types import Json

NOTHING: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "integer", "multipleOf": 2}, "multipleOf at #"),
        ({"properties": {"a": {"items": {"not": {}}}}}, "not at #/properties/a/items"),
        ({"$defs": {"A": {"uniqueItems": True}}, "$ref": "#/$defs/A"}, r"uniqueItems at #/\$defs/A"),
        ({"anyOf": [{}, {"type": "number", "minimum": 0}]}, "bounds of a number .* at #/anyOf/1"),
        ({"type": "string", "pattern": "^a$", "minLength": 1}, "pattern and length together"),
    ],
)
def test_what_no_grammar_keeps_is_named_with_its_place(schema: Any, problem: str) -> None:
    with pytest.raises(BadRequest, match=f"here: json_schema: .* cannot keep {problem}"):
        check_enforced(Json.in_order(schema), NOTHING, "here")


def test_what_one_engine_passes_over_another_may_keep() -> None:
    for schema, name in (({"allOf": [{}]}, "allOf"), ({"type": "string", "pattern": "ab"}, UNANCHORED)):
        check_enforced(Json.in_order(schema), NOTHING, "here")
        with pytest.raises(BadRequest):
            check_enforced(Json.in_order(schema), frozenset({name}), "here")


def test_a_property_may_have_the_name_of_a_keyword() -> None:
    schema = Json.in_order({"type": "object", "properties": {"not": {"type": "null"}, "pattern": {"type": "null"}}})
    check_enforced(schema, frozenset({UNANCHORED}), "here")
    closed = {"type": "object", "properties": {"not": {"type": "null"}}, "required": ["not"]}
    assert fits_strict(Json.in_order({**closed, "additionalProperties": False}))
    check_enforced(None, NOTHING, "here")


def test_a_closed_tuple_is_one_without_saying_so() -> None:
    pair = {"prefixItems": [{"type": "null"}], "items": False}
    assert without_closed_tuples(Json.in_order({"items": pair})).value() == {
        "items": {"prefixItems": [{"type": "null"}]}
    }
    same = Json.in_order({"items": {"type": "null"}})
    assert without_closed_tuples(same) is same
