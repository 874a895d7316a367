"""What draws cost alone does not depend on who paid for them, or on what travelled with them."""

from shoal.evaluation.comparing.accounting import Question, Tally, tallied
from shoal.runtime.types import Usage

PAID = [Usage(100, 7, 1), Usage(0, 9, 1), Usage(0, 5, 1), Usage(0, 6, 1)]  # one request of four draws


def tally(*usages: Usage) -> Tally:
    found = Tally()
    for usage in usages:
        found.add(usage)
    return found


def test_a_prompt_is_charged_once_for_draws_that_travel_together() -> None:
    question = Question("m", 100, 128)
    assert tally(*PAID).usage(question) == Usage(100, 27, 4)
    assert tally(*PAID[2:]).usage(question) == Usage(100, 11, 2)  # though another was charged for the prompt
    assert tally(*(usage.as_cached() for usage in PAID)).usage(question) == Usage(100, 27, 4)


def test_a_prompt_is_charged_for_each_request_that_is_needed_or_was_made() -> None:
    assert tally(*PAID).usage(Question("m", 100, 3)) == Usage(200, 27, 4)
    assert tally(*PAID).usage(Question("m", 100, 1)) == Usage(400, 27, 4)
    one_by_one = [Usage(100, 5, 1)] * 3
    assert tally(*one_by_one).usage(Question("m", 100, 128)) == Usage(300, 15, 3)
    cached = [usage.as_cached() for usage in one_by_one]  # how others asked for them is nothing to this one
    assert tally(*cached).usage(Question("m", 100, 128)) == Usage(100, 15, 3)


def test_usage_is_told_by_model() -> None:
    tallies = {"a": tally(*PAID), "b": tally(Usage(3, 4, 1, estimated=True)), "c": tally(Usage(1, 1, 1))}
    questions = {"a": Question("m", 100, 8), "b": Question("n", 3, 8), "c": Question("m", 1, 8)}
    assert tallied(tallies, questions) == {"m": Usage(101, 28, 5), "n": Usage(3, 4, 1, estimated=True)}
