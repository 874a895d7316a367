"""What a plan says of rows, programs, tokens, time and money; bad input is one clear line."""

import math
from pathlib import Path
from typing import Any

import pytest
from tests.scripting import run, scripted

from shoal.backends import BaseModel
from shoal.backends.config import Config, Endpoint, without_keys
from shoal.backends.prices import Price
from shoal.backends.routing import routing
from shoal.errors import UsageError
from shoal.planning import Figure, Plan, plan
from shoal.planning.sharing import shared_total
from shoal.runtime.cache import DrawCache
from shoal.runtime.limits import Limits
from shoal.runtime.model import Model, apply
from shoal.runtime.types import Completion, Request
from shoal.techniques.opening import bases, open_model
from shoal.techniques.self_consistency import self_consistency

ROWS = [{"question": f"What is {i} x 7?"} for i in range(20)]


def of(model: Model, rows: list[dict[str, Any]] = ROWS, **options: Any) -> Plan:
    params = options.pop("params", {})
    return run(plan(lambda row: model(Request.of(row["question"], **params)), rows, models=[model], **options))


def server(spec: str = "lab/m", **endpoint: Any) -> Model:
    """A model on a server that is not there."""
    config = Config(endpoints={"lab": Endpoint("http://127.0.0.1:9/v1", "${NO_SUCH_KEY}", **endpoint)})
    return open_model(spec, cache=False, config=without_keys(config))


def test_an_unreachable_server_without_a_key_is_planned() -> None:
    told = of(server("self_consistency(n=3)@lab/m", max_n=1, max_in_flight=20), params={"max_tokens": 50})
    assert told.calls == told.wire_requests == Figure(60, 60, "exact")
    assert told.steps == Figure(3, 3, "exact")
    assert told.path == Figure(1, 1, "exact")
    tokens = math.ceil(3 * sum(len(row["question"]) for row in ROWS) / 4)
    assert told.prompt_tokens == Figure(tokens, tokens, "assumption")
    assert told.completion_tokens == Figure(60, 3000, "formula")
    assert told.seconds is not None
    assert 3 * 0.2 < told.seconds.least < told.seconds.most < 60
    assert told.dollars is None
    assert any("price unknown" in note for note in told.notes)


def test_a_prompt_is_paid_for_once_a_request() -> None:
    alone, fused = (of(server("self_consistency(n=8)@lab/m", max_n=n)) for n in (1, 4))
    assert alone.prompt_tokens.most == pytest.approx(4 * fused.prompt_tokens.most, abs=4)
    assert (fused.calls.most, fused.wire_requests.most) == (160, 40)


def test_rates_are_a_least_time() -> None:
    told = of(server(rpm=2.0, tpm=60.0), params={"max_tokens": 90})
    assert told.seconds is not None
    assert told.seconds.least == pytest.approx(20 / 2 * 60)
    assert told.seconds.most == pytest.approx((told.prompt_tokens.most + 1800) / 60 * 60)


def test_money_is_tokens_times_the_price() -> None:
    told = of(server(), params={"max_tokens": 100}, prices={"lab/m": Price(1.0, 10.0)})
    least, most = told.prompt_tokens.least + 10 * 20, told.prompt_tokens.most + 10 * 2000
    assert told.dollars is not None
    assert (told.dollars.least, told.dollars.most) == pytest.approx((least / 1e6, most / 1e6))
    assert told.models[0].price is not None
    assert told.models[0].price.source == "[prices]"


def test_models_that_share_calls_are_not_counted_twice() -> None:
    prices = {"lab/m": Price(1.0, 1.0), "lab/dear": Price(100.0, 100.0)}
    told = of(server("best_of_n(n=4,judge=lab/dear)@lab/m"), params={"max_tokens": 100}, prices=prices)
    assert {model.model for model in told.models} == {"lab/m", "lab/dear"}
    assert told.calls.source == "formula"
    assert told.wire_requests.most == told.calls.most < sum(model.calls.most for model in told.models)
    assert told.dollars is not None
    assert told.dollars.most < sum(model.dollars.most for model in told.models if model.dollars)


