"""The call tree on the terminal: a line a call, or with every prompt and output whole."""

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from shoal.cli.show import errors
from shoal.runtime.trace import Span
from shoal.runtime.types import Request
from shoal.traces import words
from shoal.traces.data import Trace

_STYLES = {
    "technique": "bold cyan",
    "program": "bold magenta",
    "builtin": "magenta",
    "parallel": "magenta",
    "call": "bold",
}


def print_trace(root: Span | Trace, *, whole: bool = False, console: Console = errors) -> None:
    """The tree of calls; those of the critical path are marked. `whole`: with prompts and outputs."""
    trace = Trace.of(root)
    path = trace.critical_path()
    on_path = {id(span) for span in path}
    tree = Tree(Text(trace.name if whole else "trace", style="bold"), guide_style="dim")
    if whole:
        _program(tree, trace)
        _error(tree, trace)
    for child in trace.children:
        _branch(tree, child, on_path, whole=whole, above=None)
    console.print(tree)
    usage = trace.usage
    console.print(
        f"{words.plural(usage.calls, 'call')} ({usage.cached_calls} cached), {words.count(usage.prompt_tokens)} prompt "
        f"+ {words.count(usage.completion_tokens)} completion tokens, {words.seconds(trace.seconds)}; "
        f"critical path [red]●[/red] {words.plural(len(path), 'call')}, "
        f"{words.seconds(sum(span.seconds for span in path))}",
        soft_wrap=True,
    )


def _branch(tree: Tree, span: Trace, on_path: set[int], *, whole: bool, above: Request | None) -> None:
    node = tree.add(_line(span, on_path, whole=whole))
    if whole:
        _texts(node, span, above)
    for child in span.children:
        _branch(node, child, on_path, whole=whole, above=span.request)


def _line(span: Trace, on_path: set[int], *, whole: bool) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    if id(span) in on_path:
        line.append("● ", style="red")
    line.append(words.visible(span.name), style=_STYLES[span.kind])
    if span.request is not None and span.request.sample:
        line.append(f" #{'.'.join(map(str, span.request.sample))}", style="dim")
    usage = span.usage
    calls = "" if span.kind == "call" else f"{words.plural(len(span.calls()), 'call')}, "
    figures = f"{calls}{usage.prompt_tokens}+{usage.completion_tokens} tokens, {words.seconds(span.seconds)}"
    line.append(f"  {figures}", style="dim")
    if usage.cached_calls and not usage.calls:
        line.append("  cached", style="green")
    if span.error is not None and not (whole and span.failed):
        line.append(f"  {words.short(words.failure(span.error), 100)}", style="red" if span.failed else "dim")
    elif not whole and (answer := words.answered(span)) is not None:
        line.append(f"  {words.short(answer, 60)}", style="italic")
    return line


def _program(node: Tree, span: Trace) -> None:
    """What a program was given and what it gave."""
    for name, value in (span.arguments or {}).items():
        _text(node, name, words.shown(value), "cyan")
    if span.result is not None:
        _text(node, "result", words.shown(span.result), "green")


def _texts(node: Tree, span: Trace, above: Request | None) -> None:
    """Prompt and output, whole; a prompt that is the caller's own is not said again."""
    if span.kind in ("program", "builtin"):
        _program(node, span)
    request = span.request
    if request is not None:
        if given := words.parameters(request):
            _text(node, "with", given, "dim")
        if above is not None and words.same_question(request, above):
            node.add(Text("asked the same", style="dim"))
        else:
            for who, text in words.messages(request):
                _text(node, who, text, "cyan")
    if span.completion is not None and (answer := words.answered(span)) is not None:
        _text(node, "output", answer, "green")
    _error(node, span)


def _error(node: Tree, span: Trace) -> None:
    if span.error is not None and span.failed:
        _text(node, span.error.type, span.error.message, "red")


def _text(node: Tree, who: str, text: str, style: str) -> None:
    node.add(Text.assemble((f"{words.visible(who)}: ", style), words.visible(text)))
