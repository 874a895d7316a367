"""What a further sample is worth to a vote: by hand for small votes, and the properties that allocation rests on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.techniques._gain import gains
from shoal.techniques._stopping import Vote, likelier


def vote(*forms: object, n: int = 32) -> Vote:
    made = Vote(n, "beta", 0.999)
    for form in forms:
        made.add(form)
    return made


@pytest.mark.parametrize(
    ("forms", "gain"),
    [
        ("a", 1 - 1 / 8 - 3 / 4),  # two to none: the integral of 3x^2 from 1/2 to 1, less that of 2x
        ("ab", 11 / 16 - 1 / 2),  # two to one, whoever it is
        ("aab", 13 / 16 - 11 / 16),
        ("aaa", 1 / 32),
        ("abc", 11 / 16 - 1 / 2),  # the two leading ones count
    ],
)
def test_the_luckiest_outcome_of_one_sample(forms: str, gain: float) -> None:
    assert gains(vote(*forms), 1) == pytest.approx((gain,))


def test_samples_after_the_next_are_judged_as_if_it_agreed() -> None:
    assert gains(vote("a", "b"), 3) == gains(vote("a", "b"), 1) + gains(vote("a", "a", "b"), 1) + gains(
        vote("a", "a", "a", "b"), 1
    )


def test_no_more_than_the_vote_has_left() -> None:
    assert len(gains(vote("a", "b", n=3), 4)) == 1


def test_a_row_that_cannot_be_read_is_hoped_for_less_and_less() -> None:
    first, *later = [gains(vote(*[None] * k), 1)[0] for k in range(6)]
    assert first == pytest.approx(0.75 / 2)
    assert [first, *later] == sorted([first, *later], reverse=True)


@given(st.integers(0, 60), st.integers(0, 60))
def test_every_vote_can_gain_and_the_nearer_one_gains_more(first: int, second: int) -> None:
    """No row is left out for ever: that is what the optimistic outcome is for."""
    a, b = max(first, second) + 1, min(first, second)
    near, far = (gains(vote(*"x" * votes, *"y" * b, n=500), 1)[0] for votes in (a, a + 1))
    assert 0 <= far <= near or near == pytest.approx(far, abs=1e-12)
    assert near > 0 or likelier(a, b) > 1 - 1e-12
