"""Parts of the page of a run that hold prompts: what models wrote is text in them, however long."""

from collections.abc import Collection, Iterable, Sequence

from markupsafe import Markup

from shoal.evaluation.report.page import Cell, Column, table, templates
from shoal.evaluation.report.texts import clipped, plain, upright
from shoal.traces import words

_SHORT, _LONG = 240, 20_000  # characters: shown whole in a table; shown at all
_AT_ONCE, _MOST = 12, 500  # rows


def prompts(shown: Iterable[tuple[str, Sequence[str], bool]]) -> Markup:
    """Prompts whole, each under its heading; whether it is one to be proud of."""
    return _render(
        "prompts.html", prompts=[(head, [_clipped(text) for text in texts], good) for head, texts, good in shown]
    )


def prompt(*texts: str) -> Markup:
    """Prompts in a cell of a table; long ones are folded."""
    clipped = [
        (_clipped(text), plain(text, 120) if len(text) > _SHORT or text.count("\n") > 3 else "") for text in texts
    ]
    return _render("prompt.html", texts=clipped)


def long_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], marked: Collection[int] = ()) -> Markup:
    """A table whose first rows are shown at once, the rest where it is opened."""
    shown, rest = table(columns, rows[:_AT_ONCE], marked), rows[_AT_ONCE:_MOST]
    more = table(columns, rest, {place - _AT_ONCE for place in marked}) if rest else None
    return _render("more.html", shown=shown, more=more, number=words.count(len(rest)))


def _clipped(text: str) -> str:
    return clipped(upright(text), _LONG)


def _render(template: str, **values: object) -> Markup:
    return Markup(templates(__package__).get_template(template).render(values))
