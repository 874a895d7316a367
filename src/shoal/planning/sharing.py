"""Totals over several models where replies decide which of them is asked: what all calls come to at the worst."""

from collections.abc import Sequence

from msgspec import Struct

from shoal.planning.figures import Figure, ModelPlan, least_sure


class Rates(Struct, frozen=True):
    """Tokens of one call of a model, at the least and at the most."""

    prompt: tuple[float, float] = (0.0, 0.0)
    completion: tuple[float, float] = (0.0, 0.0)


def shared_total(
    calls: Figure, each: Sequence[Figure], rates: Sequence[tuple[float, float]], sources: Sequence[Figure]
) -> Figure:
    """What `calls` come to that several models share: each between its own bounds, at its own rate a call.

    The sum of the models' figures would count a call for each model that may get it.
    """
    certain = sum(figure.least for figure in each)
    ranges = [figure.most - figure.least for figure in each]
    cheap, dear = [low for low, _ in rates], [high for _, high in rates]
    least = _of_certain(each, cheap) + _poured(calls.least - certain, ranges, cheap, dearest=False)
    most = _of_certain(each, dear) + _poured(calls.most - certain, ranges, dear, dearest=True)
    return Figure(least, max(least, most), least_sure(figure.source for figure in sources))


def _of_certain(each: Sequence[Figure], rates: Sequence[float]) -> float:
    return sum(figure.least * rate for figure, rate in zip(each, rates, strict=True))


def _poured(calls: float, room: Sequence[float], rates: Sequence[float], *, dearest: bool) -> float:
    """What calls cost that go to the cheapest models first, or to the dearest, as far as there is room."""
    cost = 0.0
    for i in sorted(range(len(room)), key=rates.__getitem__, reverse=dearest):
        taken = min(max(0.0, calls), room[i])
        cost += taken * rates[i]
        calls -= taken
    return cost


def dollar_rates(model: ModelPlan, rates: Rates) -> tuple[float, float]:
    """Dollars of one call of a model whose price is known."""
    assert model.price is not None
    least = model.price.least.dollars(rates.prompt[0], rates.completion[0])
    return least, model.price.most.dollars(rates.prompt[1], rates.completion[1])
