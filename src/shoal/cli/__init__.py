"""The command line: parse, call, print. Commands are imported when they are used, so that `--help` is quick."""

import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import click

from shoal.errors import ShoalError, UsageError, did_you_mean, told

# command -> (module, what --help says of it)
_COMMANDS = {
    "ask": ("shoal.cli.ask", "Ask one question and print the answer."),
    "run": ("shoal.cli.run", "Run a prompt over every row of a data file."),
    "merge": ("shoal.cli.merge", "Put the shards of a run together."),
    "plan": ("shoal.cli.plan", "Say what a run will cost, before it runs."),
    "compare": ("shoal.cli.compare", "Compare techniques on your data, with confidence intervals."),
    "evolve": ("shoal.cli.evolve", "Breed prompts for a task of a Day Care folder."),
    "data": ("shoal.cli.data", "Data sets that ship with shoal, and generated puzzles."),
    "serve": ("shoal.cli.serve", "Serve models and techniques to OpenAI clients, and a page to try them."),
    "key": ("shoal.cli.key", "Make a key for the server."),
    "trace": ("shoal.cli.trace", "Show what a traced run did, call by call."),
    "waves": ("shoal.cli.waves", "Show what a run sent by a batch API, or cancel it."),
    "models": ("shoal.cli.catalogue", "List what can stand in a model spec."),
    "techniques": ("shoal.cli.catalogue", "List the techniques, their options and what they cost."),
    "scorers": ("shoal.cli.catalogue", "List how answers can be rated."),
    "sandbox": ("shoal.cli.sandbox", "See what confines model-written code, or run a program in it."),
    "cache": ("shoal.cli.cache", "Look at the draw cache, or empty it."),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            raise UsageError(f"no command {args[0]!r}; {did_you_mean(args[0], _COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="shoal", prog_name="shoal")
def shoal() -> None:
    """Run LLM programs in bulk and spend test-time compute well.

    MODEL is `local`, `gguf/PATH`, `vllm/MODEL`, `transformers/MODEL`, `openai/NAME`, `ENDPOINT/NAME` or
    `scripted/FILE.py:function`, with techniques before it: `self_consistency(n=8)@openai/gpt-x`.
    """


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"shoal: {message}", err=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Exit codes: 0 all well, 1 something failed, 2 bad usage, 130 interrupted."""
    _hold_standard_streams()
    warnings.showwarning = _warn
    sys.exit(_main(argv))


def _hold_standard_streams() -> None:
    """Put the null device where a standard stream is closed, lest its number go to a socket of ours."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _main(argv: Sequence[str] | None) -> int:
    try:
        for argument in sys.argv[1:] if argv is None else argv:
            if not argument.isascii() and argument.encode(errors="replace").decode() != argument:
                raise UsageError(f"an argument is not UTF-8: {argument.encode(errors='replace').decode()[:60]!r}")
        result = shoal.main(args=argv, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "shoal"
        click.echo(f"{where}: {error.format_message()}", err=True)
        return error.exit_code
    except UsageError as error:
        click.echo(f"shoal: {told(error)}", err=True)
        return 2
    except ShoalError as error:
        click.echo(f"shoal: {type(error).__name__}: {told(error)}", err=True)
        return 1
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:  # the reader of our output went away
        sys.stdout = None
        return 1
    except OSError as error:
        click.echo(f"shoal: {error}", err=True)
        return 1
