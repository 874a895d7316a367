"""What every part of a trace's page is made of. Whatever did not come from here goes through `escaped`."""

from collections.abc import Iterable
from html import escape

from shoal.traces import words
from shoal.traces.data import Trace


def escaped(text: str) -> str:
    """Text for any place of a page, attributes included."""
    return escape(words.visible(text), quote=True)


def preformatted(text: str) -> str:
    return f'<pre dir="auto" tabindex="0">{escaped(text)}</pre>'


def text_block(heading: str, text: str, kind: str = "", *, lead: str | None = None) -> str:
    """A long text under a heading; `lead` is its short form."""
    first = f'<p class="lead" dir="auto">{escaped(lead)}</p>' if lead is not None else ""
    return f'<section class="said {kind}"><h2>{heading}</h2>{first}{preformatted(text)}</section>'


def facts_list(facts: Iterable[tuple[str, str, str]]) -> str:
    """Figures: what, how much, and a word on it."""
    items = (
        f'<div><dt>{escaped(what)}</dt><dd>{escaped(much)}</dd><dd class="more">{escaped(more)}</dd></div>'
        for what, much, more in facts
    )
    return f'<dl class="facts">{"".join(items)}</dl>'


class Nodes:
    """The spans of one trace in order, each under a name of its own on the page, which begins with `key`."""

    def __init__(self, trace: Trace, key: str) -> None:
        self.trace = trace
        self.all: list[tuple[Trace, int]] = []  # with their depths
        self._on_path = {id(span) for span in trace.critical_path()}
        self._names: dict[int, str] = {}
        for child in trace.children:
            self._add(child, key, 0)

    def _add(self, span: Trace, key: str, depth: int) -> None:
        self._names[id(span)] = f"{key}-{len(self.all)}"
        self.all.append((span, depth))
        for child in span.children:
            self._add(child, key, depth + 1)

    def name(self, span: Trace) -> str:
        """Where the span stands on the page."""
        return self._names[id(span)]

    def classes(self, span: Trace) -> str:
        kinds = {
            span.kind: True,
            "critical": id(span) in self._on_path,
            "cached": costless(span),
            "failed": span.failed,
            "cancelled": span.cancelled,
        }
        return " ".join(kind for kind, is_one in kinds.items() if is_one)

    def mark(self, span: Trace) -> str:
        if span.failed:
            return '<span class="cross" title="failed">✗ </span>'
        return '<span class="mark" title="in the longest chain">● </span>' if id(span) in self._on_path else ""


def costless(span: Trace) -> bool:
    usage = span.usage
    return bool(usage.cached_calls) and not usage.calls


def label(span: Trace) -> str:
    """The span's name, and the number of its draw."""
    sample = span.request.sample if span.request is not None else ()
    draw = f' <span class="draw">#{".".join(map(str, sample))}</span>' if sample else ""
    return escaped(words.short(span.name, 80)) + draw
