"""What each call of a trace was asked and said, nested as the calls were."""

from shoal.runtime.types import Request
from shoal.traces import words
from shoal.traces.data import Trace
from shoal.traces.parts import Nodes, costless, escaped, label, preformatted

_BUTTONS = (
    '<p class="buttons"><button type="button" data-open="1">open all</button> '
    '<button type="button" data-open="">close all</button></p>'
)


def tree(nodes: Nodes) -> str:
    if not nodes.all:
        return '<p class="hint">No call was made.</p>'
    few = len(nodes.all) <= 2
    inside = "".join(_node(nodes, child, None, few) for child in nodes.trace.children)
    return f'<section class="tree"><h2>What each call was asked and said</h2>{_BUTTONS}{inside}</section>'


def _node(nodes: Nodes, span: Trace, above: Trace | None, few: bool) -> str:
    unfolded = " open" if few or span.kind != "call" or span.failed else ""
    children = "".join(_node(nodes, child, span, few) for child in span.children)
    return (
        f'<details class="node {nodes.classes(span)}" id="{nodes.name(span)}"{unfolded}>'
        f'<summary><span class="title">{nodes.mark(span)}<b>{label(span)}</b></span>{_summary(span)}</summary>'
        f'<div class="body">{_texts(nodes, span, above)}{children}</div></details>'
    )


def _summary(span: Trace) -> str:
    figures = f"{words.tokens(span.usage)} · {words.seconds(span.seconds)}"
    if span.kind != "call":
        figures = f"{words.plural(len(span.calls()), 'call')} · {figures}"
    if span.error is not None:
        kind = "failed" if span.failed else "stopped"
        gist = f'<span class="gist {kind}">{escaped(words.short(words.failure(span.error), 200))}</span>'
    else:
        gist = f'<span class="gist" dir="auto">{escaped(words.short(words.answered(span) or "", 100))}</span>'
    badge = '<span class="badge">from the cache</span>' if costless(span) else ""
    return f'{gist}{badge}<span class="figures">{figures}</span>'


def _texts(nodes: Nodes, span: Trace, above: Trace | None) -> str:
    """A call's texts; those of what made calls itself are folded away, as its calls say most of them."""
    texts = [_message(name, words.shown(value), "user") for name, value in (span.arguments or {}).items()]
    if span.request is not None:
        texts.append(_asked(nodes, span.request, above))
    texts += _came(span)
    if span.kind == "call" or not span.children:
        return "".join(texts)
    return f'<details class="own"><summary>its question and its answer</summary>{"".join(texts)}</details>'


def _asked(nodes: Nodes, request: Request, above: Trace | None) -> str:
    given = words.parameters(request)
    params = f'<p class="with">sampled with {escaped(given)}</p>' if given else ""
    if above is not None and above.request is not None and words.same_question(request, above.request):
        return f'<p class="with">asked the same as <a href="#{nodes.name(above)}">{label(above)}</a></p>{params}'
    return "".join(_message(who, text, "user") for who, text in words.messages(request)) + params


def _came(span: Trace) -> list[str]:
    """The error, or the output."""
    if span.error is not None and span.cancelled:
        return [f'<p class="with">{words.failure(span.error)}</p>']
    if span.error is not None:
        return [_message(span.error.type, span.error.message, "failed")]
    completion = span.completion
    if completion is None:
        return [] if span.result is None else [_message("result", words.shown(span.result), "output")]
    reasoning = [_message("reasoning", completion.reasoning, "reasoning")] if completion.reasoning else []
    cut = "" if completion.finish_reason == "stop" else f" (ended by: {completion.finish_reason})"
    return [*reasoning, _message(f"output{cut}", words.answered(span) or "", "output")]


def _message(who: str, text: str, kind: str) -> str:
    return f'<div class="message {kind}"><h4>{escaped(who)}</h4>{preformatted(text)}</div>'
