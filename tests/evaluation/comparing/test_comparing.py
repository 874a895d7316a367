"""Arms on the same rows: figures as an independent count has them, draws paid once, curves and budgets as run apart."""

import asyncio
import json
import random
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from tests.batch.echo_server import echo_server
from tests.scripting import AT_ONCE, run

import shoal
from shoal.backends import BaseModel
from shoal.backends.config import Config, Endpoint
from shoal.backends.routing import Route, Routing
from shoal.backends.scripted import Script, ScriptedBackend
from shoal.errors import AuthenticationFailed, BudgetExceeded, CorruptStore, NotCached, RunError, UsageError
from shoal.evaluation.comparing import result
from shoal.evaluation.comparing.result import Arm, Comparison
from shoal.evaluation.comparing.statistics import mcnemar, wilson
from shoal.evaluation.comparing.wording import significance
from shoal.evaluation.datasets import DATASETS
from shoal.evaluation.report.numbers import tokens_per_row
from shoal.evaluation.report.verdict import verdict
from shoal.runtime.budget import Budget
from shoal.runtime.model import apply
from shoal.runtime.types import Completion, Request, Usage
from shoal.techniques.best_of_n import best_of_n
from shoal.techniques.re_reading import re_reading
from shoal.techniques.self_consistency import self_consistency

GSM8K_FILE = DATASETS["gsm8k"].path
GSM8K = "Solve it.\n\n{question}"


def model_of(script: Script, **options: Any) -> tuple[BaseModel, ScriptedBackend]:
    backend = ScriptedBackend(script, **options)
    return BaseModel(backend, retry=AT_ONCE), backend


def gold() -> dict[str, str]:
    """The question of each row of GSM8K and the number its answer ends in."""
    rows = map(json.loads, GSM8K_FILE.read_text("utf-8").splitlines())
    return {row["question"]: row["answer"].split("####")[1].strip().replace(",", "") for row in rows}


def guessing(answers: dict[str, str], share: float = 0.6) -> Script:
    """Right with this share of draws, and else wrong in one of three ways; rates an answer by its last digit."""

    def script(request: Request) -> str:
        asked = next((answer for question, answer in answers.items() if question in request.text), "0")
        if "score" in request.text.lower() and "Solve it." not in request.text.split("\n")[0]:
            return f"Score: {len(request.text) % 10}"
        chance = random.Random(f"{request.text}{request.sample}")
        right = chance.random() < share
        return f"I think so.\n#### {asked if right else int(asked) + chance.randint(1, 3)}"

    return script


def arm(comparison: Comparison, name: str) -> Arm:
    return next(each for each in comparison.arms if each.name == name)


def test_accuracy_is_that_of_an_independent_count(tmp_path: Path) -> None:
    """Votes and right answers counted here, from the model's own words, with neither our scorers nor our extractor."""
    answers = gold()
    script = guessing(answers)
    model, _ = model_of(script)
    found = shoal.compare(
        "data/gsm8k",
        ["self_consistency(n=5)"],
        model=model,
        answer="answer",
        scorer="number",
        template=GSM8K,
        report_dir=tmp_path / "r",
    )
    right: dict[str, list[bool]] = {"plain": [], "self_consistency(n=5)": []}
    for question, wanted in answers.items():
        request = Request.of(GSM8K.format(question=question))
        said = [str(script(request.draw(i))).split("#### ")[1] for i in range(5)]
        votes = Counter(said)
        voted = max(said, key=lambda s: (votes[s], -said.index(s)))
        right["plain"].append(str(script(request)).split("#### ")[1] == wanted)
        right["self_consistency(n=5)"].append(voted == wanted)
    for name, marks in right.items():
        its = arm(found, name)
        assert its.value == pytest.approx(sum(marks) / 100)
        assert its.interval == wilson(sum(marks) / 100, 100)
        assert (its.rows, its.failed) == (100, 0)
    (difference,) = found.differences
    wins = sum(b and not a for a, b in zip(*right.values(), strict=True))
    losses = sum(a and not b for a, b in zip(*right.values(), strict=True))
    assert (difference.a, difference.b, difference.wins, difference.losses) == (
        "plain",
        found.arms[1].name,
        wins,
        losses,
    )
    assert difference.p == difference.adjusted == mcnemar(wins, losses)
    assert wins > losses
    assert result.decode((tmp_path / "r" / "comparison.json").read_bytes()) == found