def test_shared_totals_are_the_cheapest_and_the_dearest_split() -> None:
    calls, each = Figure(5, 8, "formula"), [Figure(2, 6, "formula"), Figure(0, 4, "formula")]
    told = shared_total(calls, each, [(1.0, 2.0), (10.0, 20.0)], each)
    assert (told.least, told.most) == (5 * 1.0, 4 * 20.0 + 4 * 2.0)


def test_of_many_rows_some_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.planning.following._AFFORDABLE", 200)
    base, _ = scripted(lambda r: "x", max_n=2)
    told = of(apply(self_consistency, base, n=4), [{"question": f"{i}?"} for i in range(1000)])
    assert (told.followed, told.left) == (50, 1000)
    assert told.calls == Figure(4000, 4000, "sample")
    assert told.wire_requests == Figure(2000, 2000, "sample")
    assert any("50 rows" in note for note in told.notes)


def test_what_is_finished_or_cached_costs_nothing(tmp_path: Path) -> None:
    _, backend = scripted(lambda r: "x")
    base = BaseModel(backend, cache=DrawCache(tmp_path / "draws.sqlite"))
    for row in ROWS[:5]:
        run(base(Request.of(row["question"])))
    told = of(base, done={4, 5, 6, 7})
    assert (told.rows, told.done, told.left, told.kept) == (20, 4, 16, 4)
    assert told.calls == Figure(12, 12, "exact")
    told = of(apply(self_consistency, base, n=6, stop="settled"), done=set(range(5, 20)))
    assert told.kept == 0  # its draws have other names
    assert of(base, done=set(range(20))).calls.most == 0


def test_half_kept_votes_are_planned_from_where_they_are(tmp_path: Path) -> None:
    _, backend = scripted(lambda r: f"The answer is {sum(r.sample)}.")
    base = BaseModel(backend, cache=DrawCache(tmp_path / "draws.sqlite"))
    rows = ROWS[:3]
    ask = Request.of(rows[0]["question"])
    for i in range(4):
        run(base(ask.draw(i)))
    model = apply(self_consistency, base, n=6, stop="settled")
    told = of(model, rows)
    before = len(backend.requests)
    for row in rows:
        run(model(Request.of(row["question"])))
    assert told.kept == 4
    assert told.calls.least <= len(backend.requests) - before <= told.calls.most < 18


def test_equal_rows_are_asked_once() -> None:
    base, _ = scripted(lambda r: "x")
    told = of(apply(self_consistency, base, n=4, stop="settled"), ROWS[:3] * 4)
    assert 3 <= told.calls.least <= told.calls.most == 12


def test_a_program_of_ones_own_is_told_as_it_went() -> None:
    base, backend = scripted(lambda r: "x")

    async def program(row: dict[str, Any]) -> Completion:
        first = await base(Request.of(row["question"]))
        for i in range(3):
            if "42" in first.text:
                break
            first = await base(Request.of(f"{row['question']} Try {i}: {first.text}"))
        return first

    told = run(plan(program, ROWS, models=[base], steady=False))
    assert told.calls == Figure(20, 80, "dry run")
    assert told.path.most == 4
    assert any("a pilot tells more" in note for note in told.notes)
    assert not backend.requests


def test_a_technique_of_ones_own_has_no_formula() -> None:
    async def mine(model: Model, request: Request) -> Completion:
        first = await model(request)
        return first if "42" in first.text else await model(request.draw(1))

    base, _ = scripted(lambda r: "x")
    assert of(apply(mine, base)).calls == Figure(20, 40, "dry run")


def test_rows_that_trip_over_stand_in_replies_are_said() -> None:
    base, _ = scripted(lambda r: "x")

    async def program(row: dict[str, Any]) -> Completion:
        reply = await base(Request.of(row["question"]))
        if "1" in row["question"]:
            int(reply.text)
        return reply

    told = run(plan(program, ROWS, models=[base]))
    assert told.calls.most == 20
    assert any(note.startswith("11 rows could not be followed") and "ValueError" in note for note in told.notes)


