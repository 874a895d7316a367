"""`shoal ask`: one question, one answer."""

import sys
from typing import Any

import click
import msgspec
from msgspec import structs

from shoal.backends.loop import run
from shoal.cli.options import model_options, open_from, sampling_of, sampling_options, scoped
from shoal.prompting.answers import extract
from shoal.runtime.model import Model, stream
from shoal.runtime.trace import Span, tracing
from shoal.runtime.types import Completion, Delta, Request
from shoal.techniques.opening import bases


@click.command()
@click.argument("question")
@model_options
@sampling_options
@click.option("--json", "as_json", is_flag=True, help="Print the whole completion as JSON.")
@click.option("--trace", "traced", is_flag=True, help="Print the tree of calls to stderr.")
def ask(question: str, as_json: bool, traced: bool, **options: Any) -> None:
    """Ask QUESTION (or - for standard input) and print the answer; it streams where no technique is named."""
    text = sys.stdin.read() if question == "-" else question
    request = structs.replace(Request.of(text, system=options["system"]), params=sampling_of(options))
    model = open_from(options)
    with scoped(options):
        root = run(_ask(model, request, echo=not as_json))
    completion = root.completion
    assert completion is not None
    if as_json:
        answer = completion.answer or extract(completion.text)
        click.echo(msgspec.json.encode(structs.asdict(completion) | {"answer": answer}))
    if traced:
        from shoal.cli.show import print_trace

        print_trace(root)


async def _ask(model: Model, request: Request, *, echo: bool) -> Span:
    try:
        with tracing("ask") as root:
            async for piece in stream(model, request):
                if isinstance(piece, Completion):
                    root.completion = piece
                elif echo:
                    _echo(piece)
        if echo:
            click.echo()
        return root
    finally:
        for base in bases(model):
            await base.aclose()


def _echo(delta: Delta) -> None:
    click.echo(delta.text, nl=False)
    sys.stdout.flush()