def test_a_pool_is_paid_once_and_each_arm_is_told_what_it_costs_alone(tmp_path: Path) -> None:
    answers = dict(list(gold().items())[:10])
    rows = [{"question": question, "answer": answer} for question, answer in answers.items()]
    model, backend = model_of(guessing(answers))
    techniques = ["self_consistency(n=4)", "self_consistency(n=16)", "self_consistency(n=8)", "best_of_n(n=4)"]
    found = shoal.compare(rows, techniques, model=model, answer="answer", template=GSM8K, report_dir=tmp_path / "r")
    asked = Counter(request for request in backend.requests)
    assert set(asked.values()) == {1}
    samples = Counter(request.sample for request in asked if request.text.startswith("Solve it."))
    assert samples == {(): 10, **{(i,): 10 for i in range(16)}}
    calls = {each.name: each.calls for each in found.arms}
    assert calls["plain"] == 10
    assert [calls[f"self_consistency(n={n})"] for n in (4, 16, 8)] == [40, 160, 80]
    for technique, n in ((best_of_n, 4), (self_consistency, 16)):
        alone, _ = model_of(guessing(answers))
        done = [run(apply(technique, alone, n=n)(Request.of(GSM8K.format(**row)))).usage for row in rows]
        its = arm(found, f"{technique.__name__}(n={n})")
        assert its.calls == sum(usage.calls for usage in done)
        assert its.prompt_tokens == sum(usage.prompt_tokens for usage in done)
        assert its.completion_tokens == sum(usage.completion_tokens for usage in done)
    paid = sum(each.paid_tokens for each in found.arms)
    words = sum(len(r.text.split()) + len(str(guessing(answers)(r)).split()) for r in asked)
    assert paid == words
    assert any("paid for all arms together" in note for note in found.notes)
    again, unasked = model_of(guessing(answers))
    more = ["best_of_n(n=4)", "self_consistency(n=12)"]
    repeated = shoal.compare(rows, more, model=again, answer="answer", template=GSM8K, report_dir=tmp_path / "r")
    assert unasked.requests == []
    assert arm(repeated, "best_of_n(n=4)").value == arm(found, "best_of_n(n=4)").value
    assert arm(repeated, "self_consistency(n=12)").calls == 120
    assert arm(repeated, "self_consistency(n=12)").paid_tokens == 0


@pytest.mark.parametrize("technique", ["self_consistency", "best_of_n"])
def test_a_curve_is_what_each_size_gives_when_run_by_itself(tmp_path: Path, technique: str) -> None:
    answers = dict(list(gold().items())[:12])
    rows = [{"question": question, "answer": answer} for question, answer in answers.items()]
    model, backend = model_of(guessing(answers))
    function = {"self_consistency": self_consistency, "best_of_n": best_of_n}[technique]
    found = shoal.compare(rows, [f"{technique}(n=1..8)"], model=model, answer="answer", template=GSM8K, plain=False)
    asked = len(backend.requests)
    curve = arm(found, f"{technique}(n=8)").curve
    assert [point.n for point in curve] == [1, 2, 4, 8]
    for point in curve:
        scores, tokens = [], 0
        for row in rows:
            for piece in range(8 // point.n):
                shifted = model_of(lambda r, at=piece * point.n: guessing(answers)(moved(r, at)))[0]  # type: ignore[misc]
                done = run(apply(function, shifted, n=point.n)(Request.of(GSM8K.format(**row))))
                scores.append(re.findall(r"#### (\d+)", done.text)[-1] == row["answer"])
                tokens += done.usage.total_tokens
        assert point.value == pytest.approx(sum(scores) / len(scores)), point.n
        assert point.tokens == pytest.approx(tokens / len(scores))
    assert len(backend.requests) == asked == len(set(backend.requests))
    assert curve[-1].value == arm(found, f"{technique}(n=8)").value
    assert curve[0].interval.high - curve[0].interval.low < 0.6


def moved(request: Request, at: int) -> Request:
    """The draw so much further on, of the question itself."""
    if not request.text.startswith("Solve it.") or not request.sample:
        return request
    return Request(request.messages, params=request.params, sample=(request.sample[0] + at,))


def test_a_technique_that_asks_otherwise_at_smaller_sizes_has_no_curve_and_is_told(tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "answer": "4"}]
    model, backend = model_of(lambda r: f"Best: {r.sample[-1] + 1 if r.sample else 1} so #### {(r.sample or (0,))[-1]}")
    found = shoal.compare(rows, ["best_of_n(n=1..8, judging=select)"], model=model, answer="answer")
    shown = found.arms[1]
    assert shown.name == "best_of_n(n=8, judging=select)"
    assert 2 not in [point.n for point in shown.curve]
    assert any("no point at n=" in note for note in found.notes)
    assert len(backend.requests) == 1 + 8 + 3


