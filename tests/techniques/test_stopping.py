"""Each stopping rule stops where it says, and errs no more often than it may."""

import json
import random
import runpy
from fractions import Fraction
from itertools import product

import pytest

from shoal.techniques._stopping import RULES, Vote, capital, likelier


def stopped(votes: str, rule: str, n: int | None = None, confidence: float = 0.95) -> tuple[object, int]:
    """The winner and the number of samples looked at; "-" is a vote for nothing."""
    vote = Vote(n or len(votes), rule, confidence)
    vote.count([None if form == "-" else form for form in votes])
    return vote.leader, vote.samples


def winner(votes: str) -> str:
    return max(votes, key=votes.count)


@pytest.mark.parametrize("n", range(1, 6))
def test_settled_is_the_full_vote_and_stops_as_soon_as_that_is_certain(n: int) -> None:
    for votes in map("".join, product("abc", repeat=n)):
        leader, looked_at = stopped(votes, "settled")
        assert leader == winner(votes)
        for earlier in range(looked_at):
            ends = {winner(votes[:earlier] + "".join(rest)) for rest in product("abcd", repeat=n - earlier)}
            assert len(ends) > 1


def test_how_long_a_unanimous_vote_takes() -> None:
    assert [stopped("a" * 40, rule)[1] for rule in RULES] == [20, 4, 6]
    assert [stopped("a" * 40, rule, confidence=0.99)[1] for rule in RULES] == [20, 6, 9]


def test_votes_for_nothing_count_as_samples_and_not_as_votes() -> None:
    assert stopped("-" * 8, "settled") == (None, 8)
    assert stopped("--aaaa--", "settled") == ("a", 5)
    assert stopped("-" * 5 + "a" * 35, "beta") == ("a", 9)
    assert stopped("-" * 5 + "a" * 35, "martingale") == ("a", 11)


def test_the_posterior_of_two_leaders() -> None:
    """Known values of P(share > 1/2) under Beta(first + 1, second + 1)."""
    assert likelier(0, 0) == 0.5
    assert likelier(3, 0) == 0.9375
    assert likelier(2, 1) == 0.6875
    assert likelier(1, 2) == 1 - 0.6875


def test_a_test_cannot_gain_where_the_answer_is_as_likely_as_its_rival() -> None:
    """The average over all sequences of wins and losses of a fair coin is 1 at every length: a martingale."""
    for length in range(12):
        sequences = product((0, 1), repeat=length)
        ends = [Fraction(capital(sum(wins), length - sum(wins))) for wins in sequences]
        assert float(sum(ends)) / 2**length == pytest.approx(1.0)


def test_bets_are_made_before_the_sample_is_seen() -> None:
    """Votes for an answer count for it from when it leads: by hindsight seven would do here."""
    assert stopped("b" + "a" * 39, "martingale") == ("a", 8)


def test_a_new_answer_starts_with_what_was_bet_against_all_unseen_ones() -> None:
    """The four votes before it count against it, too: starting afresh it would take sixteen."""
    assert stopped("aaaab" + "a" * 35, "martingale") == ("a", 13)


@pytest.mark.parametrize("rule", RULES)
def test_hardly_more_is_asked_than_is_needed(rule: str) -> None:
    """With ahead=1 a sample is asked when agreement with the leader could not be enough without it."""
    draws = random.Random(5)
    wasted = 0
    for _ in range(200):
        votes = "".join(draws.choices("abc", (6, 2, 1), k=30))
        vote, asked = Vote(30, rule, 0.95), 0
        while (goal := vote.count(votes[vote.samples : asked])) > vote.samples:
            asked = max(asked, goal)
        assert vote.samples == stopped(votes, rule)[1]
        wasted += asked - vote.samples
    assert wasted <= (10 if rule == "martingale" else 0)


@pytest.mark.parametrize("rule", RULES)
def test_a_divided_vote_goes_on_by_several_at_once(rule: str) -> None:
    vote, asked, waves = Vote(40, rule, 0.95, ahead=10), 0, 0
    votes = "ab" * 20
    while (goal := vote.count(votes[vote.samples : asked])) > vote.samples:
        assert goal - asked >= min(10, 40 - asked) or asked == 0
        asked, waves = goal, waves + 1
    assert waves <= 5


MIXES = [(0.9, 0.1), (0.6, 0.4), (0.52, 0.48), (0.4, 0.3, 0.3), (0.25,) * 4, (0.1,) * 10]


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("weights", MIXES)
def test_a_certificate_errs_no_more_often_than_it_may(weights: tuple[float, ...], confidence: float) -> None:
    """Against the full vote of 24, and against the likeliest answer of those the samples are drawn from."""
    seeded = random.Random(7)
    answers = "abcdefghij"[: len(weights)]
    likeliest = [a for a, weight in zip(answers, weights, strict=True) if weight == max(weights)]
    trials, other, wrong = 400, 0, 0
    for _ in range(trials):
        votes = "".join(seeded.choices(answers, weights, k=24))
        leader, looked_at = stopped(votes, "martingale", confidence=confidence)
        wrong += stopped(votes, "martingale", 10**6, confidence)[1] < 24 and leader not in likeliest
        assert looked_at <= 24
        other += votes.count(str(leader)) < votes.count(winner(votes))
    assert max(other, wrong) <= (1 - confidence) * trials


def test_the_posterior_looked_at_after_every_sample_errs_more_often_than_the_certificate() -> None:
    """Between two nearly equal answers, where a rule that is not valid at every time is fooled."""
    seeded = random.Random(11)
    wrong = {"beta": 0, "martingale": 0}
    for _ in range(150):
        votes = "".join(seeded.choices("ab", (0.505, 0.495), k=300))
        for rule in wrong:
            leader, looked_at = stopped(votes, rule, n=100_000)
            wrong[rule] += looked_at < 300 and leader == "b"
    assert wrong["martingale"] <= 0.05 * 150
    assert wrong["beta"] > 0.15 * 150


def test_the_benchmark_gives_a_row_for_each_rule_and_mix(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["adaptive", "40"])
    runpy.run_module("benchmarks.adaptive", run_name="__main__")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == len(RULES) * 5
    for row in rows:
        low, high = row["other_answer_95"]
        assert low <= row["other_answer"] <= high
        assert 1 <= row["samples"] <= row["asked"] <= 40
        if row["rule"] != "beta":
            assert row["other_answer"] <= (0 if row["rule"] == "settled" else 0.05)


@pytest.mark.parametrize("rule", RULES)
def test_a_divided_vote_of_a_thousand_samples_comes_to_an_end(rule: str) -> None:
    """Looked at after each sample, as replies come one by one."""
    vote, forms = Vote(1000, rule, 0.9999, ahead=4), ["a", "b"] * 500
    for seen in range(1000):
        if vote.count(forms[vote.samples : seen]) <= seen:
            break
    assert vote.samples == 999
