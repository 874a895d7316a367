"""A round of an allocation: what holds whatever is asked for and left."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from shoal.batch.rounds import Asking, Limits, share_out
from shoal.runtime.types import Usage

slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a machine that others use


@st.composite
def askings(draw: st.DrawFn) -> list[Asking]:
    rows, once = draw(st.integers(1, 40)), draw(st.booleans())
    found = []
    for number in range(rows):
        given_ = draw(st.integers(0, 4))
        calls = draw(st.integers(1, 3))
        tokens = draw(st.integers(1, 300))
        most = tokens * draw(st.integers(1, 10))
        gains = draw(st.lists(st.floats(0, 0.4), min_size=1, max_size=4))
        visit = once * draw(st.integers(1, 500))
        found.append(Asking(number, given_, gains, calls, tokens, min(most, 2 * tokens), calls, most + visit, visit))
    return found


limits = st.builds(Limits, st.one_of(st.none(), st.integers(1, 200)), st.integers(1, 20_000))
spendings = st.builds(lambda calls, tokens: Usage(tokens, 0, calls), st.integers(0, 100), st.integers(0, 10_000))


@slow
@given(askings(), limits, spendings)
def test_what_is_given_fits_into_what_is_left(asking: list[Asking], limits: Limits, spent: Usage) -> None:
    got = share_out(asking, limits, spent)
    granted = [(one, got[one.number] or 0) for one in asking]
    samples = sum(grant for _, grant in granted)
    if limits.calls is not None:
        assert sum(one.most_calls * grant for one, grant in granted) <= max(0, limits.calls - spent.calls)
    assert limits.tokens is not None
    left = limits.tokens - spent.total_tokens
    if samples:
        ample = sum(one.visit + one.ample_tokens * grant for one, grant in granted if grant)
        assert ample <= left
        assert max(one.most_tokens for one, grant in granted if grant) <= left
    for one, grant in granted:
        assert grant <= len(one.gains)


@slow
@given(askings(), limits, spendings)
def test_a_round_gives_something_or_ends_all(asking: list[Asking], limits: Limits, spent: Usage) -> None:
    """So rounds come to an end, whatever is asked."""
    got = share_out(asking, limits, spent)
    assert set(got) == {one.number for one in asking}
    assert any(grant for grant in got.values()) or all(grant == 0 for grant in got.values())


@slow
@given(askings(), st.integers(10_000_000, 20_000_000))
def test_every_row_is_served_first(asking: list[Asking], tokens: int) -> None:
    asking = [structs.replace(one, visit=0.0) for one in asking]
    got = share_out(asking, Limits(None, tokens), Usage())
    wanting = [one for one in asking if one.given < 2 and len(one.gains) >= 2 - one.given]
    for one in wanting:
        assert (got[one.number] or 0) + one.given >= 2
    if wanting:
        assert all(not got[one.number] for one in asking if one.given >= 2)


def row(number: int, gain: float, tokens: float, given_: int = 3) -> Asking:
    return Asking(number, given_, (gain,), 1, tokens, 2 * tokens, 1, 3 * tokens)


def test_the_largest_gain_for_its_tokens_goes_first() -> None:
    asking = [row(0, 0.10, 100), row(1, 0.10, 50), row(2, 0.15, 100), row(3, 0.0, 1)]
    got = share_out(asking, Limits(None, 2000), Usage(completion_tokens=1600))
    assert got == {0: None, 1: 1, 2: 1, 3: None}  # until a quarter of 400 tokens is given out
    calls = share_out(asking, Limits(4, None), Usage(calls=2))
    assert calls == {0: None, 1: None, 2: 1, 3: None}  # where calls count, tokens do not


def test_a_row_that_can_never_fit_is_told_so_while_others_go_on() -> None:
    asking = [row(0, 0.2, 100), row(1, 0.1, 10)]  # the first may cost 300 of the 200 that are left
    assert share_out(asking, Limits(None, 1000), Usage(completion_tokens=800)) == {0: 0, 1: 1}


def test_one_sample_each_where_the_budget_is_small() -> None:
    asking = [Asking(i, 0, (0.4, 0.1), 1, 100, 100, 1, 100) for i in range(10)]
    assert set(share_out(asking, Limits(30, None), Usage()).values()) == {1}
    assert set(share_out(asking, Limits(40, None), Usage()).values()) == {2}
    assert set(share_out(asking, Limits(None, 4000), Usage()).values()) == {2}


def paid_once(number: int, given_: int, visit: float, gains: tuple[float, ...] = (0.2, 0.1, 0.1, 0.1)) -> Asking:
    return Asking(number, given_, gains, 1, 10, 20, 1, 40 + visit, visit)


def test_where_replies_are_unknown_and_coming_back_is_dear_a_few_rows_go_first() -> None:
    asking = [paid_once(i, 0, 100) for i in range(320)]
    got = share_out(asking, Limits(None, 320 * 180), Usage())
    assert sum(grant is not None for grant in got.values()) == 32
    few = share_out(asking[:20], Limits(None, 20 * 180), Usage())
    assert [number for number, grant in few.items() if grant is not None] == [0, 4, 8, 12, 16]


def test_the_dearer_it_is_to_come_back_the_more_every_row_gets_at_once() -> None:
    def opening(visit: float) -> int | None:
        asking = [paid_once(0, 2, visit), *(paid_once(i, 0, visit, (0.1,) * 8) for i in range(1, 50))]
        return share_out(asking, Limits(None, int(50 * (visit + 80))), Usage())[1]

    assert [opening(visit) for visit in (1, 20, 100, 1000)] == [2, 4, 6, 8]  # where the even split has 8


def test_a_row_that_is_come_back_to_gets_as_many_samples_as_pay() -> None:
    asking = [paid_once(0, 4, 100), paid_once(1, 4, 0.0)]
    got = share_out(asking, Limits(None, 2000), Usage(completion_tokens=1000))
    assert got == {0: 4, 1: 4}
