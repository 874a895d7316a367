"""A list is read whatever its marks, and each item with all that belongs to it."""

import time

import pytest

from shoal.runtime.types import Completion
from shoal.techniques._lists import items


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1. a\n2. b\n3. c", ["a", "b", "c"]),
        ("1) a\n2) b", ["a", "b"]),
        ("(1) a\n(2) b", ["a", "b"]),
        ("1\\. a\n2\\. b", ["a", "b"]),
        ("- a\n- b", ["a", "b"]),
        ("* a\n* b", ["a", "b"]),
        ("• a\n• b", ["a", "b"]),
        ("  - a\n  - b", ["a", "b"]),
        ("Here they are:\n\n1. a\n2. b\n\nI hope these help!", ["a", "b"]),
        ("**1.** a\n**2.** b", ["a", "b"]),
        ("1. **Bold** a\n2. **Also:** b", ["**Bold** a", "**Also:** b"]),
        ("**Observation 1:** a\n\n**Observation 2:** b", ["a", "b"]),
        ("Observation 1: a\nObservation 2: b", ["a", "b"]),
        ("### 1. A\ntext\n\n### 2. B\nmore", ["A\ntext", "B\nmore"]),
        ("1. a\n   goes on\n2. b\n   - detail\n   - more", ["a\n   goes on", "b\n   - detail\n   - more"]),
        ("1. a\n\n   more of a\n\n2. b", ["a\n\n   more of a", "b"]),
        ("1. A\n\nWhy a.\n\n2. B\n\nWhy b.", ["A\n\nWhy a.", "B\n\nWhy b."]),
        ("- a\n  1. first\n  2. second\n- b", ["a\n  1. first\n  2. second", "b"]),
        ('["a", "b"]', ["a", "b"]),
        ('```json\n{"observations": ["a", "b"]}\n```', ["a", "b"]),
        ('[{"title": "a", "text": "b"}, {"title": "c"}]', ["a\nb", "c"]),
        ("<think>1. x\n2. y</think>1. a", ["a"]),
        ("It is about 3.5 apples.\nNo list at all.", ["It is about 3.5 apples.\nNo list at all."]),
        ("**All in bold** and no list", ["**All in bold** and no list"]),
        ("3.5 apples are left", ["3.5 apples are left"]),
        ("42", ["42"]),
        ("1. a\n2.\n3. c", ["a", "c"]),
        ("  \n", []),
        ("<think>still", []),
        ("[]", ["[]"]),
    ],
)
def test_items(text: str, found: list[str]) -> None:
    assert items(Completion(text)) == found


def test_the_last_item_of_a_list_that_was_cut_off_is_left_out() -> None:
    assert items(Completion("1. a\n2. b\n3. it fol", "length")) == ["a", "b"]
    assert items(Completion("1. it fol", "length")) == ["it fol"]


@pytest.mark.parametrize("piece", ["1. a\n", "- ", "**", "\n\n", "[", "**1", "(1", " "])
def test_reading_is_linear(piece: str) -> None:
    start = time.perf_counter()
    items(Completion("x\n" + piece * 20_000))
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("depth", [600, 900, 100_000])
def test_objects_too_deep_to_read_are_plain_text(depth: int) -> None:
    text = "[" + '{"a":' * depth + "1" + "}" * depth + "]"
    assert items(Completion(text)) in ([text], ["1"])
