"""`shoal waves`: what a run sent by its provider's batch API."""

import sys
from datetime import datetime
from pathlib import Path

import click
import msgspec
from msgspec import structs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shoal.backends import open_base
from shoal.backends.config import Config, load_config
from shoal.backends.loop import run as run_program
from shoal.backends.openai import OpenAIBackend
from shoal.backends.waves import FILE, OPEN, Wave, WaveStore
from shoal.backends.waves.api import ENDED, Batch, BatchApi
from shoal.batch.directory import DirectoryLock
from shoal.batch.waves import WITH_PROVIDER
from shoal.errors import ModelError, UsageError
from shoal.traces import words


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--cancel", is_flag=True, help="Cancel what is with the provider; what is done there stays done.")
@click.option("--forget", is_flag=True, help="Wait for nothing that was sent: it will be asked, and paid, again.")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="As for the run.")
@click.option("--json", "as_json", is_flag=True, help="Print the waves as JSON.")
def waves(run: Path, cancel: bool, forget: bool, config: Path | None, as_json: bool) -> None:
    """Show the waves that the run (or comparison) in the directory RUN sent, as it last knew them, or cancel them.

    After --cancel the same command as before collects what was done, and asks the rest again.
    """
    if cancel and forget:
        raise UsageError("give --cancel or --forget, not both")
    if not (run / FILE).is_file():
        raise UsageError(f"{run}: no run that was made with --batch-api")
    if forget:
        run_program(_forget(run))
    found = _waves(run)
    refusals: list[ModelError] = []
    if cancel:
        found, refusals = run_program(_cancelled(found, load_config(config)))
    if as_json:
        click.echo(msgspec.json.encode([structs.asdict(wave) for wave in found]))
    else:
        _print(found)
    if refusals:
        raise refusals[0]


def _waves(run: Path) -> list[Wave]:
    store = WaveStore(run, read_only=True)
    try:
        return store.waves()
    finally:
        store.close()


async def _forget(run: Path) -> None:
    lock = DirectoryLock(run, "a run directory")
    try:
        store = WaveStore(run)
        try:
            for wave in store.waves(*OPEN, "landed"):
                await store.keep(wave, forget=True, state="dropped", note="forgotten as told")
        finally:
            store.close()
    finally:
        lock.release()


async def _cancelled(found: list[Wave], config: Config) -> tuple[list[Wave], list[ModelError]]:
    """The waves, after all that are with their provider were cancelled there; why some could not be."""
    told: list[Wave] = []
    refusals: list[ModelError] = []
    for wave in found:
        try:
            told.append(await _cancel(wave, config) if wave.state in WITH_PROVIDER else wave)
        except ModelError as error:  # the others are to cost nothing more all the same
            told.append(structs.replace(wave, note=f"not cancelled: {error}"))
            refusals.append(error)
    return told, refusals


async def _cancel(wave: Wave, config: Config) -> Wave:
    backend = open_base(wave.model, config).backend
    if not isinstance(backend, OpenAIBackend) or backend.identity != wave.identity:
        raise UsageError(f"{wave.model} is at another address than when wave {wave.number} was sent; nothing was asked")
    api = BatchApi(backend)
    try:
        if wave.batch_id is None:
            made = await api.of_wave(wave.id, wave.file_id, wave.written_at)
        else:
            made = [await api.batch(wave.batch_id)]
        told = [await _stopped(api, batch) for batch in made]
    finally:
        await backend.aclose()
    if not told:
        return wave
    done, failed = told[0].counts.completed, told[0].counts.failed
    return structs.replace(wave, status=told[0].status, done=done, failed=failed)


async def _stopped(api: BatchApi, batch: Batch) -> Batch:
    if batch.status in ENDED:
        return batch
    try:
        return await api.cancel(batch.id)
    except ModelError:
        stands = await api.batch(batch.id)
        if stands.status in ENDED:  # meanwhile
            return stands
        raise


def _print(found: list[Wave]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("wave", "model", "state", "requests", "draws", "done", "failed", "sent", "expires", "batch", ""):
        table.add_column(heading)
    for wave in found:
        cells = (
            *(str(wave.number), wave.model, _state(wave), words.count(wave.requests), words.count(wave.draws)),
            *(words.count(wave.done), words.count(wave.failed), _time(wave.created_at), _time(wave.expires_at)),
            *(words.short(wave.batch_id or "", 40), words.short(wave.note, 60)),
        )
        table.add_row(*map(Text, cells))  # a provider's words are no markup
    # A pipe has no width to keep to.
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


def _state(wave: Wave) -> str:
    if wave.state == "out":
        return words.short(wave.status or "sent", 20)
    return {"landed": "back", "settled": words.short(wave.status or "back", 20)}.get(wave.state, wave.state)


def _time(seconds: float | None) -> str:
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M") if seconds else ""
    except (ValueError, OverflowError, OSError):  # a provider may say what is no time
        return "?"
