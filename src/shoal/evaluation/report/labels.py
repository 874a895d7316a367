"""Labels beside their points, none over another: each takes the nearest free place."""

import itertools
from collections.abc import Iterable, Sequence
from math import cos, hypot, pi, sin
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from shoal.evaluation.report.plotting import SOFT, TEXT
from shoal.evaluation.report.texts import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels
Spot = tuple[float, float]  # in pixels, or in the axes' own units where it says so

LETTERS, _MOST = 32, 44
_NEAR = 16.0  # pixels; a label further off gets a line to its point
_DISTANCES = (9.0, 14.0, 22.0, 32.0, 44.0, 58.0, 76.0, 98.0, 124.0, 155.0, 190.0, 230.0, 275.0, 325.0)
_ANGLES = tuple(pi * turn / 12 for turn in (0, 2, 22, 6, 18, 12, 10, 14, 1, 23, 4, 20, 8, 16, 11, 13, 3, 21, 9, 15))


class Label(Struct, frozen=True):
    """`text` for the point at `at`, in the axes' units. One that is not `needed` is left out where there is no room."""

    text: str
    at: Spot
    needed: bool = True
    colour: str = TEXT
    bold: bool = False


def put(axes: "Axes", labels: Iterable[Label], lines: Iterable[Sequence[Spot]] = ()) -> None:
    """Writes the labels in their order, clear of each other, of all their points and, if it can be, of `lines`.

    Call it last: limits and scales must stand.
    """
    labels = list(labels)
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    room = _Room(axes, [label.at for label in labels], lines)
    for label in labels:
        _put(axes, label, room)


def _put(axes: "Axes", label: Label, room: "_Room") -> None:
    text = axes.text(
        *label.at,
        "",
        fontsize=9 if label.needed else 8,
        color=label.colour,
        fontweight="bold" if label.bold else "normal",
        va="center",
    )
    for letters in (_MOST, LETTERS, LETTERS // 2, 4) if label.needed else (_MOST,):  # letters may be wide
        text.set_text(plain(label.text, letters))
        measured = text.get_window_extent()
        found = room.take(label, measured.width, measured.height)
        if found is not None:
            _move(axes, text, *found)
            return
    text.remove()


def _move(axes: "Axes", text: "Text", box: Box, point: Spot) -> None:
    """Puts the text into its box, with a line to its point where that is far."""
    side = "left" if point[0] <= box[0] else "right" if point[0] >= box[2] else "center"
    x = {"left": box[0], "right": box[2], "center": (box[0] + box[2]) / 2}[side]
    to_data = axes.transData.inverted()
    text.set(position=to_data.transform((x, (box[1] + box[3]) / 2)), ha=side)
    end = _nearest(box, point)
    if hypot(end[0] - point[0], end[1] - point[1]) > _NEAR:
        (x0, y0), (x1, y1) = to_data.transform(point), to_data.transform(end)
        axes.plot([x0, x1], [y0, y1], color=SOFT, linewidth=0.6, zorder=1.5, scalex=False, scaley=False)


class _Room:
    """What of the axes is taken."""

    def __init__(self, axes: "Axes", points: Sequence[Spot], lines: Iterable[Sequence[Spot]]) -> None:
        import numpy

        self._transform = axes.transData.transform
        inside = axes.get_window_extent()
        self._inside = (inside.x0 + 2, inside.y0 + 2, inside.x1 - 2, inside.y1 - 2)
        self._hard: list[Box] = [_around(self._transform(point), 6.0) for point in points]
        soft = [
            _around(spot, 1.5) for line in lines for spot in _along([tuple(self._transform(point)) for point in line])
        ]
        self._soft = numpy.array(soft or [(-1.0,) * 4])

    def take(self, label: Label, width: float, height: float) -> tuple[Box, Spot] | None:
        """The best place for a label of this size, now taken, and its point in pixels."""
        import numpy

        x, y = self._transform(label.at)
        point = (float(x), float(y))
        hard = numpy.array(self._hard)
        best: tuple[float, Box] | None = None
        for distance in _DISTANCES if label.needed else _DISTANCES[:2]:
            if best is not None and distance * 2 >= best[0]:
                break
            for turn, angle in enumerate(_ANGLES):
                box = _beside(point, distance, angle, width, height)
                if not _within(box, self._inside):
                    continue
                covered = _area(box, hard) * 50 + _area(box, self._soft) * 1.5
                cost = covered + distance * 2 + turn * 0.5
                if best is not None and cost >= best[0]:
                    continue
                cost += 5 * sum(_area(spot, hard) for spot in _leader(box, point)[2:])
                if (label.needed or not covered) and (best is None or cost < best[0]):
                    best = (cost, box)
        if best is None:
            return None
        self._hard.append(best[1])
        self._hard.extend(_leader(best[1], point))
        return best[1], point


def _beside(point: Spot, distance: float, angle: float, width: float, height: float) -> Box:
    """A box that touches the circle of that distance about the point, on that side of it."""
    across, up = cos(angle), sin(angle)
    x, y = point[0] + distance * across, point[1] + distance * up
    left = x if across > 0.3 else x - width if across < -0.3 else x - width / 2
    bottom = y if up > 0.3 else y - height if up < -0.3 else y - height / 2
    return (left, bottom, left + width, bottom + height)


def _leader(box: Box, point: Spot) -> list[Box]:
    """Small boxes along the line from a label to its point; none where it needs no line."""
    end = _nearest(box, point)
    if hypot(end[0] - point[0], end[1] - point[1]) <= _NEAR:
        return []
    return [_around(spot, 1.0) for spot in _along([point, end])[1:-1]]


def _along(line: Sequence[Any]) -> list[Spot]:
    """Spots on a line of straight pieces, some pixels apart."""
    spots: list[Spot] = []
    for (x0, y0), (x1, y1) in itertools.pairwise(line):
        steps = max(1, int(hypot(x1 - x0, y1 - y0) / 5))
        spots += [(x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps) for step in range(steps + 1)]
    return spots


def _nearest(box: Box, point: Spot) -> Spot:
    return min(max(point[0], box[0]), box[2]), min(max(point[1], box[1]), box[3])


def _around(spot: Any, reach: float) -> Box:
    return (float(spot[0]) - reach, float(spot[1]) - reach, float(spot[0]) + reach, float(spot[1]) + reach)


def _within(box: Box, outer: Box) -> bool:
    return box[0] >= outer[0] and box[1] >= outer[1] and box[2] <= outer[2] and box[3] <= outer[3]


def _area(box: Box, others: Any) -> float:
    """How many square pixels of the others the box covers."""
    import numpy

    wide = numpy.minimum(box[2], others[:, 2]) - numpy.maximum(box[0], others[:, 0])
    high = numpy.minimum(box[3], others[:, 3]) - numpy.maximum(box[1], others[:, 1])
    return float((wide.clip(0) * high.clip(0)).sum())
