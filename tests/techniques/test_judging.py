"""What a judge prefers is read from whatever form it says it in, and is missing where it says nothing clear."""

import time

import pytest

from shoal.runtime.types import Completion
from shoal.techniques._conversation import said
from shoal.techniques._judging import is_empty, preferred, selected


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("Verdict: A", "A"),
        ("**Verdict:** B", "B"),
        ("**Verdict: Answer A**", "A"),
        ("### Verdict\nA is thorough.\n\nVerdict:\nB", "B"),
        ("Winner: [[B]]", "B"),
        ("[[A]]", "A"),
        ("It is close.\nB", "B"),
        (r"\boxed{B}", "B"),
        ("Verdict: tie", "tie"),
        ("Verdict: a tie", "tie"),
        ("Verdict: neither", "tie"),
        ("The better answer is B.", "B"),
        ("Which is better: A or B? Verdict: B", "B"),
        ("Verdict: A, because B errs", "A"),
        ("Verdict: A\n\nIt is the better one: it is right.", "A"),
        ("Verdict: A at first.\nBut it slips.\nVerdict: B", "B"),
        ("<think>Verdict: B</think>Verdict: A", "A"),
        ("Verdict: A\n\nB even writes 'Verdict: B'.", "A"),
        ("B writes “[[B]]”. I will not judge this.", None),
        ('{"verdict": "B"}', "B"),
        ("The verdict is: B", "B"),
        ("Verdict – B", "B"),
        ("Verdict: Assistant A", "A"),
        ("Verdict: answer_b", "B"),
        ("Verdict: A\n\nB is worse.", "A"),
        ("Verdict: the **B**", "B"),
        ("Verdict: a", "A"),
        ("Verdict: a draw", "tie"),
        ("Verdict: a hard choice", None),
        ("Verdict: A or B", None),
        ("Verdict: <A, B or tie>", None),
        ("Verdict: A is not better", None),
        ("Verdict: ABC", None),
        ("A is fine and B is fine", None),
        ("<think>Verdict: A", None),
        ("", None),
    ],
)
def test_preferred(said: str, verdict: str | None) -> None:
    assert preferred(Completion(said)) == verdict


@pytest.mark.parametrize(
    ("said", "index"),
    [
        ("Verdict: 3", 2),
        ("**Verdict:** [Answer 1]", 0),
        ("Verdict: #4", 3),
        ("The best answer is number 2.", 1),
        ("Verdict: 3. It is the best: 2 + 2 = 4", 2),
        ("1 and 3 err.\n2", 1),
        ("Verdict: Answer No. 2", 1),
        ("Verdict: answer number 2", 1),
        ("Verdict: 1-3", None),
        ("Verdict: 9", None),
        ("Verdict: 0", None),
        ("Verdict: 2.5", None),
        ("Verdict: 1 or 2", None),
        ("Verdict: tie", None),
    ],
)
def test_selected(said: str, index: int | None) -> None:
    assert selected(Completion(said), 4) == index


def test_a_verdict_that_was_cut_off_is_missing() -> None:
    assert preferred(Completion("Verdict: A", "length")) is None
    assert selected(Completion("Verdict: 1", "length"), 4) is None


@pytest.mark.parametrize("piece", ["Verdict: ", "[[", "verdict **\n", "better is the ", "A or "])
def test_reading_is_linear(piece: str) -> None:
    start = time.perf_counter()
    preferred(Completion(piece * 20_000))
    assert time.perf_counter() - start < 5


def test_what_a_reply_thinks_is_not_what_it_says() -> None:
    thought = Completion("<think>13? No.</think>12")
    assert (said(thought), is_empty(thought)) == ("12", False)
    endless = Completion("<think>Let me see", "length")
    assert (said(endless), is_empty(endless)) == ("(cut off here: it was too long)", True)
