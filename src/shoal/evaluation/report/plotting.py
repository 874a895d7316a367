"""Plots without global state: the same data give the same bytes, in PNG, in SVG and inside a page."""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil, floor, log10
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from shoal.batch.directory import atomic_writer
from shoal.errors import UsageError
from shoal.traces import words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT, SOFT, LINE, BACK = "#1d2125", "#5d666f", "#dfe2e5", "#ffffff"
# Okabe and Ito's colours, which colour-blind people tell apart; in grey, markers and dashes do.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#aa3377", "#b07d00", "#4d4d8f")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (9, 3)), (0, (3, 1)))

# On a page the colours are variables, so that they follow the reader's light or dark; outside one they are themselves.
_VARIABLES = {TEXT: "--text", SOFT: "--soft", LINE: "--line", BACK: "--card"}
_VARIABLES |= {colour: f"--series-{number}" for number, colour in enumerate(SERIES)}
_COLOUR = re.compile("|".join(_VARIABLES), re.IGNORECASE)
_LOCAL = re.compile(r"url\(#([^)]+)\)")
_STYLE: Any = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same letters everywhere
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "shoal",
    "text.parse_math": False,
    "text.color": TEXT,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.minor.visible": False,
    "figure.facecolor": BACK,
    "axes.facecolor": BACK,
    "lines.solid_capstyle": "round",
}
_drawing = RLock()


@contextmanager
def drawing() -> Iterator[None]:
    """Inside, matplotlib has this house's settings and nobody else's; afterwards it has its own again.

    Everything that makes or saves a figure belongs inside. Raises UsageError where matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UsageError("plots need matplotlib: pip install 'shoal[evaluation]'") from error
    with _drawing, warnings.catch_warnings(), matplotlib.rc_context():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box in the PNG; pages have the text
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def figure(width: float = 8.0, height: float = 5.0) -> "tuple[Figure, Axes]":
    """An empty figure of so many inches, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(made)
    return made, made.add_subplot()


def save(made: "Figure", path: Path) -> Path:
    """Writes the figure as what the path's suffix says, .png or .svg. Raises StoreError where it cannot."""
    known: dict[str, dict[str, Any]] = {
        ".png": {"dpi": 200, "metadata": {"Software": None}},
        ".svg": {"metadata": {"Date": None, "Creator": None, "Format": None, "Type": None}},
    }
    options = known.get(path.suffix)
    if options is None:
        raise UsageError(f"{path}: plots are written as .png or .svg")
    with atomic_writer(path) as file:
        made.savefig(file, format=path.suffix[1:], **options)
    return path


def inline(made: "Figure", key: str, description: str) -> Markup:
    """The figure as markup for a page. `key` tells it from the page's other figures; `description` is read aloud.

    Texts from outside must have gone through `texts.plain`, as `labels.put` lets its own.
    """
    from io import StringIO

    file = StringIO()
    made.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: _at_home(name, value, key) for name, value in element.items()}
    size = root.get("viewBox", "")
    root.attrib = {"viewBox": size, "role": "img", "aria-label": words.visible(description), "class": "plot"}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _at_home(name: str, value: str, key: str) -> str:
    """An attribute's value on a page: names are the figure's own, colours the page's."""
    if name == "id":
        return f"{key}-{value}"
    if name.endswith("href"):
        return f"#{key}-{value.removeprefix('#')}"
    value = _LOCAL.sub(rf"url(#{key}-\1)", value)
    if name not in ("style", "fill", "stroke"):
        return value
    value = value.replace("'DejaVu Sans', sans-serif", "system-ui, sans-serif")
    return _COLOUR.sub(lambda found: f"var({_VARIABLES[found[0].lower()]}, {found[0]})", value)


def number_axis(axis: Any, low: float, high: float, *, log: bool, text: Callable[[float], str], most: int = 9) -> None:
    """Sets an axis from `low` to `high` with round ticks written by `text`; for a log axis `low` > 0."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    set_scale, set_limits = (
        (axis.axes.set_xscale, axis.axes.set_xlim)
        if axis.axis_name == "x"
        else (axis.axes.set_yscale, axis.axes.set_ylim)
    )
    set_scale("log" if log else "linear")
    ticks = (
        round_numbers(low, high, most) if log else MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    )
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    set_limits(low, high)


def round_numbers(low: float, high: float, most: int = 9) -> Sequence[float]:
    """Ticks for a logarithmic axis: 1, 2, 5, 10, ... as far as at most `most` of them fit, else fewer a decade."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    for steps in ((1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 5), (1, 3)):
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) <= most:
            return ticks
    powers = [10.0**decade for decade in decades if low <= 10.0**decade <= high]
    return powers[:: ceil(len(powers) / most)]


def amount(number: float) -> str:
    """A count for an axis: 950, 2k, 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.4g}{letter}"
    return f"{number:.4g}"
