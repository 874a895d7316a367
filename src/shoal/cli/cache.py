"""`shoal cache`: look at the draw cache, or empty it."""

from pathlib import Path

import click
import msgspec

from shoal.errors import CorruptStore, StoreError
from shoal.runtime.cache import DrawCache, default_cache_path


@click.group()
def cache() -> None:
    """Look at the draw cache, or empty it. SHOAL_CACHE names another file."""


@cache.command()
@click.option("--json", "as_json", is_flag=True)
def info(as_json: bool) -> None:
    """Where the cache is, how large, and what it holds."""
    path = default_cache_path()
    if not path.exists():
        click.echo(msgspec.json.encode({"path": str(path), "draws": 0}) if as_json else f"{path}: no cache yet")
        return
    kept = DrawCache(path)
    questions, draws = kept.counts()
    kept.close()
    size = sum(file.stat().st_size for file in _files(path))
    if as_json:
        click.echo(msgspec.json.encode({"path": str(path), "bytes": size, "questions": questions, "draws": draws}))
    else:
        click.echo(f"{path}: {draws:,} draws of {questions:,} questions, {size / 2**20:.1f} MiB")


@cache.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(yes: bool) -> None:
    """Remove the cache. Run directories keep their own draws."""
    path = default_cache_path()
    if not path.exists():
        click.echo(f"{path}: no cache")
        return
    try:
        DrawCache(path).close()  # another program's file is refused here
    except CorruptStore as error:
        if path.read_bytes()[:16] == b"SQLite format 3\0" and "another program" in str(error):
            raise StoreError(f"{path} is not a cache of shoal's; it is left alone") from None
    if not yes:
        click.confirm(f"remove {path}?", abort=True)
    for file in _files(path):
        file.unlink(missing_ok=True)
    click.echo(f"removed {path}")


def _files(path: Path) -> list[Path]:
    """The database with its write-ahead log and shared memory."""
    return [file for suffix in ("", "-wal", "-shm") if (file := path.with_name(path.name + suffix)).exists()]
