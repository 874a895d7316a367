"""A page in one file, for any browser: no network, no script, light or dark as its reader has it, good on paper."""

from collections.abc import Collection, Iterable, Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from msgspec import Struct

from shoal.evaluation.report.texts import plain
from shoal.traces import words

# Text is put in escaped; only what is Markup stands as it is, and Markup is made by templates and plots alone.
Cell = str


class Section(Struct, frozen=True):
    """A part of a page under its heading. `hint` is one line on how to read it."""

    heading: str
    body: Markup
    hint: str = ""


class Column(Struct, frozen=True):
    """A column of a table. Numbers stand to the right; `hint` shows where the pointer rests."""

    heading: str
    number: bool = False
    hint: str = ""


def page(title: str, kicker: str, sections: Iterable[Section], lead: Sequence[str] = ()) -> str:
    """The whole page. `kicker` says above the title what this is; `lead` are the sentences to read first."""
    return str(render("page.html", title=title, kicker=kicker, lead=lead, sections=list(sections), style=_style()))


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], marked: Collection[int] = ()) -> Markup:
    """A table whose first column names its rows. `marked` are the rows, from 0, that stand out."""
    return render("table.html", columns=columns, rows=list(rows), marked=marked)


def plots(wide: Markup, narrow: Markup | None = None, caption: str = "", narrow_caption: str = "") -> Markup:
    """A plot from `plotting.inline`, with a narrower drawing of the same, and a word on it, for small screens."""
    return render("plots.html", wide=wide, narrow=narrow, caption=caption, narrow_caption=narrow_caption)


def facts(pairs: Iterable[tuple[str, str]]) -> Markup:
    """What is what, in two columns."""
    return render("facts.html", pairs=list(pairs))


def interval(low: float, high: float, at: float, zero: float, *, sure: bool) -> Markup:
    """A figure and its interval on a line with a dotted `zero`, all in per cent of the width; `sure` where they differ.

    Lines one below the other are to have one scale.
    """
    low, high, at, zero = (round(place, 2) for place in (low, high, at, zero))
    return render("interval.html", low=low, high=high, at=at, zero=zero, sure=sure)


def render(template: str, **values: object) -> Markup:
    """One of this package's templates, filled in; every value that is not Markup is escaped."""
    return Markup(templates(__package__).get_template(template).render(values))


@cache
def templates(package: str) -> Environment:
    """The templates that a package has in its folder of that name, made so that text is put in escaped and visible."""
    made = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: words.visible(value) if type(value) is str else value,
    )
    made.filters["short"] = plain
    return made


@cache
def _style() -> Markup:
    """The look of traces, and what reports add."""
    traces = files("shoal.traces").joinpath("page.css").read_text("utf-8")
    own = files("shoal.evaluation.report").joinpath("page.css").read_text("utf-8")
    return Markup(traces + own)