def test_an_equal_budget_takes_the_largest_size_within_it(tmp_path: Path) -> None:
    """Every draw costs 10 tokens, and a judge's verdict 30: what fits can be counted by hand."""

    def script(request: Request) -> Completion:
        judged = "rate" in request.text.lower() or "score" in request.text.lower()
        spent = Usage(prompt_tokens=20 if judged else 4, completion_tokens=10 if judged else 6, calls=1)
        text = "Score: 7" if judged else f"answer {request.sample} #### {(request.sample or (0,))[-1]}"
        return Completion(text, usage=spent)

    rows = [{"prompt": f"Q{i}", "answer": "0"} for i in range(30)]
    techniques = ["self_consistency", "best_of_n(n=64)", "two_turn", "critique"]
    model, backend = model_of(script)
    options: Any = {"answer": "answer", "equal_budget": "tokens=125", "report_dir": tmp_path / "r", "pilot": 4}
    found = shoal.compare(rows, techniques, model=model, **options)
    names = [each.name for each in found.arms]
    assert names[:3] == ["plain", "self_consistency(n=12)", "best_of_n(n=3)"]
    assert names[3] == "two_turn"
    assert found.budget == "125 tokens a row"
    assert any(note.startswith("self_consistency(n=12): 120 tokens a row, within") for note in found.notes)
    assert any(note.startswith("best_of_n(n=3): 120 tokens a row, within") for note in found.notes)
    assert any("one size only" in note and note.startswith("plain") for note in found.notes)
    pilots = {request for request in backend.requests if request.sample and request.sample[-1] >= 12}
    assert len({request.text for request in pilots}) <= 4  # only on the pilot rows was more asked than was chosen
    asked = len(backend.requests)
    again = shoal.compare(rows, techniques, model=model, **options)
    assert len(backend.requests) == asked
    assert [each.name for each in again.arms] == names


def test_a_curve_goes_as_far_as_the_budget_does() -> None:
    model, _ = model_of(lambda r: Completion(f"#### {r.sample}", usage=Usage(1, 1, 1)))
    options: Any = {"answer": "answer", "plain": False, "equal_budget": "calls=11"}
    found = shoal.compare([{"prompt": "Q", "answer": "0"}], ["self_consistency(n=2..4)"], model=model, **options)
    assert [point.n for point in found.arms[0].curve] == [2, 4, 8, 11]


def test_techniques_that_a_budget_makes_alike_are_compared_once() -> None:
    model, _ = model_of(lambda r: Completion(f"#### {r.sample}", usage=Usage(1, 1, 1)))
    techniques = ["self_consistency(n=8)", "re_reading", "self_consistency(n=4)"]
    options: Any = {"answer": "answer", "equal_budget": "calls=6"}
    found = shoal.compare([{"prompt": "Q", "answer": "0"}], techniques, model=model, **options)
    assert [each.name for each in found.arms] == ["plain", "self_consistency(n=6)", "re_reading"]
    assert "self_consistency(n=4) comes to self_consistency(n=6) as well: compared once" in found.notes


def test_calls_and_dollars_are_budgets_too() -> None:
    rows = [{"prompt": "Q", "answer": "0"}]
    model, _ = model_of(lambda r: Completion(f"#### {r.sample}", usage=Usage(1, 1, 1)), name="m")
    calls = shoal.compare(rows, ["self_consistency"], model=model, answer="answer", equal_budget="calls=7")
    assert calls.arms[1].name == "self_consistency(n=7)"
    config = Config(prices={"m": {"input": 1e6, "output": 3e6}})
    options: Any = {"answer": "answer", "equal_budget": "dollars=13", "config": config}
    dollars = shoal.compare(rows, ["self_consistency"], model=model, **options)
    assert dollars.arms[1].name == "self_consistency(n=3)"
    assert dollars.arms[1].dollars == pytest.approx(12.0)
    options = {"answer": "answer", "equal_budget": "dollars=1"}
    with pytest.raises(UsageError, match="needs a model that costs some"):
        shoal.compare(rows, [], model=model, config=Config(), **options)
    unpriced = Config(endpoints={"lab": Endpoint("http://127.0.0.1:9/v1")})
    with pytest.raises(UsageError, match="needs prices: lab/m: price unknown"):
        shoal.compare(rows, [], model="lab/m", config=unpriced, **options)
    assert calls.arms[1].dollars == 0.0  # what runs here costs nothing


