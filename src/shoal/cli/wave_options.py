"""What --batch-api adds to a command: its options, its waves, and what is said of them."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import click

from shoal.batch.waves import WITH_PROVIDER, Home, by_batch_api, waves_of
from shoal.cli.options import stacked
from shoal.errors import UsageError
from shoal.planning.waves import window_seconds
from shoal.traces import words

if TYPE_CHECKING:
    from shoal.backends.waves import Wave, WaveSettings

batch_api_options = stacked(
    click.option("--batch-api", is_flag=True, help="Ask by the provider's batch API: half the price, within a day."),
    click.option("--tail-live", type=click.IntRange(0), default=0, metavar="K", help="Send the last K calls live."),
    click.option("--batch-window", default="24h", metavar="TIME", help="The batches' completion window."),
    click.option("--batch-rows", type=click.IntRange(1), default=50_000, metavar="N", help="Most rows asleep at once."),
)


def window_of(options: dict[str, Any]) -> int | None:
    """Rows under way at once where calls travel in waves: all that may sleep. UsageError for options that clash."""
    if options["batch_api"] and options["replay"]:
        raise UsageError("--replay asks nothing; leave --batch-api out")
    if options["batch_api"]:
        window_seconds(options["batch_window"])
        return int(options["batch_rows"])
    for name in ("tail_live", "batch_window", "batch_rows"):
        source = click.get_current_context().get_parameter_source(name)
        if source is not click.core.ParameterSource.DEFAULT:
            raise UsageError(f"--{name.replace('_', '-')} is for --batch-api")
    return None


def settings_of(options: dict[str, Any]) -> "WaveSettings | None":
    """How calls travel, where --batch-api says that they do."""
    if not options["batch_api"]:
        return None
    from shoal.backends.waves import WaveSettings

    return WaveSettings(tail_live=options["tail_live"], window=options["batch_window"], rows=options["batch_rows"])


def in_waves(models: Sequence[object], directory: Home, options: dict[str, Any]) -> AbstractAsyncContextManager[None]:
    """In the body calls travel by the batch API, where --batch-api says so."""
    return by_batch_api(models, directory, settings_of(options), teller(options))


def teller(options: dict[str, Any]) -> "Callable[[Wave], None] | None":
    """Says of each wave that it has left and that it is back, where people are told by lines."""
    quiet = options["quiet"] or options["as_json"] or sys.stderr.isatty()
    return None if quiet else _tell


def _tell(wave: "Wave") -> None:
    """A line where there is no live view: a log that is read hours later."""
    if wave.state == "out":
        click.echo(f"wave {wave.number}: {words.plural(wave.requests, 'request')} sent as {wave.batch_id}", err=True)
    else:
        failed = f", {wave.failed} failed" if wave.failed else ""
        click.echo(f"wave {wave.number}: {wave.status}, {wave.done} of {wave.requests} answered{failed}", err=True)


def tell_of_waves(directory: Home, options: dict[str, Any]) -> None:
    """Say what stays with the provider when the command ends."""
    if not options["batch_api"]:
        return
    waves = [wave for wave in waves_of(directory) if wave.state in WITH_PROVIDER]
    if waves:
        left = words.plural(sum(wave.requests for wave in waves), "request")
        click.echo(
            f"{words.plural(len(waves), 'wave')} with {left} left with the provider: the same command collects them, "
            f"`shoal waves {directory.path} --cancel` cancels them",
            err=True,
        )
