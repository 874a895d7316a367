"""The plot of who descends from whom: kin stand beside kin, the best unit's line is bold."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from shoal.evaluation.report import plotting
from shoal.evaluation.report.texts import plain
from shoal.evolution.mutators import MUTATORS
from shoal.evolution.report.descent import Descent, Life
from shoal.evolution.report.figures import generation_axis
from shoal.evolution.report.reading import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Piece = list[tuple[float, float]]

_KINDS = ("founder", *MUTATORS)
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_NUMBERED = 24  # ancestors of the best that get numbers; more would cover each other


def lineage(run: Run, width: float = 8.5, height: float | None = None) -> "Figure":
    """Units from left to right, each with a line from its parent; those without kin at the end are faint."""
    descent = Descent(run.generations, run.best.unit)
    made, axes = plotting.figure(
        width, height or min(7.5, 2.4 + 0.1 * descent.height + (0.8 if descent.height < 12 else 0))
    )
    others = [life for life in descent.known.values() if life.unit.id not in descent.kept]
    _lines(axes, [_piece(descent, life, life.last) for life in others], plotting.LINE, 0.8, 1)
    axes.scatter(
        [one.born for one in others], [_y(descent, one) for one in others], s=5, color=plotting.LINE, zorder=1.5
    )
    for kind in _KINDS:
        these = [life for life in descent.known.values() if life.unit.id in descent.kept and _kind(life) == kind]
        _lines(axes, [_piece(descent, life, descent.kept[life.unit.id]) for life in these], _of(kind), 1.3, 2)
    _bold(axes, descent)
    kinds = _dots(axes, descent)
    _number(axes, descent)
    _axes(axes, run, descent, width)
    _legend(made, kinds, width)
    return made


def _axes(axes: "Axes", run: Run, descent: Descent, width: float) -> None:
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-descent.height + 0.3, 0.9)
    generation_axis(axes, run, width)
    axes.grid(visible=False)


def _y(descent: Descent, life: Life) -> float:
    return -float(descent.rows[life.unit.id])


def _piece(descent: Descent, life: Life, until: float) -> Piece:
    """From the parent's row in the generation before to the unit's own, and on there."""
    parent = descent.parent(life)
    x, y = float(life.born), _y(descent, life)
    if parent is None:
        return [(x, y), (until, y)]
    return [(x - 1, _y(descent, parent)), (x - 0.6, y), (x, y), (until, y)]


def _bold(axes: "Axes", descent: Descent) -> None:
    """The line of the best unit."""
    ends = [child.born - 1 for child in descent.best[1:]] + [descent.best[-1].last]
    pieces = [_piece(descent, life, until) for life, until in zip(descent.best, ends, strict=True)]
    _lines(axes, pieces, plotting.TEXT, 2.6, 3)


def _lines(axes: "Axes", pieces: Iterable[Piece], colour: str, width: float, order: float) -> None:
    from matplotlib.collections import LineCollection

    axes.add_collection(LineCollection(list(pieces), colors=colour, linewidths=width, zorder=order, capstyle="round"))


def _dots(axes: "Axes", descent: Descent) -> list[str]:
    """A dot where each unit that is kept was born, larger the fitter it was; the kinds that there are."""
    best = {life.unit.id for life in descent.best}
    kept = [life for life in descent.known.values() if life.unit.id in descent.kept]
    low, high = min(life.mean for life in kept), max(life.mean for life in kept)
    found = [kind for kind in _KINDS if any(_kind(life) == kind for life in kept)]
    for kind in found:
        these = [life for life in kept if _kind(life) == kind]
        axes.scatter(
            [life.born for life in these],
            [_y(descent, life) for life in these],
            s=[14 + 46 * ((life.mean - low) / (high - low) if high > low else 0.4) for life in these],
            marker=_SHAPES[_KINDS.index(kind)],
            color=[_of(kind)],
            edgecolors=[plotting.TEXT if life.unit.id in best else plotting.BACK for life in these],
            linewidths=[1.2 if life.unit.id in best else 0.5 for life in these],
            zorder=4,
        )
    return found


def _number(axes: "Axes", descent: Descent) -> None:
    """Numbers of the best unit's ancestors, as in the table of the page."""
    for number, life in enumerate(descent.best[:_NUMBERED], 1):
        axes.annotate(
            str(number),
            (life.born, _y(descent, life)),
            (0, 10),
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


def _words(kind: str) -> str:
    return plain(kind.replace("_", " "), 40)