def test_failed_rows_are_wrong_and_rows_without_a_target_are_left_out() -> None:
    def script(request: Request) -> str:
        if request.text == "b" and not request.sample:
            raise AuthenticationFailed("no", endpoint="m")
        return "x"

    rows = [{"prompt": p, "answer": a} for p, a in (("a", "x"), ("b", "x"), ("c", None), ("d", "x"), ("e", " "))]
    model, backend = model_of(script)
    found = shoal.compare(rows, ["self_consistency(n=2)"], model=model, answer="answer")
    assert found.rows == 3
    assert (arm(found, "plain").failed, arm(found, "plain").value) == (1, pytest.approx(2 / 3))
    assert arm(found, "self_consistency(n=2)").value == 1.0
    assert {request.text for request in backend.requests} == {"a", "b", "d"}
    assert any("plain: 1 row failed and count as wrong (1 AuthenticationFailed)" in note for note in found.notes)
    assert any("2 rows without a target" in note for note in found.notes)
    assert found.example["prompt"] == "b"
    assert found.example["answers"]["self_consistency(n=2)"] == {"answer": "x", "score": 1.0}


async def broken(model: object, request: Request) -> Completion:
    raise NotCached("this arm cannot go on")


def test_an_arm_that_cannot_go_on_does_not_end_the_others() -> None:
    rows = [{"prompt": "a", "answer": "x"}] * 3
    found = shoal.compare(rows, [broken, "self_consistency(n=2)"], model=model_of(lambda _: "x")[0], answer="answer")
    assert [each.name for each in found.arms] == ["plain", "self_consistency(n=2)"]
    assert "broken is left out: this arm cannot go on" in found.notes
    with pytest.raises(NotCached, match="cannot go on"):
        shoal.compare(rows, [broken], model=model_of(lambda _: "x")[0], answer="answer", plain=False)


def test_a_figure_of_the_whole_is_that_of_an_independent_count() -> None:
    """F1 of answers, counted here; an answer that failed says no."""

    def script(request: Request) -> str:
        number = int(request.text)
        if number == 3:
            raise AuthenticationFailed("no", endpoint="m")
        return "yes" if (number * 7) % 5 < 2 + bool(request.sample) else "no"

    rows = [{"prompt": str(i), "answer": "yes" if i % 3 == 0 else "no"} for i in range(60)]
    model, _ = model_of(script)
    found = shoal.compare(rows, ["self_consistency(n=1)"], model=model, answer="answer", scorer="f_beta(beta=1)")
    for its, more in zip(found.arms, (0, 1), strict=True):
        said = [i != 3 and (i * 7) % 5 < 2 + more for i in range(60)]
        true = [i % 3 == 0 for i in range(60)]
        hits = sum(s and t for s, t in zip(said, true, strict=True))
        assert its.value == pytest.approx(2 * hits / (sum(said) + sum(true)))
        assert its.interval.low < its.value < its.interval.high
    (difference,) = found.differences
    assert difference.value == pytest.approx(found.arms[1].value - found.arms[0].value)
    assert difference.interval.low < difference.value < difference.interval.high
    assert 0 < difference.p <= 1


