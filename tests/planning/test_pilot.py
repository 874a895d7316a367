"""A pilot's rows are paid for once, and what it predicts of the others holds as often as it says."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.scripting import AT_ONCE, run

from shoal.backends import BaseModel
from shoal.backends.scripted import ScriptedBackend
from shoal.errors import ServerError, UsageError
from shoal.planning import Figure, Pilot, Plan, plan
from shoal.planning.predicting import predicted, t_quantile
from shoal.runtime.cache import DrawCache
from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Request
from shoal.techniques.bounds import bound
from shoal.techniques.spec import parse_spec

ROWS = [{"question": f"What is {i} x 7?"} for i in range(40)]


def divided(seed: int) -> Callable[[Request], str]:
    """A model that is sure of some questions and torn on others, so that votes and searches end early or late."""

    def script(request: Request) -> str:
        of_row = Random(f"{seed} {request.text[:20]}")
        doubt = of_row.choice((0.0, 0.1, 0.5, 0.9))
        chance = Random(f"{seed} {request}")
        answer = chance.randrange(50) if chance.random() < doubt else 42
        end = "" if chance.random() < doubt else f" The answer is {answer}."
        return f"Step: I think.{' and so' * chance.randrange(20)} Score: {answer % 11}.{end}"

    return script


def cached(script: Callable[[Request], Any], path: Path) -> tuple[BaseModel, ScriptedBackend]:
    backend = ScriptedBackend(script, max_n=4)
    return BaseModel(backend, cache=DrawCache(path), retry=AT_ONCE), backend


def planned(model: Model, pilot: Pilot | None, rows: list[dict[str, str]] = ROWS) -> Plan:
    return run(plan(lambda row: model(Request.of(row["question"])), rows, models=[model], pilot=pilot))


def holds(figure: Figure, value: float) -> bool:
    return figure.least <= value <= figure.most


@pytest.mark.parametrize(
    "spec", ["self_consistency(n=8,stop=settled)@base", "beam_search(depth=3,beams=1,expand=2)@base"]
)
def test_predictions_hold_as_often_as_they_say(spec: str, tmp_path: Path) -> None:
    held = {"calls": 0, "wire_requests": 0, "prompt_tokens": 0, "completion_tokens": 0}
    narrow, trials, rows = 0, 40, ROWS[:20]
    for seed in range(trials):
        base, backend = cached(divided(seed), tmp_path / f"{seed}.sqlite")
        model = parse_spec(spec, lambda _, base=base: base)  # type: ignore[misc]
        before = bound(model).calls - bound(model).fewest
        told = planned(model, Pilot(8, seed), rows)
        assert told.left == 12
        asked, sent = len(backend.requests), len(backend.batches)

        async def rest(model: Model = model) -> list[Any]:
            return [(await model(Request.of(row["question"]))).usage for row in rows]

        usages = run(rest())
        held["calls"] += holds(told.calls, len(backend.requests) - asked)
        held["wire_requests"] += holds(told.wire_requests, len(backend.batches) - sent)
        held["prompt_tokens"] += holds(told.prompt_tokens, sum(usage.prompt_tokens for usage in usages))
        held["completion_tokens"] += holds(told.completion_tokens, sum(usage.completion_tokens for usage in usages))
        narrow += told.calls.most - told.calls.least < 12 * before
        assert base.cache is not None
        base.cache.close()
    assert all(count >= 0.9 * trials for count in held.values()), held  # of 0.95, as so few trials can tell
    assert narrow == trials


@pytest.mark.parametrize(("chance", "much"), [(0.5, 16), (0.1, 16), (0.02, 64)])
@pytest.mark.parametrize("k", [4, 8, 32])
def test_intervals_cover_rare_and_dear_rows(chance: float, much: int, k: int) -> None:
    draw = Random(k)

    def rows(n: int) -> list[int]:
        return [much if draw.random() < chance else 4 for _ in range(n)]

    covered = 0
    for _ in range(1000):
        low, high = predicted(rows(k), 200, least=4, most=much)
        covered += low <= sum(rows(200)) <= high
    assert covered >= 935


def test_quantiles_are_students() -> None:
    known = {3: 3.182, 4: 2.776, 7: 2.365, 15: 2.131, 30: 2.042, 1000: 1.962}
    for freedom, quantile in known.items():
        assert t_quantile(freedom) == pytest.approx(quantile, rel=2e-3)


def test_rows_of_the_pilot_are_paid_for_once(tmp_path: Path) -> None:
    base, backend = cached(divided(1), tmp_path / "draws.sqlite")
    told = planned(base, Pilot(8))
    assert told.pilot is not None
    assert told.pilot.calls == len(backend.requests) == 8
    assert (told.rows, told.left, told.calls.least, told.calls.most) == (40, 32, 32, 32)
    assert [number // 5 for number in told.pilot.rows] == list(range(8))  # one of each part
    assert told.seconds is not None
    again = planned(base, Pilot(8))
    assert again.pilot is not None
    assert again.pilot.calls == 0
    assert len(backend.requests) == 8
    assert again.prompt_tokens == told.prompt_tokens
    assert again.seconds is None
    assert any("in the cache" in note for note in again.notes)
    other = planned(base, Pilot(8, seed=1))
    assert other.pilot is not None
    assert other.pilot.rows != told.pilot.rows
    assert planned(base, None).calls.most == 40 - len(backend.requests)


def test_a_pilot_of_all_rows_leaves_nothing(tmp_path: Path) -> None:
    base, backend = cached(divided(1), tmp_path / "draws.sqlite")
    told = planned(base, Pilot(100))
    assert (told.left, told.calls.most, told.done) == (0, 0, 0)
    assert len(backend.requests) == 40


def test_without_a_cache_the_pilot_is_paid_for_again() -> None:
    backend = ScriptedBackend(divided(1))
    told = planned(BaseModel(backend), Pilot(8))
    assert (told.left, told.calls.least) == (40, 40)
    assert any("paid for again" in note for note in told.notes)


def test_a_pilot_tells_how_often_a_program_of_ones_own_asks(tmp_path: Path) -> None:
    def script(request: Request) -> str:
        return "42" if Random(request.text).random() < 0.3 else "no"

    base, backend = cached(script, tmp_path / "draws.sqlite")

    async def until_it_knows(row: dict[str, str]) -> Completion:
        for i in range(5):
            reply = await base(Request.of(f"{row['question']} Try {i}."))
            if "42" in reply.text:
                break
        return reply

    def told(pilot: Pilot | None) -> Plan:
        return run(plan(until_it_knows, ROWS, models=[base], steady=False, pilot=pilot))

    assert told(None).calls == Figure(40, 200, "dry run")
    piloted = told(Pilot(10))
    before = len(backend.requests)
    for row in ROWS:
        run(until_it_knows(row))
    assert piloted.calls.source == "pilot"
    assert 30 < piloted.calls.least <= len(backend.requests) - before <= piloted.calls.most < 150


def test_rows_that_fail_are_said_and_a_pilot_that_fails_altogether_raises(tmp_path: Path) -> None:
    def some(request: Request) -> str:
        if request.text.startswith("What is 3"):  # 3 and 30 to 39
            raise ServerError("down", retryable=False)
        return "42"

    base, _ = cached(some, tmp_path / "some.sqlite")
    told = planned(base, Pilot(8))
    assert told.pilot is not None
    assert told.pilot.failed == sum(number in (3, *range(30, 40)) for number in told.pilot.rows) == 3
    assert any("3 rows of the pilot failed" in note for note in told.notes)

    def never(request: Request) -> str:
        raise ServerError("down", retryable=False)

    base, backend = cached(never, tmp_path / "never.sqlite")
    with pytest.raises(ServerError, match="down"):
        planned(base, Pilot(4))
    assert len(backend.requests) == 4


def test_a_pilot_is_of_some_rows() -> None:
    with pytest.raises(UsageError, match="at least 4"):
        planned(BaseModel(ScriptedBackend(divided(1))), Pilot(2))


def test_too_few_rows_that_succeed_are_too_few_to_predict_from(tmp_path: Path) -> None:
    def few(request: Request) -> str:
        if int(request.text.split()[2]) > 15:
            raise ServerError("down", retryable=False)
        return "42"

    base, _ = cached(few, tmp_path / "few.sqlite")
    with pytest.raises(UsageError, match="too few"):
        planned(base, Pilot(4))
