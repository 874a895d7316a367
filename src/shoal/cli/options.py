"""Options that several commands share, and what they mean."""

import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import click

from shoal.backends import BaseModel
from shoal.backends.config import load_config
from shoal.errors import UsageError
from shoal.evaluation.datasets.naming import suggested_for
from shoal.runtime import budget, replay, scope
from shoal.runtime.budget import Budget
from shoal.runtime.model import Applied
from shoal.runtime.types import SamplingParams, sampling_params
from shoal.techniques.opening import from_bases, open_cache, opener
from shoal.techniques.spec import OpenBase, join_spec

F = TypeVar("F", bound=Callable[..., Any])


def stacked(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several decorators as one, the first outermost."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


# Of options that are many, which go together.
_HEADINGS = {
    "What is asked": ("prompt", "messages", "program", "template", "args", "samples", "bare", "system", "system_file"),
    "Who is asked": ("model", "technique", "config", "no_cache", "replay"),
    "Sampling": ("temperature", "top_p", "max_tokens", "stop", "seed"),
    "Scores": ("answer", "scorer"),
    "Cost and pace": (
        *("plan", "pilot", "pilot_seed", "budget", "allocate"),
        *("limit", "max_in_flight", "queries_per_batch"),
    ),
    "At half the price": ("batch_api", "tail_live", "batch_window", "batch_rows"),
    "What comes of it": ("run_dir", "shard", "output", "traced", "quiet", "as_json"),
}


class Headed(click.Command):
    """A command whose --help shows its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        records = {str(option.name): option.get_help_record(ctx) for option in options}
        others = tuple(records.keys() - set(sum(_HEADINGS.values(), ())))
        for heading, names in (_HEADINGS | {"Others": others}).items():
            if shown := [record for name in names if (record := records.get(name))]:
                with formatter.section(heading):
                    formatter.write_dl(shown)


def _system_file(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    """Keep the text of the file for --system, which is read after it; line ends at its end are no part of it."""
    if path is None:
        return
    try:
        ctx.meta["system-file"] = Path(path).read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--system-file {path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None


def _system(ctx: click.Context, _: click.Parameter, text: str | None) -> str | None:
    read: str | None = ctx.meta.get("system-file")
    if text is not None and read is not None:
        raise UsageError("--system and --system-file both say the system message; give one")
    return text if read is None else read


# What is asked of each row.
prompt_options = stacked(
    click.option("-p", "--prompt", metavar="TEMPLATE", help='Names columns: "Q: {question}". Default: {prompt}.'),
    click.option("--messages", metavar="COLUMN", help="A column that holds whole conversations, instead of -p."),
)

row_options = stacked(
    prompt_options,
    click.option("--program", metavar="FILE.py:NAME", help="A program, or a .jinja file; columns are arguments."),
    click.option(
        "--template", multiple=True, metavar="TEXT|@FILE", help="A prompt for every row of --args; repeatable."
    ),
    click.option("--args", metavar="FILE", help="Rows of arguments for the templates, instead of DATA."),
    click.option(
        "--samples", type=click.IntRange(1), default=1, metavar="N", help="Answers to each prompt of --template."
    ),
    click.option("--bare", is_flag=True, help="Continue the bare prompt (text completions), not a chat turn."),
)

pilot_options = stacked(
    click.option("--pilot", type=click.IntRange(4), metavar="K", help="Run K rows for real, and predict from them."),
    click.option("--pilot-seed", type=int, default=0, metavar="N", help="Which rows: another seed, other rows."),
)


def spending(options: dict[str, Any]) -> AbstractContextManager[None]:
    """What is asked in the body spends from --budget, where it is given."""
    return scope.setting(budget.current, Budget.parse(options["budget"])) if options["budget"] else nullcontext()


model_options = stacked(
    click.option("-m", "--model", default="local", show_default=True, metavar="SPEC", help="The model to ask."),
    click.option("-t", "--technique", metavar="TECHNIQUE", help="A technique, as in self_consistency(n=8)."),
    click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Endpoints; default ./shoal.toml.",
    ),
    click.option("--no-cache", is_flag=True, help="Neither read nor write the draw cache."),
    click.option("--replay", is_flag=True, help="Ask nothing: every draw must be in the cache."),
)

sampling_options = stacked(
    click.option("--system", metavar="TEXT", callback=_system, help="System message."),
    click.option(
        "--system-file",
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_system_file,
        help="System message, from a file.",
    ),
    click.option("--temperature", type=click.FloatRange(0), help="0 is greedy; default: the server's own."),
    click.option("--top-p", type=click.FloatRange(0, 1)),
    click.option("--max-tokens", type=click.IntRange(1), help="Longest answer, in tokens."),
    click.option("--stop", multiple=True, metavar="TEXT", help="End the answer before this text; repeatable."),
    click.option("--seed", type=int, help="Sent to backends that take one; each draw gets a seed of its own."),
)

SAMPLING = ("temperature", "top_p", "max_tokens", "stop", "seed")


def sampling_of(options: dict[str, Any]) -> SamplingParams:
    """The sampling parameters among a command's options."""
    return sampling_params(**{name: options[name] for name in SAMPLING})


def scoped(options: dict[str, Any]) -> AbstractContextManager[None]:
    """Where --replay is given, nothing is asked in the body."""
    if options["replay"] and options["no_cache"]:
        raise UsageError("--replay needs the cache; leave --no-cache out")
    return scope.setting(replay.offline, True) if options["replay"] else nullcontext()


def open_from(
    options: dict[str, Any], max_in_flight: int | None = None, queries_per_batch: int | None = None
) -> BaseModel | Applied:
    """The model that -m, -t, --config and --no-cache name."""
    return named_model(options, opener_from(options, max_in_flight, queries_per_batch))


def named_model(options: dict[str, Any], open_base: OpenBase) -> BaseModel | Applied:
    """The model that -m and -t name, on bases that `open_base` opens."""
    return from_bases(join_spec(options["technique"], options["model"]), open_base)


def opener_from(
    options: dict[str, Any], max_in_flight: int | None = None, queries_per_batch: int | None = None
) -> OpenBase:
    """Opens base models, each once, as --config and --no-cache say."""
    return opener(
        load_config(options["config"]),
        cache=open_cache(not options["no_cache"]),
        max_in_flight=max_in_flight,
        queries_per_batch=queries_per_batch,
    )


def with_suggestions(data: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """The options, with what DATA suggests for those of prompt, answer and scorer that were not given; says so."""
    suggested = suggested_for(data)
    if suggested is None:
        return options
    filled: dict[str, Any] = {}
    if not any(options.get(name) for name in ("prompt", "messages", "program", "template", "bare")):
        filled["prompt"] = suggested.template
    if not options.get("answer"):
        filled["answer"] = suggested.target
    if not options.get("scorer") and options.get("answer") in (None, suggested.target):
        filled["scorer"] = suggested.scorer
    if filled:
        told = " ".join(f"--{name} {shlex.quote(value)}" for name, value in filled.items()).replace("\n", "\\n")
        click.echo(f"{data} suggests: {told}", err=True)
    return options | filled
