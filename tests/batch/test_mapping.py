"""`shoal.map` from a script, inside a running loop, and with a run directory that it resumes."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.scripting import scripted

import shoal
from shoal.backends.prices import Price
from shoal.errors import RunError, UsageError
from shoal.runtime.budget import Budget
from shoal.runtime.model import apply
from shoal.runtime.types import Completion, Request, Usage, sampling_params
from shoal.techniques.self_consistency import self_consistency


def test_map_texts() -> None:
    model, backend = scripted(lambda r: f"The answer is {r.text}.")
    records = shoal.map(model, ["1", "2", "3"], params=sampling_params(temperature=0.5))
    assert [(r.id, r.output, r.answer) for r in records] == [
        (i, f"The answer is {i + 1}.", str(i + 1)) for i in range(3)
    ]
    assert {r.params.temperature for r in backend.requests} == {0.5}


def test_map_rows_with_a_technique_and_a_score() -> None:
    Path("s.py").write_text("def f(request):\n    return 'The answer is ' + request.text[-1]\n")
    rows = [{"id": "a", "q": "is 5", "gold": "5"}, {"id": "b", "q": "is 6", "gold": "7"}]
    seen: list[int] = []
    records = shoal.map(
        "self_consistency(n=2)@scripted/s.py:f",
        rows,
        template="What {q}",
        score=lambda completion, row: float(completion.answer == row["gold"]),
        on_progress=lambda progress: seen.append(progress.finished),
    )
    assert [(r.id, r.score) for r in records] == [("a", 1.0), ("b", 0.0)]
    assert (records[0].technique, records[0].usage.calls) == ("self_consistency(n=2)", 2)
    assert seen == [1, 2]


@pytest.mark.parametrize(("returned", "score"), [(True, 1.0), (0, 0.0), (np.float32(0.5), 0.5), (np.bool_(True), 1.0)])
@pytest.mark.parametrize("waits", [False, True])
def test_a_score_may_be_a_truth_or_any_number_and_be_waited_for(returned: Any, score: float, waits: bool) -> None:
    async def later(_: Completion, __: Any) -> Any:
        return returned

    rate = later if waits else lambda completion, row: returned
    records = shoal.map(scripted(lambda r: "5")[0], ["a"], score=rate, run_dir="kept")
    assert [(r.score, type(r.score)) for r in records] == [(score, float)]
    assert shoal.map(scripted(lambda r: "5")[0], ["a"], score=rate, run_dir="kept") == records


@pytest.mark.parametrize("returned", [None, "yes", 2.0, float("nan")])
def test_what_is_no_score_is_told_of_its_item_alone(returned: Any) -> None:
    rows = [{"q": "a"}, {"q": "b"}]
    model, _ = scripted(lambda r: r.text)
    first, second = shoal.map(
        model, rows, template="{q}", score=lambda completion, row: returned if row["q"] == "a" else 1.0
    )
    assert first.error is not None
    assert first.error.message.startswith(f"map: score= returned {str(returned)!r}; expected true, false or a number")
    assert second.score == 1.0


def test_map_takes_any_async_function() -> None:
    async def model(request: Request) -> Completion:
        return Completion(request.text.upper())

    assert [record.output for record in shoal.map(model, ["a", "b"])] == ["A", "B"]


def test_map_inside_a_running_loop() -> None:
    model, _ = scripted(lambda r: r.text)

    async def notebook() -> list[str | None]:
        return [r.output for r in shoal.map(model, ["a", "b"])]

    assert asyncio.run(notebook()) == ["a", "b"]


def test_map_resumes_and_refuses_other_items(tmp_path: Path) -> None:
    model, backend = scripted(lambda r: r.text)
    shoal.map(model, ["a", "b"], run_dir=tmp_path / "run")
    assert [r.output for r in shoal.map(model, iter(["a", "b", "c"]), run_dir=tmp_path / "run")] == ["a", "b", "c"]
    assert len(backend.requests) == 3
    with pytest.raises(RunError, match="run of other rows: items has changed"):
        shoal.map(model, ["x", "b", "c"], run_dir=tmp_path / "run")


def test_map_allocates_a_budget(tmp_path: Path) -> None:
    def script(request: Request) -> str:
        return f"The answer is {request.sample[-1] % 2 if 'hard' in request.text else 7}."

    model, backend = scripted(script)
    voting = apply(self_consistency, model, n=8)
    items = [f"{kind} {i}" for i in range(5) for kind in ("easy", "hard")]
    found = shoal.map(voting, items, budget=Budget(calls=80), allocate=True, run_dir=tmp_path / "run")
    calls = {record.input["prompt"].split()[0]: record.usage.calls for record in found}
    assert calls["easy"] < 8 < calls["hard"]
    assert sum(record.usage.calls for record in found) == len(backend.requests) == 80
    with pytest.raises(RunError, match=r"allocate=\[80,null,10\], now allocate=null"):
        shoal.map(voting, items, run_dir=tmp_path / "run")
    with pytest.raises(UsageError, match="give one of tokens or calls"):
        shoal.map(voting, items, allocate=True)
    with pytest.raises(UsageError, match="is to be self_consistency"):
        shoal.map(model, items, budget=Budget(calls=80), allocate=True)


def test_run_raises_what_the_program_raises() -> None:
    async def program() -> None:
        raise KeyError("mine")

    async def notebook() -> None:
        shoal.run(program())

    with pytest.raises(KeyError):
        shoal.run(program())
    with pytest.raises(KeyError):
        asyncio.run(notebook())


def test_a_budget_of_dollars_needs_prices_and_leaves_records(at_home: Path) -> None:
    lab = shoal.open_model("lab/m", cache=False, base_url="http://127.0.0.1:9/v1")
    with pytest.raises(UsageError, match="a budget in dollars needs prices: lab/m"):
        shoal.map(lab, ["a"], budget=shoal.Budget(dollars=1))
    model, _ = scripted(lambda r: Completion("x", usage=Usage(10, 10, 1)))
    model.prices = {model.name: Price(10.0, 10.0)}
    budget = shoal.Budget(dollars=0.001)
    records = shoal.map(model, [str(i) for i in range(9)], params=sampling_params(max_tokens=20), budget=budget)
    assert [record.error.type if record.error else None for record in records] == [None] * 3 + ["BudgetExceeded"] * 6
    assert budget.spent_dollars == 0.0006
