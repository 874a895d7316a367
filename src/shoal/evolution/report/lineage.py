"""The plot of who descends from whom: each row a place of the population, kin beside kin, the best unit's line bold."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from shoal.evaluation.report import plotting
from shoal.evaluation.report.texts import plain
from shoal.evolution.mutators import MUTATORS
from shoal.evolution.report.descent import Life, line, lives, side_by_side
from shoal.evolution.report.reading import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Piece = list[tuple[float, float]]

_KINDS = ("founder", *MUTATORS)
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_NUMBERED = 24  # ancestors of the best that get numbers; more would cover each other


class _Family(Struct):
    """A run's units, the rows of its places from above, the best unit's line and that of all who stand at the end."""

    known: dict[str, Life]
    rows: dict[int, int]
    best: list[Life]
    living: dict[str, float]  # until when each ancestor of the last population is needed, by id

    def y(self, life: Life) -> float:
        return -self.rows.get(life.slot, len(self.rows))

    def birth(self, life: Life) -> Piece:
        """The way from the parent's row in the generation before to the unit's own; nothing for founders."""
        parent = self.known.get(life.unit.parent or "")
        if parent is None or parent is life:
            return []
        (x0, y0), (x1, y1) = (life.born - 1.0, self.y(parent)), (float(life.born), self.y(life))
        return [(x0, y0), (x0 + 0.3, y0 + (y1 - y0) * 0.12), (x1 - 0.3, y1 - (y1 - y0) * 0.12), (x1, y1)]


def lineage(run: Run, width: float = 8.5, height: float | None = None) -> "Figure":
    """Units from left to right, each with a line from its parent; those without living kin are faint."""
    family = _family(run)
    size = len(run.last.population)
    made, axes = plotting.figure(width, height or min(7.5, 2.6 + 0.1 * size + (0.6 if size < 12 else 0)))
    _lines(axes, (piece for life in family.known.values() for piece in _whole(family, life)), plotting.LINE, 0.8, 1)
    for life in family.known.values():
        until = family.living.get(life.unit.id)
        if until is not None:
            _lines(axes, _until(family, life, until), _colour(life), 1.2, 2)
    _bold(axes, run, family)
    kinds = _dots(axes, family)
    _number(axes, family)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-size + 0.2, 0.8)
    room = max(run.last.number, 2) / 30
    axes.set_xlim(-room, run.last.number + room)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=10 if width > 6 else 5)
    axes.set_xlabel("generation; 0 are the founders")
    axes.grid(visible=False)
    _legend(made, kinds, width)
    return made


def _family(run: Run) -> _Family:
    known = lives(run.generations)
    population = [scored.unit for scored in run.last.population]
    living: dict[str, float] = {}
    for unit in population:
        way = line(known, unit)
        for life, until in zip(way, _needed(way, run.last.number), strict=True):
            living[life.unit.id] = max(until, living.get(life.unit.id, until))
    rows = {slot: row for row, slot in enumerate(side_by_side(known, population))}
    return _Family(known, rows, line(known, run.best.unit), living)


def _needed(way: Sequence[Life], end: float) -> list[float]:
    """Until when each unit of a line stood before the next one was born; the last one until the end."""
    return [*(child.born - 1.0 for child in way[1:]), end]


def _whole(family: _Family, life: Life) -> Iterable[Piece]:
    return _until(family, life, float(life.last))


def _until(family: _Family, life: Life, until: float) -> Iterable[Piece]:
    yield [*family.birth(life), (float(life.born), family.y(life)), (until, family.y(life))]


def _bold(axes: "Axes", run: Run, family: _Family) -> None:
    """The line of the best unit, up to the generation in which it was the best."""
    best = run.best
    way = family.best
    for life, until in zip(way, _needed(way, max(best.evaluated, way[-1].born)), strict=True):
        _lines(axes, _until(family, life, until), plotting.TEXT, 2.4, 3)


def _lines(axes: "Axes", pieces: Iterable[Piece], colour: str, width: float, order: float) -> None:
    from matplotlib.collections import LineCollection

    axes.add_collection(LineCollection(list(pieces), colors=colour, linewidths=width, zorder=order, capstyle="round"))


def _dots(axes: "Axes", family: _Family) -> list[str]:
    """A dot where each unit of a living line was born, larger the fitter it was; the kinds that there are."""
    ours = {life.unit.id for life in family.best}
    shown = [life for life in family.known.values() if life.unit.id in family.living or life.unit.id in ours]
    faint = [life for life in family.known.values() if life.unit.id not in family.living and life.unit.id not in ours]
    axes.scatter([life.born for life in faint], [family.y(life) for life in faint], s=4, color=plotting.LINE, zorder=1.5)
    means = [life.mean for life in family.known.values()]
    low, high = min(means), max(means)
    found = [kind for kind in _KINDS if any(_kind(life) == kind for life in shown)]
    for kind in found:
        these = [life for life in shown if _kind(life) == kind]
        axes.scatter(
            [life.born for life in these],
            [family.y(life) for life in these],
            s=[12 + 50 * ((life.mean - low) / (high - low) if high > low else 0.4) for life in these],
            marker=_SHAPES[_KINDS.index(kind)],
            color=[_of(kind)],
            edgecolors=[plotting.TEXT if life.unit.id in ours else plotting.BACK for life in these],
            linewidths=[1.2 if life.unit.id in ours else 0.5 for life in these],
            zorder=4,
        )
    return found


def _number(axes: "Axes", family: _Family) -> None:
    """Numbers of the best unit's ancestors, as in the table of the page."""
    for number, life in enumerate(family.best[:_NUMBERED], 1):
        axes.annotate(
            str(number),
            (life.born, family.y(life)),
            (0, 9),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            fontweight="bold",
            color=plotting.TEXT,
            zorder=5,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": plotting.BACK, "edgecolor": "none", "alpha": 0.85},
        )


def _legend(made: "Figure", kinds: Sequence[str], width: float) -> None:
    from matplotlib.lines import Line2D

    entries = [
        Line2D([], [], color=plotting.TEXT, linewidth=2.4, label="line of the best unit"),
        Line2D([], [], color=plotting.LINE, linewidth=1.2, label="died out"),
        *(
            Line2D([], [], linestyle="-", color=_of(kind), marker=_SHAPES[_KINDS.index(kind)], label=_words(kind))
            for kind in kinds
        ),
    ]
    made.legend(handles=entries, loc="outside lower center", ncols=3 if width > 6 else 1, frameon=False, fontsize=9)


def _kind(life: Life) -> str:
    return life.unit.operator if life.unit.operator in _KINDS else _KINDS[0]


def _of(kind: str) -> str:
    """A kind's colour; founders have none of their own."""
    return plotting.SOFT if kind == _KINDS[0] else plotting.SERIES[_KINDS.index(kind) % len(plotting.SERIES)]


def _colour(life: Life) -> str:
    return _of(_kind(life))


def _words(kind: str) -> str:
    return plain(kind.replace("_", " "), 40)
