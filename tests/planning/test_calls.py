"""What is planned is what is called: exactly where the control flow is fixed, within the interval where it is not."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from tests.scripting import run, scripted

from shoal.backends import BaseModel
from shoal.backends.scripted import ScriptedBackend
from shoal.batch.directory import RunDirectory
from shoal.batch.rows import Input
from shoal.batch.runner import BatchRun, window_for
from shoal.errors import TechniqueError
from shoal.evaluation.scorers import unscored
from shoal.planning import Plan, plan
from shoal.runtime import scope
from shoal.runtime.concurrency import map_bounded
from shoal.runtime.model import Model
from shoal.runtime.types import Request
from shoal.techniques import TECHNIQUES
from shoal.techniques.bounds import bound, is_fixed
from shoal.techniques.opening import bases
from shoal.techniques.spec import parse_spec

ROWS = [{"question": f"What is {i} x 7?"} for i in range(12)]
COMBINED = [
    "two_turn@base",
    "self_consistency(n=3)@re_reading@base",
    "self_consistency(n=3)&two_turn@base",
    "self_consistency(n=3)|self_consistency(n=5)@base",
    "critique(rounds=2)@two_turn|re_reading@base",
    "mixture_of_agents(critiques=false)@(self_consistency(n=2)@re_reading)@base",
    "self_consistency(n=4,proposers=[base,other])@base",
    "mixture_of_agents(proposers=[base,other])@base",
    "best_of_n(n=3,judge=other)@base",
]
UNSURE = [
    "self_consistency(n=12,stop=settled)@base",
    "self_consistency(n=12,stop=beta,ahead=2)@base",
    "beam_search(depth=3)@base",
    "particle_filtering(particles=3,depth=3)@base",
    "best_of_n(n=3,judge=other)@self_consistency(n=6,stop=settled)@base",
    "self_consistency(n=6,stop=settled)&cot_reflection@base",
    "cot_reflection|self_consistency(n=6,stop=settled)@base",
    "self_consistency(proposers=[base,other],stop=settled,n=7)@cot_reflection@base",
    "beam_search(reward=judge)@base",
    "plan_search(judge=other)@base",
    "critique@self_consistency(n=5,stop=beta)@base",
]


def plausible(request: Request) -> str:
    listed = f"1. Look at {len(request.text)}.\n2. Think of {request.sample}."
    return f"{listed}\nScore: 5\nThe answer is {sum(request.sample) % 3}."


def opened(spec: str, script: Callable[[Request], Any], **options: Any) -> tuple[Model, dict[str, ScriptedBackend]]:
    """The model of a spec over the bases `base` and `other`, and their backends."""
    found: dict[str, tuple[BaseModel, ScriptedBackend]] = {}

    def base(name: str) -> BaseModel:
        if name not in found:
            found[name] = scripted(script, name=name, version=name, **options)
        return found[name][0]

    model = parse_spec(spec, base)
    return model, {name: backend for name, (_, backend) in found.items()}


def planned(model: Model, rows: list[dict[str, Any]] = ROWS, **options: Any) -> Plan:
    return run(plan(lambda row: model(Request.of(row["question"])), rows, models=[model], **options))


def carry_out(model: Model, rows: list[dict[str, Any]] = ROWS) -> None:
    """As a run does: rows at once, each with its age."""

    async def one(item: tuple[int, dict[str, Any]]) -> None:
        with scope.setting(scope.age, item[0]):
            await model(Request.of(item[1]["question"]))

    async def main() -> None:
        async for _ in map_bounded(one, enumerate(rows), window_for(bases(model))):
            pass

    run(main())


def fixed(spec: str) -> bool:
    return is_fixed(opened(spec, plausible)[0])


SLUGS = [f"{slug}@base" for slug in TECHNIQUES]


def test_which_techniques_are_fixed() -> None:
    # The others end early on some replies, or go on: the catalogue gives them a fewest.
    assert {spec.removesuffix("@base") for spec in SLUGS if fixed(spec)} == {
        slug for slug, entry in TECHNIQUES.items() if entry.cost().fewest == entry.cost().calls
    }
    assert [spec for spec in COMBINED if fixed(spec)] == COMBINED[:8]
    assert not any(map(fixed, UNSURE))


@pytest.mark.parametrize("options", [{"max_n": 1}, {"max_n": 3}, {"max_n": 64}, {"waves": True}], ids=str)
@pytest.mark.parametrize("spec", ["base", *filter(fixed, [*SLUGS, *COMBINED])])
def test_planned_calls_are_the_calls_where_control_flow_is_fixed(spec: str, options: dict[str, Any]) -> None:
    model, backends = opened(spec, plausible, **options)
    told = planned(model)
    assert not any(backend.requests for backend in backends.values())
    carry_out(model)
    by_name = {each.model: each for each in told.models}
    for name, backend in backends.items():
        calls, wire = by_name[name].calls, by_name[name].wire_requests
        assert (calls.least, calls.most, calls.source) == (len(backend.requests), len(backend.requests), "exact")
        assert (wire.least, wire.most, wire.source) == (len(backend.batches), len(backend.batches), "exact")
    assert told.calls.least == told.calls.most == sum(len(backend.requests) for backend in backends.values())
    if options.get("waves") and len(backends) == 1:
        assert told.path.least == told.path.most == told.steps.most == len(backends["base"].batches)


def varied(seed: int) -> Callable[[Request], str]:
    """Replies of one mind, of a few, or of none; with and without a score, an end, an answer."""

    def script(request: Request) -> str:
        chance = Random(f"{seed} {request.text} {request.sample}")
        answer = chance.randrange((1, 2, 9, 10**6)[seed % 4])
        return chance.choice(
            [
                f"Score: {answer % 11}. The answer is {answer}.",
                f"The answer is {answer}." if seed % 3 else "",
                "I go on thinking." if seed % 2 else f"1. Go.\n2. On.\nScore: 5\nFinal answer: {answer}",
            ]
        )

    return script


@pytest.mark.parametrize("spec", [*SLUGS, *COMBINED, *UNSURE])
def test_no_path_is_longer_than_planned(spec: str) -> None:
    for seed in range(4):
        model, backends = opened(spec, varied(seed), waves=True)
        told = planned(model, ROWS[:1])
        with suppress(TechniqueError):
            run(model(Request.of(ROWS[0]["question"])))
        waves = [len(backend.batches) for backend in backends.values()]
        assert told.path.least <= max(waves) <= told.path.most


@pytest.mark.parametrize("max_n", [1, 3])
@pytest.mark.parametrize("spec", ["base", *filter(fixed, COMBINED)])
def test_a_run_sends_the_requests_that_were_planned(spec: str, max_n: int, tmp_path: Path) -> None:
    model, backends = opened(spec, plausible, max_n=max_n)
    (tmp_path / "rows.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in ROWS))
    rows = Input(tmp_path / "rows.jsonl")
    told = run(plan(lambda row: model(Request.of(row["question"])), rows, models=[model]))
    with RunDirectory(tmp_path / "run", {}, rows) as place:
        batch = BatchRun(place, rows, model="m", technique=None, window=window_for(bases(model)), judge=unscored)
        run(batch.execute(lambda row: model(Request.of(row["question"]))))
        summary = batch.summary()
    assert (told.calls.least, told.calls.most) == (summary.calls, summary.calls)
    for planned_model in told.models:
        sent = len(backends[planned_model.model].batches)
        assert (planned_model.wire_requests.least, planned_model.wire_requests.most) == (sent, sent)


@pytest.mark.parametrize("spec", [*SLUGS, *COMBINED, *UNSURE])
@pytest.mark.parametrize("seed", range(6))
def test_the_interval_holds_whatever_is_replied(spec: str, seed: int) -> None:
    model, backends = opened(spec, varied(seed), max_n=4)
    told = planned(model)
    for row in ROWS:  # one at a time: a technique that finds nothing to go on with may fail its row alone
        with suppress(TechniqueError):
            run(model(Request.of(row["question"])))
    by_name = {each.model: each for each in told.models}
    for name, backend in backends.items():
        assert by_name[name].calls.least <= len(backend.requests) <= by_name[name].calls.most
        assert by_name[name].wire_requests.least <= len(backend.batches) <= by_name[name].wire_requests.most
    assert told.calls.least <= sum(len(backend.requests) for backend in backends.values()) <= told.calls.most


@pytest.mark.parametrize("spec", UNSURE)
def test_the_bound_of_one_model_is_within_that_of_all(spec: str) -> None:
    model, _ = opened(spec, plausible)
    for base in bases(model):
        assert bound(model, base).fewest <= bound(model).calls
        assert bound(model, base).calls <= bound(model).calls
