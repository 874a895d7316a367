"""`shoal ask`: one question, one answer."""

import sys
from typing import Any

import click
import msgspec
from msgspec import structs

from shoal.backends.loop import run
from shoal.cli.options import model_options, open_from, sampling_of, sampling_options, scoped, spending
from shoal.errors import ShoalError, UsageError
from shoal.prompting.answers import extract
from shoal.runtime.model import Model, stream
from shoal.runtime.trace import Span, tracing
from shoal.runtime.types import Completion, Delta, Request
from shoal.techniques.opening import bases
from shoal.techniques.spec import join_spec
from shoal.traces.html import trace_html


@click.command()
@click.argument("question")
@model_options
@sampling_options
@click.option("--budget", metavar="calls=,tokens=,seconds=,dollars=", help="Stop when this much is spent.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole completion as JSON.")
@click.option("--trace", "traced", is_flag=True, help="Print the tree of calls to stderr.")
@click.option("--html", metavar="FILE", help="Write the tree of calls as a page for a browser.")
def ask(question: str, as_json: bool, traced: bool, html: str | None, **options: Any) -> None:
    """Ask QUESTION (or - for standard input) and print the answer; it streams where no technique is named."""
    if html == "-":
        raise UsageError("--html needs a file here: standard output is for the answer")
    text = sys.stdin.read() if question == "-" else question
    request = structs.replace(Request.of(text, system=options["system"]), params=sampling_of(options))
    model = open_from(options)
    with scoped(options), spending(options):
        root = run(_ask(model, request, echo=not as_json))
    if as_json and root.completion is not None:
        answer = root.completion.answer or extract(root.completion.text)
        click.echo(msgspec.json.encode(structs.asdict(root.completion) | {"answer": answer}))
    if traced:
        from shoal.cli.tree import print_trace

        print_trace(root)
    if html:
        from shoal.cli.trace import write_page

        write_page(html, trace_html(root, title=join_spec(options["technique"], options["model"])))
    if root.error is not None:  # a failure is looked at as an answer is, and is one all the same
        raise root.error


async def _ask(model: Model, request: Request, *, echo: bool) -> Span:
    """The finished trace, with the completion or the error that ended it."""
    root = None
    try:
        with tracing("ask") as root:
            root.request = request
            async for piece in stream(model, request):
                if isinstance(piece, Completion):
                    root.completion = piece
                elif echo:
                    _echo(piece)
        if echo:
            click.echo()
    except ShoalError:
        assert root is not None
    finally:
        for base in bases(model):
            await base.aclose()
    return root


def _echo(delta: Delta) -> None:
    click.echo(delta.text, nl=False)
    sys.stdout.flush()