def test_what_a_judge_asks_is_kept_and_is_no_part_of_what_an_arm_cost(tmp_path: Path) -> None:
    """A judge of answers whose verdict on one row cannot be read: that row is left out for every arm."""
    (tmp_path / "judge.py").write_text(JUDGE)
    rows = [{"prompt": f"row {i}"} for i in range(4)]
    options: Any = {"scorer": f"judge(model=scripted/{tmp_path}/judge.py:verdict)", "report_dir": tmp_path / "r"}
    model, _ = model_of(lambda request: f"{request.text} {'good' if request.sample else 'bad'}")
    found = shoal.compare(rows, ["self_consistency(n=2)"], model=model, **options)
    assert found.rows == 3
    assert [each.value for each in found.arms] == pytest.approx([0.2, 0.9])
    assert [each.calls for each in found.arms] == [4, 8]
    assert [tokens_per_row(each) for each in found.arms] == [5, 10]  # of all rows, as the calls
    both = shoal.compare(rows, ["self_consistency(n=2)", "self_consistency(n=3)"], model=model, **options)
    paid = next(note for note in both.notes if "tokens paid" in note)
    assert paid == "80 tokens paid for all arms together; each alone: 120"  # nothing of the judge's
    assert any("1 row left out: the scorer came to no score" in note for note in found.notes)
    asked = (tmp_path / "judged").read_text().splitlines()
    again = shoal.compare(rows, ["self_consistency(n=1..2)"], model=model, replay=True, **options)
    assert (tmp_path / "judged").read_text().splitlines() == asked
    assert [point.value for point in again.arms[1].curve] == pytest.approx([0.9, 0.9])


JUDGE = """
from pathlib import Path

def verdict(request):
    with (Path(__file__).parent / "judged").open("a") as file:
        print(len(request.messages), file=file)
    if "row 2" in request.text or len(request.messages) > 1:
        return "I cannot say."
    return "Score: 9" if "good" in request.text else "Score: 2"
"""


def test_draws_of_one_question_travel_together_and_requests_are_told(tmp_path: Path) -> None:
    with echo_server() as server:
        config = Config(endpoints={"lab": Endpoint(server.base_url)})
        rows = [{"prompt": f"Q{i}", "answer": f"Q{i}#0"} for i in range(5)]
        techniques = ["self_consistency(n=8)", "self_consistency(n=4)"]
        found = shoal.compare(rows, techniques, model="lab/m", answer="answer", config=config)
        assert len(server.bodies) <= 15  # of 45 draws: those that are ready at once travel together
        assert sum(body.get("n", 1) for body in server.bodies) == 5 * (1 + 8)
    requests = [each.wire_requests or 0 for each in found.arms]
    assert requests[0] == 5
    assert 5 <= requests[2] <= requests[1] <= 10
    assert [each.calls for each in found.arms] == [5, 40, 20]
    assert len({each.prompt_tokens for each in found.arms}) == 1  # alone, each has its prompts carried once
    assert any("tokens are estimated" in note for note in found.notes)


async def answerless(model: object, request: Request) -> Completion:
    raise AuthenticationFailed("the key is refused", endpoint="m")


def test_what_answers_nothing_is_not_cheap() -> None:
    """An arm of which every row failed spent nothing: it is on no frontier, and no other is measured by its price."""
    rows = [{"prompt": f"Q{i}", "answer": "x"} for i in range(4)]
    model, _ = model_of(lambda _: "x")
    found = shoal.compare(rows, [answerless, "self_consistency(n=3)"], model=model, answer="answer")
    assert [each.frontier for each in found.arms] == [True, False, False]
    assert not any("answerless" in sentence for sentence in verdict(found))
    assert any("4 AuthenticationFailed): " in note and "the key is refused" in note for note in found.notes)
    nothing = shoal.compare(rows, [answerless], model=model, answer="answer", plain=False)
    assert verdict(nothing) == [significance(nothing)] == ["Every row failed, so that nothing was measured."]


def test_a_curve_over_rows_that_failed_says_so() -> None:
    """The draw that failed is not in the pool, nor is what would have been asked after it."""

    def script(request: Request) -> str:
        if request.text == "Q1" and request.sample == (3,):
            raise AuthenticationFailed("no", endpoint="m")
        return "x"

    rows = [{"prompt": f"Q{i}", "answer": "x"} for i in range(4)]
    found = shoal.compare(rows, ["self_consistency(n=1..4)"], model=model_of(script)[0], answer="answer", plain=False)
    assert [point.value for point in found.arms[0].curve] == [0.75] * 3
    assert any("count as wrong at its smaller sizes, too" in note for note in found.notes)


def test_techniques_times_models_and_the_frontier() -> None:
    good, _ = model_of(lambda r: "x", name="good")
    bad, _ = model_of(lambda r: "y z", name="bad")
    rows = [{"prompt": f"Q{i}", "answer": "x"} for i in range(4)]
    found = shoal.compare(rows, ["self_consistency(n=3)"], model=[good, bad], answer="answer")
    assert [(each.name, each.value, each.frontier) for each in found.arms] == [
        ("plain@good", 1.0, True),
        ("self_consistency(n=3)@good", 1.0, False),
        ("plain@bad", 0.0, False),
        ("self_consistency(n=3)@bad", 0.0, False),
    ]
    assert len(found.differences) == 6
    assert [each.adjusted is None for each in found.differences] == [False] * 3 + [True] * 3
    assert found.model == "good, bad"


