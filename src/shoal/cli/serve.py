"""`shoal serve`: models and techniques behind an OpenAI-compatible endpoint, and the playground."""

from pathlib import Path
from typing import Any

import click
from msgspec import structs

from shoal.backends import loop
from shoal.backends.config import load_config
from shoal.errors import UsageError


@click.command()
@click.option(
    "-m", "--model", "models", multiple=True, metavar="SPEC", help="What to serve; repeatable. Default: local."
)
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="Default: ./shoal.toml, if there.")
@click.option("--host", help="Default: 127.0.0.1. Another address needs keys.")
@click.option("--port", type=click.IntRange(0, 65535), help="Default: 8000; 0 takes a free one.")
@click.option("--key", "secrets", multiple=True, envvar="SHOAL_SERVER_KEY", metavar="KEY", help="Ask for this key.")
@click.option("--cache", type=click.Choice(["off", "key", "shared"]), help="Whose draws are kept and used again.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Of the line for each request.")
@click.option("--quiet", is_flag=True, help="No line for each request.")
def serve(models: tuple[str, ...], config: Path | None, secrets: tuple[str, ...], quiet: bool, **options: Any) -> int:
    """Serve MODELS to OpenAI and Anthropic clients, techniques and all, with a page to try them.

    A client's model name may put any technique on a model: `self_consistency(n=8)@local`.
    """
    from shoal.server.access.keys import settings_for
    from shoal.server.app import SERVICE, create_app
    from shoal.server.http.guard import refuse_open
    from shoal.server.http.running import run_server
    from shoal.server.records import log_to_stderr
    from shoal.server.settings import settings_of

    read = load_config(config)
    settings = settings_of(read)
    given = {name: value for name, value in options.items() if value is not None}
    if models:
        given["models"] = models
    if not all(secrets):
        raise UsageError("--key, or SHOAL_SERVER_KEY: a key cannot be empty")
    given_keys = map(settings_for, secrets)
    # Named by their digests: whoever owns files must not be somebody else the next time.
    keys = {**settings.keys, **{f"key-{key.sha256[:12]}": key for key in given_keys}}
    settings = structs.replace(settings, keys=keys, **given)
    refuse_open(settings)
    log_to_stderr(settings.log_format, quiet=quiet)
    app = create_app(read, settings=settings)

    def ready(url: str) -> None:
        click.echo(f"shoal serves {', '.join(settings.models or ('local',))}\n  the API   {url}/v1\n  the page  {url}/")

    return loop.run(run_server(app, settings, app[SERVICE].names.all_bases(), ready))
