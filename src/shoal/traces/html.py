"""A trace as one page that needs nothing else: no network, no program, no knowledge of what made it."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files

from msgspec import Struct

from shoal.runtime.trace import Span
from shoal.traces import words
from shoal.traces.data import Failure, Trace
from shoal.traces.parts import Nodes, escaped, facts_list, text_block
from shoal.traces.tree import tree
from shoal.traces.waterfall import waterfall

Fact = tuple[str, str, str]  # what, how much, and a word on it


class RowPart(Struct, frozen=True):
    """A row of a run's page. `key` tells it from every other row of the page."""

    key: str
    id: str
    trace: Trace | None
    answer: str | None
    error: Failure | None


def trace_html(root: Span | Trace, *, title: str | None = None, answer: str | None = None) -> str:
    """The page of one call tree: what was asked and answered, when each call ran, every prompt and output.

    `title` says what ran, `answer` the short answer where it is known. Everything a model or a user wrote is text on
    the page, never markup.
    """
    trace = Trace.of(root)
    title = title or trace.name
    when = f" · {datetime.fromtimestamp(trace.began, UTC):%Y-%m-%d %H:%M} UTC" if trace.began else ""
    head = (
        f'<header><p class="kicker">What one program asked a language model{when}</p><h1>{escaped(title)}</h1></header>'
    )
    return _page(title, head + _story(trace, "t", answer))


def run_html(rows: Sequence[RowPart], *, title: str, facts: Iterable[Fact], note: str = "") -> str:
    """The page of a run: a line a row, which opens to all that the row did. `note` says what the page leaves out."""
    slowest = max((row.trace.seconds for row in rows if row.trace), default=0.0)
    body = [
        f'<header><p class="kicker">A language model run over many rows</p><h1>{escaped(title)}</h1></header>',
        facts_list(facts),
        f'<p class="note">{escaped(note)}</p>' if note else "",
        '<section><h2>Rows</h2><p class="hint">Open a row to see all that it did. The bar is its share of the slowest '
        "row's time.</p>",
        *(_row(row, slowest) for row in rows),
        "</section>",
    ]
    return _page(title, "".join(body))


def _story(trace: Trace, key: str, answer: str | None) -> str:
    """One tree from top to bottom: question, answer, figures, times, calls."""
    nodes = Nodes(trace, key)
    asked = text_block("What was asked", words.asked(trace))
    return "".join((asked, _outcome(trace, answer), facts_list(_facts(trace)), waterfall(nodes), tree(nodes)))


def _outcome(trace: Trace, answer: str | None) -> str:
    if trace.error is not None:
        return text_block("It failed", words.failure(trace.error), "failure")
    said = words.answered(trace)
    if said is None:
        return text_block("The answer", "(none)", "answer")
    if answer is None and trace.completion is not None:
        answer = trace.completion.answer
    lead = answer if answer is not None and answer.strip() != said.strip() else None
    return text_block("The answer", said, "answer", lead=lead)


def _facts(trace: Trace) -> Iterable[Fact]:
    usage, path, calls = trace.usage, trace.critical_path(), trace.calls()
    failed = sum(call.failed for call in calls)
    notes = [f"{words.count(usage.cached_calls)} from the cache, for nothing"] if usage.cached_calls else []
    notes += [f"{words.count(failed)} failed"] if failed else []
    yield "questions to the model", words.count(len(calls)), ", ".join(notes)
    yield "tokens read", words.count(usage.prompt_tokens), "prompts"
    yield "tokens written", words.count(usage.completion_tokens), "outputs"
    waited = words.seconds(sum(call.seconds for call in path))
    chain = f"{waited} of it in {words.plural(len(path), 'call')}" if path else ""
    chain += ", one after another" if len(path) > 1 else ""
    yield "from start to end", words.seconds(trace.seconds), chain


def _row(row: RowPart, slowest: float) -> str:
    trace = row.trace
    if row.error is not None:
        said = f'<span class="gist failed">✗ {escaped(words.short(words.failure(row.error), 90))}</span>'
    else:
        answer = row.answer if row.answer is not None else (words.answered(trace) if trace else None)
        said = f'<span class="gist">{escaped(words.short(answer or "", 90))}</span>'
    question = escaped(words.short(words.asked(trace), 110)) if trace else "finished without a trace"
    figures = f"{words.plural(len(trace.calls()), 'call')} · {words.seconds(trace.seconds)}" if trace else ""
    share = 100 * trace.seconds / slowest if trace and slowest else 0
    body = (
        _story(trace, f"r{row.key}", row.answer) if trace else '<p class="hint">Nothing was recorded of this row.</p>'
    )
    return (
        f'<details class="row"><summary><b class="id">{escaped(words.short(row.id, 40))}</b>'
        f'<span class="question">{question}</span>{said}<span class="figures">{figures}</span>'
        f'<span class="meter"><i style="width:{share:.1f}%"></i></span></summary>'
        f'<div class="body">{body}</div></details>'
    )


def _page(title: str, body: str) -> str:
    here = files("shoal.traces")
    style = here.joinpath("page.css").read_text("utf-8")
    script = here.joinpath("page.js").read_text("utf-8")
    help_ = here.joinpath("help.html").read_text("utf-8")
    allowed = b64encode(sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'; base-uri 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(words.short(title, 80))} · shoal trace</title><style>{style}</style></head>\n"
        f"<body><main>{body}{help_}</main><script>{script}</script></body></html>\n"
    )
