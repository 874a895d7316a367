"""When each call of a trace ran: a bar a call."""

from shoal.traces import words
from shoal.traces.data import Trace
from shoal.traces.parts import Nodes, escaped, label

_MOST_BARS = 300
_HINT = (
    'Time goes from left to right. <b class="mark">● marked calls</b> are the chain that the whole time is made of: '
    "only a faster one of these makes the whole faster."
)


def waterfall(nodes: Nodes) -> str:
    if not nodes.all:
        return ""
    whole = nodes.trace.seconds or 1e-9
    ticks = "".join(f"<span>{words.seconds(whole * part / 4)}</span>" for part in range(5))
    bars = "".join(_bar(nodes, span, depth, whole) for span, depth in nodes.all[:_MOST_BARS])
    left = len(nodes.all) - _MOST_BARS
    more = f'<p class="hint">… and {words.count(left)} more, in the list below</p>' if left > 0 else ""
    return (
        f'<section class="times"><h2>When each call ran</h2><p class="hint">{_HINT}</p>'
        f'<div class="axis"><div>{ticks}</div></div>{bars}{more}</section>'
    )


def _bar(nodes: Nodes, span: Trace, depth: int, whole: float) -> str:
    left = min(max(100 * span.start / whole, 0.0), 100.0)
    width = min(max(100 * span.seconds / whole, 0.0), 100.0 - left)
    asked = words.short(words.asked(span), 120)
    indent = min(depth, 8) * 0.9
    return (
        f'<a class="run {nodes.classes(span)}" href="#{nodes.name(span)}" title="{escaped(asked)}">'
        f'<span class="label" style="padding-left:{indent:.1f}em">{nodes.mark(span)}{label(span)}</span>'
        f'<span class="track"><i style="left:{left:.2f}%;width:{width:.2f}%"></i></span>'
        f'<span class="time">{words.seconds(span.seconds)}</span></a>'
    )
