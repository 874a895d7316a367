"""What is planned for a run of evolution holds for what a scripted one then makes."""

from pathlib import Path
from time import monotonic
from typing import Any
from zlib import crc32

import pytest
from tests.evolution.breeding import ROWS, bred, breeding, by_letters, task
from tests.scripting import run, scripted

from shoal.backends.prices import Price
from shoal.errors import RunError
from shoal.evolution import Evolution, Settings
from shoal.evolution.costs import Begun, EvolutionPlan, Ways, plan_breeding, plan_gepa
from shoal.evolution.folder import begun_in
from shoal.evolution.gepa import GepaEvolution, GepaSettings
from shoal.evolution.planning import critical_path
from shoal.evolution.task import Decoders, Task
from shoal.planning import Figure, Pilot
from shoal.runtime.budget import Budget
from shoal.runtime.model import Model, apply
from shoal.runtime.types import Request
from shoal.techniques.self_consistency import self_consistency

WARM = Decoders(
    redescriber={"max_tokens": 40},
    inducer={"max_tokens": 20, "temperature": 1.0},
    evaluator={"max_tokens": 5, "temperature": 0.5},
)
HELD_OUT = [{"question": f"And {i}?", "answer": str(i)} for i in range(6)]


def says(request: Request) -> str:
    """Whatever it is asked: a short text, by chance that depends on the question; now and then nothing."""
    number = crc32(repr((request.text, request.sample)).encode())
    return "" if number % 11 == 0 else f"{'word ' * (number % 7)}{number % 20}"


def evolution(model: Model, given: Task | None = None, **options: Any) -> Evolution:
    settings = {
        name: options.pop(name) for name in list(options) if name in Settings.__struct_fields__ and name != "task"
    }
    shrunk = {"population_size": 6, "generations": 3, "batch": 5} | settings
    return Evolution(given or task(decoders=WARM), model, Settings(**shrunk), split=False, embed=by_letters, **options)


def planned(of: Evolution, begun: Begun | None = None, ways: Ways | None = None) -> EvolutionPlan:
    return run(plan_breeding(of.run, of.model, begun, ways))


def holds(figure: Figure, number: float) -> bool:
    return figure.least <= number <= figure.most


