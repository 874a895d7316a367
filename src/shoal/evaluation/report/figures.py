"""The plots of a comparison: the metric against tokens, and against the sizes of techniques."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from shoal.evaluation.comparing.result import Arm, Comparison, Interval
from shoal.evaluation.report import labels, numbers, plotting
from shoal.evaluation.report.labels import Label
from shoal.evaluation.report.numbers import is_share, tokens_per_row
from shoal.evaluation.report.texts import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDE = 6.0  # inches; below, there is no room for extras, nor for the names of more than a few
FEW, _SAME, _MANY = 6, 3, 24


def pareto(comparison: Comparison, width: float = 8.5, height: float = 5.4) -> "Figure":
    """The metric against tokens a row: one point an arm with its interval, the frontier as steps.

    Call it, as every maker of a figure, inside `plotting.drawing()`.
    """
    made, axes = plotting.figure(width, height)
    arms = numbers.ranked(comparison)
    shown = [(tokens_per_row(arm), arm.value, arm.interval) for arm in arms]
    shown += [(point.tokens, point.value, point.interval) for arm in arms for point in arm.curve]
    xs = [tokens for tokens, _, _ in shown]
    log = min(xs) > 0 and max(xs) / min(xs) > 5
    most = 9 if width >= _WIDE else 5
    low, high = _span(xs, log)
    plotting.number_axis(axes.xaxis, low, high, log=log, text=plotting.amount, most=most)
    _value_axis(axes, comparison, [interval for _, _, interval in shown])
    scale = " (logarithmic)" if log else ""
    axes.set_xticks([tick for tick in axes.get_xticks() if tick >= 0])
    axes.set_xlabel(f"tokens a row{', prompt and completion' if width >= _WIDE else ''}{scale}")
    axes.grid(axis="x", visible=False)
    colours = {arm.name: _colour(number) for number, arm in enumerate(arm for arm in arms if arm.curve)}
    lines = [_frontier(axes, arms, high)] if len(arms) > 1 else []
    lines += [_curve(axes, arm, number) for number, arm in enumerate(arm for arm in arms if arm.curve)]
    lines += [_point(axes, arm, colours.get(arm.name)) for arm in arms]
    numbered = width < _WIDE and len(arms) > FEW
    labels.put(axes, _names(arms, numbered) + (_sizes(arms) if width >= _WIDE else []), lines)
    return made


def curves(comparison: Comparison, width: float = 8.5, height: float = 4.8) -> "Figure":
    """The metric against the size (draws, beams, rounds), a line for each arm that has a curve; one must have."""
    arms = [arm for arm in numbers.ranked(comparison) if arm.curve]
    made, axes = plotting.figure(width, height)
    sizes = sorted({point.n for arm in arms for point in arm.curve})
    log = sizes[0] > 0 and sizes[-1] / sizes[0] > 5
    low, high = _span([float(size) for size in sizes], log)
    plotting.number_axis(axes.xaxis, low, high, log=log, text=plotting.amount)
    if len(sizes) <= 9:
        axes.set_xticks(sizes)
    points = [point for arm in arms for point in arm.curve]
    _value_axis(axes, comparison, [point.interval for point in points])
    counts = ": draws, beams, rounds, as the technique counts it" if width >= _WIDE else ""
    axes.set_xlabel(f"size{counts}{' (logarithmic)' if log else ''}")
    axes.grid(axis="x", visible=False)
    ends, lines = [], []
    for number, arm in enumerate(arms):
        spots = [(float(point.n), point.value) for point in sorted(arm.curve, key=lambda point: point.n)]
        _line(axes, spots, number)
        if len(arms) <= len(plotting.SERIES):
            _band(axes, arm, number)
        ends.append(Label(arm.name, spots[-1], colour=_colour(number)))
        lines.append(spots)
    labels.put(axes, ends, lines)
    return made


def _names(arms: Sequence[Arm], numbered: bool) -> list[Label]:
    """The arms' names, or their numbers in the table; the frontier's first, and one for many at the same spot."""
    found, spots = [], [(tokens_per_row(arm), arm.value) for arm in arms]
    for place in sorted(range(len(arms)), key=lambda place: not arms[place].frontier):
        arm, spot = arms[place], spots[place]
        same = [other for other, its in enumerate(spots) if its == spot]
        if len(same) > _SAME and place != same[0]:
            continue
        text = str(place + 1) if numbered else plain(arm.name, labels.LETTERS)
        text += f" and {len(same) - 1} more" if len(same) > _SAME else ""
        colour = plotting.TEXT if arm.frontier else plotting.SOFT
        found.append(Label(text, spot, needed=arm.frontier or len(arms) <= _MANY, colour=colour, bold=arm.frontier))
    return found


def _sizes(arms: Sequence[Arm]) -> list[Label]:
    """The sizes along the curves, where there is room for them."""
    return [
        Label(str(point.n), (point.tokens, point.value), needed=False, colour=_colour(number))
        for number, arm in enumerate(arm for arm in arms if arm.curve)
        for point in arm.curve
        if abs(point.tokens / (tokens_per_row(arm) or 1) - 1) > 0.02
    ]


def _frontier(axes: "Axes", arms: Sequence[Arm], right: float) -> list[labels.Spot]:
    """The best that any number of tokens buys: level until the next arm of the frontier, then up; shaded below."""
    spots: list[labels.Spot] = []
    for x, y in sorted((tokens_per_row(arm), arm.value) for arm in arms if arm.frontier):
        spots += [(x, spots[-1][1]), (x, y)] if spots else [(x, y)]
    if spots:
        spots.append((right, spots[-1][1]))
        xs, ys = zip(*spots, strict=True)
        axes.plot(xs, ys, color=plotting.SOFT, linewidth=1, linestyle=(0, (1, 2)), zorder=2)
        axes.fill_between(xs, ys, axes.get_ylim()[0], color=plotting.SOFT, alpha=0.06, linewidth=0, zorder=0.5)
    return spots


def _point(axes: "Axes", arm: Arm, colour: str | None) -> list[labels.Spot]:
    """An arm and its interval: filled on the frontier, hollow off it."""
    colour = colour or (plotting.TEXT if arm.frontier else plotting.SOFT)
    axes.errorbar(
        [tokens_per_row(arm)],
        [arm.value],
        yerr=[[max(0.0, arm.value - arm.interval.low)], [max(0.0, arm.interval.high - arm.value)]],
        color=colour,
        ecolor=(colour, 0.55),
        elinewidth=1.2,
        capsize=3,
        marker="o",
        markersize=7.5 if arm.frontier else 6.5,
        markerfacecolor=colour if arm.frontier else plotting.BACK,
        markeredgewidth=1.4,
        zorder=4,
    )
    return [(tokens_per_row(arm), arm.interval.low), (tokens_per_row(arm), arm.interval.high)]


def _curve(axes: "Axes", arm: Arm, number: int) -> list[labels.Spot]:
    spots = [(point.tokens, point.value) for point in sorted(arm.curve, key=lambda point: point.n)]
    _line(axes, spots, number)
    return spots


def _line(axes: "Axes", spots: Sequence[labels.Spot], number: int) -> None:
    kind = number % len(plotting.SERIES)
    axes.plot(
        *zip(*spots, strict=True),
        color=plotting.SERIES[kind],
        linestyle=plotting.DASHES[kind],
        marker=plotting.MARKERS[kind],
        markersize=4,
        linewidth=1.5,
        zorder=3,
    )


def _band(axes: "Axes", arm: Arm, number: int) -> None:
    points = sorted(arm.curve, key=lambda point: point.n)
    axes.fill_between(
        [point.n for point in points],
        [point.interval.low for point in points],
        [point.interval.high for point in points],
        color=_colour(number),
        alpha=0.1,
        linewidth=0,
    )


def _colour(number: int) -> str:
    return plotting.SERIES[number % len(plotting.SERIES)]


def _value_axis(axes: "Axes", comparison: Comparison, intervals: Sequence[Interval]) -> None:
    """From the lowest end of an interval to the highest, with room to spare but no tick where no value can be."""
    low, high = min(one.low for one in intervals), max(one.high for one in intervals)
    room = max(high - low, 0.1 if is_share(comparison) else abs(high) * 0.1 or 1.0)
    middle = (low + high) / 2
    text: Callable[[float], str] = numbers.tick(comparison)
    plotting.number_axis(axes.yaxis, middle - room * 0.58, middle + room * 0.58, log=False, text=text)
    if is_share(comparison):
        inside: Any = [tick for tick in axes.get_yticks() if -1e-9 <= tick <= 1 + 1e-9]
        axes.set_yticks(inside)
    axes.set_ylabel(f"{plain(comparison.metric, 40)}, 95 % intervals")


def _span(values: Sequence[float], log: bool) -> tuple[float, float]:
    """The limits of an axis that shows these values with room for labels at both sides."""
    low, high = min(values), max(values)
    if log:
        room = (high / low) ** 0.12
        return low / room, high * room
    room = (high - low) * 0.12 or abs(high) * 0.5 or 1.0
    return low - room, high + room
