"""`shoal models` and `shoal techniques`: what can stand in a spec."""

from pathlib import Path

import click
import msgspec

from shoal.backends.config import load_config
from shoal.techniques import TECHNIQUES
from shoal.techniques.spec import describe_options

_FORMS = {
    "local": "the embedded model, SmolLM2-135M-Instruct, on this machine",
    "gguf/PATH": "any GGUF file, in this process (llama.cpp)",
    "openai/MODEL": "OPENAI_API_KEY, and OPENAI_BASE_URL for another server",
    "NAME/MODEL": "NAME_BASE_URL and NAME_API_KEY, or [endpoints.NAME] in shoal.toml",
    "scripted/FILE.py:function": "answers from a Python function of yours",
}


@click.command()
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@click.option("--json", "as_json", is_flag=True)
def models(config: Path | None, as_json: bool) -> None:
    """List what can stand in a model spec, and the endpoints configured here."""
    endpoints = load_config(config).endpoints
    if as_json:
        found = {name: endpoint.base_url for name, endpoint in endpoints.items()}
        click.echo(msgspec.json.encode({"forms": _FORMS, "endpoints": found}))
        return
    width = max(map(len, _FORMS))
    for form, meaning in _FORMS.items():
        click.echo(f"{form:<{width}}  {meaning}")
    for name, endpoint in endpoints.items():
        click.echo(f"{name + '/MODEL':<{width}}  {endpoint.base_url}")


@click.command()
@click.option("--json", "as_json", is_flag=True)
def techniques(as_json: bool) -> None:
    """List the techniques: options with their defaults, calls of the model, calls one after another, paper."""
    if as_json:
        click.echo(msgspec.json.encode({slug: _facts(slug) for slug in TECHNIQUES}))
        return
    for slug, entry in TECHNIQUES.items():
        click.echo(click.style(slug, bold=True) + (f"  ({', '.join(entry.aliases)})" if entry.aliases else ""))
        click.echo(f"  {entry.summary}")
        click.echo(f"  options  {describe_options(entry)}")
        click.echo(f"  calls    {entry.calls}, {entry.critical_path} one after another")
        click.echo(f"  paper    {entry.paper}\n")


def _facts(slug: str) -> dict[str, object]:
    entry = TECHNIQUES[slug]
    options = {name: default if _plain(default) else repr(default) for name, default in entry.options.items()}
    return {
        "summary": entry.summary,
        "aliases": entry.aliases,
        "options": options,
        "calls": entry.calls,
        "critical_path": entry.critical_path,
        "paper": entry.paper,
    }


def _plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