def test_a_spent_budget_stops_it_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{i}", "answer": "x"} for i in range(10)]
    model, backend = model_of(lambda _: "x")
    options: Any = {"answer": "answer", "report_dir": tmp_path / "r"}
    with pytest.raises(BudgetExceeded, match="25 calls is spent"):
        shoal.compare(rows, ["self_consistency(n=4)"], model=model, budget=Budget(calls=25), **options)
    assert len(backend.requests) == 25
    assert not (tmp_path / "r" / "comparison.json").exists()
    found = shoal.compare(rows, ["self_consistency(n=4)"], model=model, **options)
    assert len(backend.requests) == 50
    assert len(found.arms) == 2
    replayed, unasked = model_of(lambda _: "x")
    shoal.compare(rows, ["self_consistency(n=3)"], model=replayed, replay=True, **options)
    assert unasked.requests == []
    lacking = shoal.compare(rows, ["self_consistency(n=5)"], model=replayed, replay=True, **options)
    assert [each.name for each in lacking.arms] == ["plain"]
    assert any("self_consistency(n=5) is left out: not in the cache" in note for note in lacking.notes)


def test_seconds_are_those_of_a_row_alone_whoever_paid_for_its_draws(tmp_path: Path) -> None:
    """One draw after another counts as long as each took, and waiting for a turn does not count."""

    async def slow(request: Request) -> str:
        await asyncio.sleep(0.05)
        return "x"

    rows = [{"prompt": "Q", "answer": "x"}]
    options: Any = {"answer": "answer", "report_dir": tmp_path / "r", "model": model_of(slow)[0]}
    shoal.compare(rows, ["self_consistency(n=4)"], **options)
    found = shoal.compare(rows, ["self_consistency(n=4)", "self_consistency(n=3)", "critique(rounds=1)"], **options)
    for name, calls in (("plain", 1), ("self_consistency(n=4)", 1), ("self_consistency(n=3)", 1)):
        seconds = arm(found, name).seconds
        assert seconds is not None, name
        assert 0.05 * calls <= seconds < 0.05 * (calls + 1), name
    assert 0.15 <= (arm(found, "critique(rounds=1)").seconds or 0) < 0.3