PAPER: dict[str, Any] = {"prompts_per_unit": 2}
DAY_CARE: dict[str, Any] = {
    "prompts_per_unit": 2,
    "batch": None,
    "variants": ("CoT", "noCoT"),
    "num_eda_samples": 5,
    "num_lamarckian_reasonings": 2,
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decoders", [WARM, Decoders()], ids=["sampled", "greedy"])
@pytest.mark.parametrize(
    "options",
    [
        PAPER,
        DAY_CARE,
        {"prompts_per_unit": 1, "few_shot": 2, "population_size": 7},
        {"speculate": True, "prompts_per_unit": 2},
        {"operators": {"lineage": 1.0, "zero_order_hypermutation": 2.0}, "prompts_per_unit": 1, "generations": 5},
    ],
    ids=["paper", "day care", "few shot", "speculate", "operators"],
)
def test_the_plan_holds_for_what_the_run_makes(options: dict[str, Any], decoders: Decoders, seed: int) -> None:
    model, backend = scripted(says)
    of = evolution(model, task(decoders=decoders, held_out=HELD_OUT), seed=seed, **options)
    told = planned(of)
    assert not backend.requests
    result = run(of.execute())
    total = told.total
    assert holds(total.calls, len(backend.requests))
    assert holds(total.wire_requests, len(backend.requests))
    assert holds(total.prompt_tokens, result.usage.prompt_tokens)
    if decoders is WARM:
        mutations, held_out = told.parts["mutations"], told.parts["held-out rows"]
        if options.get("speculate"):  # nothing but chance decides, and that is the seed's
            assert mutations.least == mutations.most
        assert mutations.most - mutations.least <= 3 * of.run.settings.generations
        assert held_out.least == len(HELD_OUT)  # the seed prompt may be the best
        assert told.parts["fitness"].source == told.parts["founders"].source == "exact"


@pytest.mark.parametrize("speculate", [False, True])
@pytest.mark.parametrize("prompts", [1, 2])
def test_the_critical_path_is_the_one_planned(speculate: bool, prompts: int) -> None:
    """Calls that are alike but for their text share a wave."""
    alike = {"temperature": 1.0}
    given = task(decoders=Decoders(redescriber=alike, inducer=alike, evaluator=alike))
    operators = {"first_order_hypermutation": 1.0}
    breeds = breeding(given, speculate=speculate, prompts_per_unit=prompts, operators=operators)
    model, backend = scripted(says, waves=True)
    told = run(plan_breeding(breeds, model)).total
    bred(model, breeds)
    assert told.path.most == critical_path(breeds.settings, prompts)
    assert told.path.least <= len(backend.batches) <= told.path.most
    assert told.calls.least == told.calls.most == sum(backend.batches)


def test_two_hundred_thousand_calls_are_planned_in_seconds() -> None:
    rows = [{"question": f"Say {i}.", "answer": f"{i}"} for i in range(200)]
    model, _ = scripted(says)
    of = evolution(model, task(rows=rows, decoders=WARM), population_size=50, generations=20, batch=100)
    began = monotonic()
    told = planned(of)
    assert monotonic() - began < 30
    assert told.parts["founders"] == Figure(100, 100, "exact")
    assert told.parts["fitness"] == Figure(210_000, 210_000, "exact")
    assert told.parts["mutations"].least < 20 * 25 * (6 * 2 + 2 * 3) / 8 < told.parts["mutations"].most


def test_a_technique_as_the_model_is_counted_through() -> None:
    def program(**options: Any) -> tuple[Evolution, Any]:
        model, backend = scripted(says)
        return evolution(apply(self_consistency, model, **options)), backend

    of, backend = program(n=3)
    told = planned(of)
    run(of.execute())
    assert holds(told.total.calls, len(backend.requests))
    assert told.parts["fitness"].least == told.parts["fitness"].most
    of, backend = program(n=6, stop="settled")
    told = planned(of)
    run(of.execute())
    assert told.total.calls.least < told.total.calls.most
    assert holds(told.total.calls, len(backend.requests))


def test_a_run_that_goes_on_is_planned_from_where_it_stands(tmp_path: Path) -> None:
    model, backend = scripted(says)
    of = evolution(model, run_dir=tmp_path / "r", budget=Budget(calls=130), prompts_per_unit=2)
    run(of.execute())
    before = len(backend.requests)
    again = evolution(model, run_dir=tmp_path / "r", prompts_per_unit=2)
    begun = Begun(*begun_in(tmp_path / "r", again.identity()))
    assert begun.complete >= 1
    assert begun.draws > 0
    told = planned(again, begun)
    whole = planned(again)
    assert told.total.kept == begun.draws
    assert told.total.calls.most < whole.total.calls.most
    run(again.execute())
    assert holds(told.total.calls, len(backend.requests) - before)
    done = Begun(*begun_in(tmp_path / "r", again.identity()))
    assert planned(again, done).total.calls.most == 0
    with pytest.raises(RunError, match="few_shot"):
        begun_in(tmp_path / "r", evolution(model, prompts_per_unit=2, few_shot=1).identity())


def test_nothing_is_there_before_a_run_begins(tmp_path: Path) -> None:
    model, _ = scripted(says)
    assert begun_in(tmp_path / "r", evolution(model).identity()) == (0, 0)
    assert not (tmp_path / "r").exists()


def test_money_and_a_pilot_that_asks_the_seed_prompt() -> None:
    model, backend = scripted(says)
    of = evolution(model, prompts_per_unit=2)
    prices = {model.name: Price(1.0, 10.0)}
    dry = planned(of, ways=Ways(prices)).total
    assert dry.dollars is not None
    most = (dry.prompt_tokens.most + 10 * dry.completion_tokens.most) / 1e6
    assert dry.dollars.most == pytest.approx(most)
    told = planned(of, ways=Ways(prices, Pilot(5))).total
    assert told.pilot is not None
    assert len(backend.requests) == told.pilot.calls == 5
    assert all("Say the number." in request.text for request in backend.requests)
    assert told.completion_tokens.most < dry.completion_tokens.most
    assert told.completion_tokens.source == "pilot"
    assert told.seconds is not None
    assert told.calls.most == dry.calls.most


@pytest.mark.parametrize("parallel", [1, 3])
def test_gepa_stays_within_its_rollouts_and_reflections(parallel: int) -> None:
    model, backend = scripted(lambda request: f"```\n{says(request)} {len(request.text)}\n```")
    given = task(rows=ROWS, decoders=WARM, held_out=HELD_OUT)
    of = GepaEvolution(
        given,
        model,
        Settings(),
        GepaSettings(validation=5, parallel=parallel),
        split=False,
        embed=by_letters,
        rollouts=60,
    )
    told = run(plan_gepa(of))
    run(of.execute())
    assert holds(told.total.calls, len(backend.requests))
    assert told.parts["rollouts"].most == 60