@pytest.mark.parametrize("again", [True, False])
def test_a_program_that_waits_for_a_reply_comes_to_an_end(again: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.planning.dry_run._LONGEST_PATH", 20)
    monkeypatch.setattr("shoal.planning.dry_run._MOST_CALLS", 100)
    base, _ = scripted(lambda r: "x")

    async def program(row: dict[str, Any]) -> Completion:
        tries = 0
        while (reply := await base(Request.of(row["question"]).draw(0 if again else tries))).text != "never":
            tries += 1
        return reply

    told = run(plan(program, ROWS, models=[base], steady=False))
    assert any("no end to its calls" in note for note in told.notes)


def test_a_program_that_asks_nothing_costs_nothing() -> None:
    async def program(row: dict[str, Any]) -> Completion:
        return Completion(row["question"])

    told = run(plan(program, ROWS, steady=False))
    assert (told.calls.most, told.tokens.most, told.steps.most, told.models) == (0, 0, 0, ())
    assert told.dollars == Figure(0, 0, "exact")


def test_a_name_for_several_models_is_one_model() -> None:
    places = {name: Endpoint(f"http://127.0.0.1:{port}/v1", max_in_flight=5) for name, port in (("a", 9), ("b", 10))}
    both = {"both": routing("both", {"endpoints": ["a/m", "b/m"]}, "[models.both]")}
    model = open_model("self_consistency(n=3)@both", cache=False, config=Config(endpoints=places, models=both))
    told = of(model, prices={"a/m": Price(1.0, 1.0), "b/m": Price(2.0, 2.0)}, params={"max_tokens": 10})
    assert told.calls == Figure(60, 60, "exact")
    assert told.wire_requests == Figure(20, 20, "exact")
    assert told.steps == Figure(2, 2, "exact")
    assert told.dollars is not None
    assert told.dollars.most == pytest.approx(2 * (told.prompt_tokens.most + 600) / 1e6)


def test_a_backend_that_nobody_knows_has_no_price_and_no_tokenizer() -> None:
    _, backend = scripted(lambda r: "x")

    class Elsewhere:
        identity, name, capabilities = "elsewhere", "elsewhere", backend.capabilities

    told = of(BaseModel(Elsewhere()))  # type: ignore[arg-type]
    assert told.dollars is None
    assert not told.models[0].tokenizer
    assert told.seconds is not None


def test_what_every_row_would_fail_with_is_raised() -> None:
    base, _ = scripted(lambda r: "x")
    with pytest.raises(UsageError, match="n=-1"):
        of(apply(self_consistency, base, n=-1))


def test_the_tokens_of_a_model_in_this_process_are_counted() -> None:
    base, backend = scripted(lambda r: "x")
    told = of(base)
    assert told.prompt_tokens == Figure(100, 100, "exact")  # words, to a scripted model
    assert told.models[0].tokenizer
    assert told.dollars == Figure(0, 0, "exact")
    assert not backend.requests


def test_tokens_of_the_embedded_model_are_those_it_counts() -> None:
    model = open_model("local", cache=False)
    base = next(bases(model))
    rows = ROWS[:4]

    async def main() -> tuple[Plan, int]:
        try:
            told = await plan(lambda row: model(Request.of(row["question"])), rows, models=[model])
            return told, sum([await base.count_tokens(row["question"]) for row in rows])
        finally:
            await base.aclose()

    told, counted = run(main())
    assert told.prompt_tokens == Figure(counted, counted, "exact")


def test_greedy_draws_of_the_embedded_model_are_one() -> None:
    model = open_model("self_consistency(n=3)@local", cache=False)
    rows, params = ROWS[:2], {"temperature": 0.0, "max_tokens": 4}

    async def main() -> tuple[Plan, list[Completion]]:
        try:
            program = lambda row: model(Request.of(row["question"], **params))  # noqa: E731
            return await plan(program, rows, models=[model]), [await program(row) for row in rows]
        finally:
            for base in bases(model):
                await base.aclose()

    told, replies = run(main())
    calls = sum(reply.usage.calls for reply in replies)
    tokens = sum(reply.usage.prompt_tokens for reply in replies)
    assert told.calls == Figure(calls, calls, "exact")
    assert told.prompt_tokens == Figure(tokens, tokens, "exact")
    assert told.completion_tokens.most >= sum(reply.usage.completion_tokens for reply in replies)


def test_limits_of_the_scheduler_set_the_steps() -> None:
    _, backend = scripted(lambda r: "x")
    model = BaseModel(backend, limits=Limits(max_in_flight=6))
    assert of(apply(self_consistency, model, n=3)).steps == Figure(10, 10, "exact")