def test_waiting_for_a_turn_takes_no_time() -> None:
    """20 rows, one at a time: each takes as long as one."""

    async def slow(request: Request) -> str:
        await asyncio.sleep(0.02)
        return "x"

    model, backend = model_of(slow)
    backend.capabilities = structs.replace(backend.capabilities, max_in_flight=1)
    rows = [{"prompt": f"Q{i}", "answer": "x"} for i in range(20)]
    found = shoal.compare(rows, [], model=model, answer="answer")
    assert 0.02 <= (found.arms[0].seconds or 0) < 0.06


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"techniques": ["self_consistancy"]}, "unknown technique"),
        ({"techniques": ["self_consistency(k=1..4)"]}, "no option 'k'"),
        ({"techniques": ["self_consistency(ahead=1..4)"]}, "a range is for the option"),
        ({"techniques": ["re_reading(x=1..4)"]}, "has no option"),
        ({"techniques": ["self_consistency(n=4..2)"]}, "expected one range, upwards"),
        ({"techniques": ["two_turn", "two_turn"]}, "two_turn is given twice"),
        ({"techniques": [], "plain": False}, "nothing to compare"),
        ({"model": []}, "at least one model"),
        ({"scorer": "exakt"}, "unknown scorer 'exakt'"),
        ({"answer": "anser"}, "answer= names column 'anser'; rows has none: did you mean answer?"),
        ({"template": "{promt}"}, "template names column 'promt'"),
        ({"equal_budget": "token=3"}, "did you mean tokens?"),
        ({"equal_budget": "tokens=-3"}, "a finite number above 0"),
        ({"equal_budget": "tokens=many"}, "is not a number"),
        ({"titel": "x"}, "compare takes no 'titel'; did you mean title?"),
        ({"model": "nowhere/m"}, "nowhere"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_asked(change: dict[str, Any], said: str) -> None:
    model, backend = model_of(lambda _: "x")
    options: Any = {"techniques": ["two_turn"], "model": model, "answer": "answer"} | change
    with pytest.raises(UsageError, match=re.escape(said)):
        shoal.compare([{"prompt": "Q", "answer": "x"}], options.pop("techniques"), **options)
    assert backend.requests == []


def test_rows_without_any_target_and_a_directory_of_other_rows_are_refused(tmp_path: Path) -> None:
    model, _ = model_of(lambda _: "x")
    with pytest.raises(UsageError, match="no row has a target"):
        shoal.compare([{"prompt": "Q", "answer": None}], [], model=model, answer="answer")
    options: Any = {"model": model, "answer": "answer", "report_dir": tmp_path / "r"}
    shoal.compare([{"prompt": "Q", "answer": "x"}], [], **options)
    with pytest.raises(RunError, match=r"other rows.*--report-dir"):
        shoal.compare([{"prompt": "R", "answer": "x"}], [], **options)
    with pytest.raises(RunError, match="template"):
        shoal.compare([{"prompt": "Q", "answer": "x"}], [], template="{prompt}!", **options)


def test_opened_models_with_techniques_are_put_on_the_pool_too() -> None:
    """A technique on an opened model, one inside an option, and a technique function: all draws are shared."""
    base, backend = model_of(lambda r: f"x{len(r.sample)}")
    rows = [{"prompt": f"Q{i}", "answer": "x1"} for i in range(3)]
    team = apply(self_consistency, base, n=2, proposers=[base, apply(re_reading, base)])
    techniques = [partial(self_consistency, n=2, kind="text"), "self_consistency(n=2)"]
    found = shoal.compare(rows, techniques, model=[base, team], answer="answer", plain=True)
    assert len(found.arms) == 6
    assert len(backend.requests) == len(set(backend.requests))
    assert found.arms[1].value == found.arms[2].value == 1.0
    assert found.arms[1].calls == 6
    with pytest.raises(UsageError, match="expected the spec of a model, or one that open_model gave"):
        shoal.compare(rows, [], model=lambda request: base(request), answer="answer")  # type: ignore[arg-type,return-value]


def test_a_technique_that_fails_on_the_pilot_is_compared_as_it_stands() -> None:
    def script(request: Request) -> str:
        if request.sample:
            raise AuthenticationFailed("no more", endpoint="m")
        return "x"

    rows = [{"prompt": f"Q{i}", "answer": "x"} for i in range(3)]
    options: Any = {"answer": "answer", "equal_budget": "calls=4"}
    found = shoal.compare(rows, ["self_consistency(n=3)"], model=model_of(script)[0], **options)
    assert [(each.name, each.failed) for each in found.arms] == [("plain", 0), ("self_consistency(n=3)", 3)]
    assert any("is compared as it stands: it failed on the pilot rows (m: no more)" in note for note in found.notes)


def test_a_spent_budget_ends_the_pilot_and_damaged_files_are_told(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{i}", "answer": "x"} for i in range(3)]
    options: Any = {
        "answer": "answer",
        "equal_budget": "calls=9",
        "report_dir": tmp_path,
        "model": model_of(lambda _: "x")[0],
    }
    with pytest.raises(BudgetExceeded):
        shoal.compare(rows, ["self_consistency"], budget=Budget(calls=5), **options)
    (tmp_path / "sizes.json").write_text("[")
    with pytest.raises(CorruptStore, match=r"sizes.json: damaged .*; remove it to choose the sizes anew"):
        shoal.compare(rows, ["self_consistency"], **options)
    (tmp_path / "sizes.json").unlink()
    (tmp_path / "latencies.json").write_text("[")
    found = shoal.compare(rows, ["self_consistency"], **options)
    assert found.arms[1].name == "self_consistency(n=9)"


def test_a_router_s_members_are_timed() -> None:
    with echo_server() as server:
        lab, routing = Endpoint(server.base_url), Routing((Route("lab/a"), Route("lab/b")))
        config = Config(endpoints={"lab": lab}, models={"both": routing})
        rows = [{"prompt": f"Q{i}", "answer": "x"} for i in range(4)]
        found = shoal.compare(rows, [], model="both", answer="answer", config=config)
    assert (found.arms[0].seconds or 0) > 0
