"""What a plan says of calls that travel by a batch API: money beside the live price, waves, time, the tail."""

from typing import Any

import pytest
from tests.scripting import run

from shoal.backends.config import Config, Endpoint, without_keys
from shoal.backends.prices import Price
from shoal.errors import UsageError
from shoal.planning import Figure, Plan, plan
from shoal.planning.waves import Travel, in_waves, window_seconds
from shoal.runtime.model import Model
from shoal.runtime.types import Request
from shoal.techniques.opening import bases, open_model

ROWS = [{"question": f"What is {i} x 7?"} for i in range(20)]
PLACES = {"lab": Endpoint("http://127.0.0.1:9/v1", max_n=1), "far": Endpoint("http://127.0.0.1:10/v1", max_n=1)}
PRICES = {"lab/m": Price(1.0, 4.0), "far/j": Price(2.0, 8.0)}


def server(spec: str) -> Model:
    return open_model(spec, cache=False, config=without_keys(Config(endpoints=PLACES)))


def of(spec: str, travel: Travel, prices: dict[str, Price] = PRICES) -> tuple[Plan, Plan]:
    """The plan of a run by batch, and of the same live."""
    model = server(spec)

    async def program(row: dict[str, Any]) -> Any:
        return await model(Request.of(row["question"], max_tokens=50))

    live = run(plan(program, ROWS, models=[model], prices=prices))
    return in_waves(live, bases(model), prices, travel), live


def dollars(figure: Figure | None) -> tuple[float, float]:
    assert figure is not None
    return figure.least, figure.most


def test_a_fixed_technique_is_one_wave_at_half_the_price() -> None:
    told, live = of("self_consistency(n=3)@lab/m", Travel({"lab/m"}))
    assert told.waves == Figure(1, 1, "exact")
    assert told.live_dollars == live.dollars
    assert dollars(told.dollars) == pytest.approx([amount / 2 for amount in dollars(live.dollars)])
    assert told.seconds == Figure(2, 86400, "assumption")
    assert (told.calls, told.prompt_tokens) == (live.calls, live.prompt_tokens)
    assert live.waves is None
    (model,) = told.models
    assert model.price is not None
    assert (model.price.most, model.price.source) == (Price(0.5, 2.0), "[prices], by batch")


def test_waves_are_the_critical_path_and_more_where_not_all_rows_may_sleep() -> None:
    told, live = of("critique(rounds=2)@lab/m", Travel({"lab/m"}))
    assert told.waves == live.path == Figure(5, 5, "exact")
    told, _ = of("critique(rounds=2)@lab/m", Travel({"lab/m"}, rows=7, window=3600.0))
    assert told.waves == Figure(15, 15, "exact")
    assert told.seconds == Figure(30, 15 * 3600, "assumption")


def test_the_tables_own_batch_price_wins() -> None:
    told, live = of("lab/m", Travel({"lab/m"}), {"lab/m": Price(1.0, 4.0, 0.1, 0.4)})
    assert dollars(told.dollars) == pytest.approx([amount / 10 for amount in dollars(live.dollars)])


def test_a_run_within_the_tail_goes_live() -> None:
    told, live = of("lab/m", Travel({"lab/m"}, tail_live=20))
    assert (told.waves, told.dollars, told.seconds) == (Figure(0, 0, "exact"), live.dollars, live.seconds)
    assert any("go live" in note for note in told.notes)


def test_small_waves_at_the_end_may_go_live() -> None:
    told, live = of("critique(rounds=2)@lab/m", Travel({"lab/m"}, tail_live=4))  # 20 of the 100 calls at the most
    least, most = dollars(told.dollars)
    assert least == pytest.approx(dollars(live.dollars)[0] / 2)
    assert most == pytest.approx(dollars(live.dollars)[1] * (0.5 + 0.5 * 0.2))
    assert any("up to 20 calls" in note for note in told.notes)
    one, _ = of("self_consistency(n=3)@lab/m", Travel({"lab/m"}, tail_live=4))  # a single wave, and larger
    assert not any("go live" in note for note in one.notes)


def test_models_elsewhere_are_asked_live() -> None:
    spec = "best_of_n(n=2,judge=far/j)@lab/m"
    told, live = of(spec, Travel({"lab/m"}))
    batch, other = sorted(told.models, key=lambda model: model.model, reverse=True)
    before, same = sorted(live.models, key=lambda model: model.model, reverse=True)
    assert other == same
    assert dollars(batch.dollars) == pytest.approx([amount / 2 for amount in dollars(before.dollars)])
    assert dollars(told.dollars)[1] <= dollars(batch.dollars)[1] + dollars(other.dollars)[1]
    assert told.seconds is not None
    assert told.seconds.most > 86400


def test_without_a_price_there_is_no_total() -> None:
    told, _ = of("lab/m", Travel({"lab/m"}), {})
    assert told.dollars is None
    assert told.live_dollars is None
    assert told.waves == Figure(1, 1, "exact")


@pytest.mark.parametrize("text", ["", "24", "0h", "h", "1w", "-1h"])
def test_a_window_is_a_number_and_a_unit(text: str) -> None:
    assert window_seconds("24h") == 86400
    assert window_seconds("90s") == 90
    with pytest.raises(UsageError, match="write 24h"):
        window_seconds(text)
