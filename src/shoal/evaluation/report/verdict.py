"""What a comparison found, in sentences: which technique is best, by how much, at what price, and how sure that is."""

from msgspec import structs

from shoal.evaluation.comparing.result import Arm, Comparison
from shoal.evaluation.comparing.statistics import holm
from shoal.evaluation.comparing.wording import FAILED
from shoal.evaluation.report import numbers
from shoal.evaluation.report.numbers import Against, tokens_per_row
from shoal.evaluation.report.texts import plain
from shoal.traces import words


def verdict(comparison: Comparison) -> list[str]:
    """The answer in one sentence, then what it costs, then which others may be as good."""
    ranked = numbers.ranked(comparison)
    if not ranked:
        return ["Nothing was compared."]
    if not any(arm.answered for arm in ranked):
        return [FAILED]
    best = ranked[0]
    value = numbers.value(comparison, best.value)
    interval = f"95\N{NO-BREAK SPACE}% interval {numbers.interval(comparison, best.interval)}"
    scored = f"{value} on {words.plural(comparison.rows, 'row')} ({interval})"
    metric = plain(comparison.metric, 40)
    if len(ranked) == 1:
        return [f"The {metric} of {_name(best)} is {scored}, at {_tokens(best)}. Nothing was compared with it."]
    against = {one.other: one for one in _picked(comparison) if one.one == best.name}
    second = ranked[1]
    if second.value == best.value:
        equal = [arm for arm in ranked[1:] if arm.value == best.value]
        others = _name(second) if len(equal) == 1 else f"{len(equal)} others"
        cheaper = tokens_per_row(best) < tokens_per_row(second)
        first = f"No one technique is best: the {metric} of {_name(best)} and of {others} is {scored}"
        first += f"; {_name(best)} needs the fewest tokens of them" if cheaper else ""
    else:
        more = f"{numbers.points(comparison, best.value - second.value)} above {_name(second)}"
        first = f"{_name(best)} did best: its {metric} is {scored}, {more}{_ratio(best, second, ' for ')}"
        first += _certainty(against.get(second.name))
    return [f"{first}.", *_price(comparison, ranked, against), *_as_good(ranked, against)]


def _picked(comparison: Comparison) -> list[Against]:
    """The differences as they may be judged where the pair was picked for its figures: p adjusted for all that it was
    picked from, where it is not for the comparisons with the first arm already."""
    found = numbers.differences(comparison)
    others = [one for one in found if one.adjusted is None]
    adjusted = holm([one.p for one in others])
    judged = [structs.replace(one, adjusted=p) for one, p in zip(others, adjusted, strict=True)]
    return [one for one in found if one.adjusted is not None] + judged


def _price(comparison: Comparison, ranked: list[Arm], against: dict[str, Against]) -> list[str]:
    """What the best costs, against the cheapest where that is not the runner-up."""
    best, cheapest = ranked[0], min((arm for arm in ranked if arm.answered), key=tokens_per_row)
    if cheapest.value == best.value:
        return [f"{_name(best)} takes {_tokens(best)}."] if tokens_per_row(best) else []
    if cheapest is ranked[1]:
        return [f"{_name(best)} takes {_tokens(best)}, {_name(cheapest)} {_tokens(cheapest)}."]
    reached = f"The cheapest, {_name(cheapest)}, reaches {numbers.value(comparison, cheapest.value)}"
    gained = f"{numbers.points(comparison, best.value - cheapest.value)} more at {_tokens(best)}"
    gained += _ratio(best, cheapest, ", ") + _certainty(against.get(cheapest.name))
    return [f"{reached} at {_tokens(cheapest)}; {_name(best)} gets {gained}."]


def _as_good(ranked: list[Arm], against: dict[str, Against]) -> list[str]:
    """The cheapest of those that these rows cannot tell from the best, where it is neither best nor second."""
    best = ranked[0]
    alike = [arm for arm in ranked[1:] if arm.answered and arm.name in against and not against[arm.name].sure]
    cheaper = [arm for arm in alike if tokens_per_row(arm) < tokens_per_row(best)]
    if not cheaper:
        return []
    least = min(cheaper, key=tokens_per_row)
    if alike == [ranked[1]]:
        return []
    many = f"On these rows {words.plural(len(alike), 'technique')} cannot be told from the best"
    return [f"{many}; the cheapest of them, {_name(least)}, takes {_tokens(least)}."]


def _certainty(against: Against | None) -> str:
    if against is None:
        return ""
    p = ("p " if against.judged < 0.001 else "p = ") + numbers.probability(against.judged)
    p = p.replace(" ", "\N{NO-BREAK SPACE}")
    p += " adjusted for several comparisons" if against.judged != against.p else ""
    if against.sure:
        return f", a difference that chance alone hardly explains ({p})"
    return f", a difference that may well be chance ({p})"


def _ratio(arm: Arm, other: Arm, joint: str) -> str:
    """What an arm's tokens are to another's; nothing where tokens are not known."""
    mine, its = tokens_per_row(arm), tokens_per_row(other)
    if not mine or not its:
        return ""
    if 0.95 <= mine / its <= 1.05:
        return f"{joint}about as many tokens"
    return f"{joint}{numbers.times(mine / its)} the tokens"


def _tokens(arm: Arm) -> str:
    """The price of a row."""
    if not tokens_per_row(arm):
        return "no counted tokens"
    money = f" and {numbers.dollars(arm.dollars / arm.costed)}" if arm.dollars else ""
    return f"{words.count(tokens_per_row(arm))} tokens{money} a row"


def _name(arm: Arm) -> str:
    return plain(arm.name, 60)
