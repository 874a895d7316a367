"""The plots of a run over its generations: fitness and diversity. Make them inside `plotting.drawing()`."""

from collections.abc import Sequence
from statistics import quantiles
from typing import TYPE_CHECKING

from shoal.evaluation.report import plotting
from shoal.evolution.report.reading import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BEST, _MEAN = plotting.SERIES[1], plotting.SERIES[0]


def fitness(run: Run, width: float = 8.5, height: float = 4.8) -> "Figure":
    """The best, the mean and the middle half of each generation; beside them the figures on held-out rows."""
    made, axes = plotting.figure(width, height)
    numbers = [generation.number for generation in run.generations]
    measured = [[scored.fitness for scored in generation.population] for generation in run.generations]
    low, high = zip(*map(_quartiles, measured), strict=True)
    means = [generation.mean for generation in run.generations]
    _band(axes, numbers, low, high)
    axes.plot(numbers, means, color=_MEAN, linestyle=plotting.DASHES[1], marker="s", markersize=4, label="mean")
    _elites(axes, run)
    shown = [*low, *means, *(generation.best.fitness for generation in run.generations), *_held_out(axes, run)]
    _share_axis(axes, shown)
    axes.set_ylabel("fitness")
    generation_axis(axes, run, width, held_out=True)
    made.legend(loc="outside lower center", ncols=3 if width > 6 else 2, frameon=False, fontsize=9)
    return made


def diversity(run: Run, width: float = 8.5, height: float = 2.6) -> "Figure":
    """How unlike each other the task prompts of each generation are."""
    made, axes = plotting.figure(width, height)
    known = [(one.number, one.diversity) for one in run.stats if one.diversity is not None]
    numbers, values = [number for number, _ in known], [value for _, value in known]
    axes.plot(numbers, values, color=plotting.SERIES[2], marker="o", markersize=4)
    _share_axis(axes, values)
    axes.set_ylabel("diversity")
    generation_axis(axes, run, width)
    return made


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    first, _, third = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return first, third


def _band(axes: "Axes", numbers: Sequence[int], low: Sequence[float], high: Sequence[float]) -> None:
    label = "middle half of the population"
    if len(numbers) == 1:
        axes.vlines(numbers, low, high, color=_MEAN, alpha=0.25, linewidth=8, label=label)
    else:
        axes.fill_between(numbers, low, high, color=_MEAN, alpha=0.18, linewidth=0, label=label)


def _elites(axes: "Axes", run: Run) -> None:
    """The best of each generation: filled where it is a unit that was not the best before."""
    numbers = [generation.number for generation in run.generations]
    best = [generation.best for generation in run.generations]
    axes.plot(numbers, [scored.fitness for scored in best], color=_BEST, linewidth=1.8, label="best", zorder=3)
    ids = [scored.unit.id for scored in best]
    new = [place for place in range(len(ids)) if place == 0 or ids[place] != ids[place - 1]]
    old = [place for place in range(len(ids)) if place not in set(new)]
    for places, face, label in ((new, _BEST, "a new best unit"), (old, plotting.BACK, "the same as before")):
        axes.plot(
            [numbers[place] for place in places],
            [best[place].fitness for place in places],
            color=_BEST,
            linestyle="",
            marker="o",
            markersize=6,
            markerfacecolor=face,
            label=label if places else None,
            zorder=4,
        )


def _held_out(axes: "Axes", run: Run) -> list[float]:
    """The seed prompt and the bred one, to the right of the last generation; the figures that are shown."""
    found = run.comparison
    if found is None:
        return []
    place, apart = _beside(run)
    axes.axvline(place - 2.2 * apart, color=plotting.SOFT, linewidth=0.8, linestyle=(0, (1, 2)))
    axes.plot(
        [place - apart], [found.seed], "D", color=plotting.SOFT, markerfacecolor=plotting.BACK, label="seed, held out"
    )
    axes.errorbar(
        [place + apart],
        [found.best],
        yerr=[[max(0.0, found.difference - found.low)], [max(0.0, found.high - found.difference)]],
        color=plotting.TEXT,
        marker="D",
        linestyle="",
        capsize=4,
        elinewidth=1.4,
        label="bred, held out",
    )
    reach = (found.best - (found.difference - found.low), found.best + (found.high - found.difference))
    return [found.seed, found.best, *reach]


def _beside(run: Run) -> tuple[float, float]:
    """Where the held-out figures stand, and half of how far they stand apart, in generations."""
    unit = max(run.last.number, 4) / 20
    return run.last.number + 4 * unit, 0.8 * unit


def generation_axis(axes: "Axes", run: Run, width: float, *, held_out: bool = False) -> None:
    """The generations from left to right, and beside them the place of the held-out figures."""
    from matplotlib.ticker import MaxNLocator

    last = run.last.number
    room = max(last, 4) / 20
    right = last + room * 0.6
    locator = MaxNLocator(10 if width > 6 else 5, integer=True, steps=[1, 2, 5, 10])
    ticks = [tick for tick in locator.tick_values(0, max(1, last)) if 0 <= tick <= last]
    names = [f"{tick:.0f}" for tick in ticks]
    if held_out and run.comparison is not None:
        place, apart = _beside(run)
        ticks, names, right = [*ticks, place], [*names, "held-out\nrows"], place + 2.5 * apart
    axes.set_xlim(-room * 0.6, right)
    axes.set_xticks(ticks, names)
    axes.set_xlabel("generation; 0 are the founders")
    axes.grid(axis="x", visible=False)


def _share_axis(axes: "Axes", values: Sequence[float]) -> None:
    """From the lowest value to the highest, with room, but little of it where no share can be."""
    low, high = min(values), max(values)
    size = max(high - low, 0.1) * 1.2
    spare = size * 0.08
    bottom = (low + high - size) / 2
    bottom = min(max(bottom, -spare), low - spare)
    top = max(min(bottom + size, 1 + spare), high + spare)
    plotting.number_axis(axes.yaxis, bottom, top, log=False, text=lambda tick: f"{tick:.4g}")
    axes.set_yticks([tick for tick in axes.get_yticks() if -1e-9 <= tick <= 1 + 1e-9])
