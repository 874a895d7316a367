"""`shoal models`, `shoal techniques` and `shoal scorers`: what can stand in a spec."""

import inspect
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from shoal.backends.config import load_config
from shoal.errors import UsageError, did_you_mean
from shoal.techniques import TECHNIQUES, find, names, options_of
from shoal.techniques.spec import describe_options

_FORMS = {
    "local": "the embedded model, SmolLM2-135M-Instruct, on this machine",
    "gguf/PATH": "any GGUF file, in this process (llama.cpp)",
    "vllm/MODEL": "a directory or downloaded hub id, or [engines.MODEL] in shoal.toml, on this machine (vLLM)",
    "transformers/MODEL": "the same, by Hugging Face transformers: also models and machines that vLLM does not do",
    "openai/MODEL": "OPENAI_API_KEY, and OPENAI_BASE_URL for another server",
    "NAME/MODEL": "NAME_BASE_URL and NAME_API_KEY, or [endpoints.NAME] in shoal.toml",
    "scripted/FILE.py:function": "answers from a Python function of yours",
    "NAME": "several of these as one, by [models.NAME] in shoal.toml",
}


@click.command()
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@click.option("--json", "as_json", is_flag=True)
def models(config: Path | None, as_json: bool) -> None:
    """List what can stand in a model spec, and the endpoints and routers configured here."""
    found_here = load_config(config)
    endpoints = found_here.endpoints
    engines = {f"{each.engine}/{name}": each.model for name, each in found_here.engines.items()}
    routers = {name: [route.model for route in each.endpoints] for name, each in found_here.models.items()}
    if as_json:
        found = {name: endpoint.base_url for name, endpoint in endpoints.items()}
        listed = {"forms": _FORMS, "endpoints": found, "engines": engines, "models": routers}
        click.echo(msgspec.json.encode(listed))
        return
    width = max(map(len, _FORMS))
    for form, meaning in _FORMS.items():
        click.echo(f"{form:<{width}}  {meaning}")
    for name, endpoint in endpoints.items():
        click.echo(f"{name + '/MODEL':<{width}}  {endpoint.base_url}")
    for spec, model in engines.items():
        click.echo(f"{spec:<{width}}  {model}")
    for name, members in routers.items():
        click.echo(f"{name:<{width}}  {', '.join(members)}")


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True)
@click.option("--markdown", is_flag=True, help="The table of options and costs, for documents.")
def techniques(name: str | None, as_json: bool, markdown: bool) -> None:
    """List the techniques; or tell all of the one called NAME: what it does, its options and what it costs."""
    if as_json:
        click.echo(msgspec.json.encode({slug: _facts(slug) for slug in TECHNIQUES}))
    elif markdown:
        click.echo("\n".join(table()))
    elif name is not None:
        _tell(name)
    else:
        width = max(map(len, TECHNIQUES))
        for slug, entry in TECHNIQUES.items():
            click.echo(f"{click.style(slug.ljust(width), bold=True)}  {entry.summary}")
        click.echo("\nshoal techniques NAME tells its options and what it costs.")


_FILE_SCORER = "FILE.py:NAME"


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True)
def scorers(name: str | None, as_json: bool) -> None:
    """List how answers can be rated; or tell all of the scorer called NAME: what it compares, and its options."""
    from shoal.evaluation.scorers import SCORERS
    from shoal.evaluation.scorers.user_function import from_file

    known = {**SCORERS, _FILE_SCORER: from_file}
    if as_json:
        told = {each: {"summary": _summary(function), "options": _shown(function)} for each, function in known.items()}
        click.echo(msgspec.json.encode(told))
    elif name is None:
        width = max(map(len, known))
        for each, function in known.items():
            click.echo(f"{click.style(each.ljust(width), bold=True)}  {_summary(function)}")
        click.echo(
            "\nshoal scorers NAME tells its options: shoal run ... --answer COLUMN --scorer 'NAME(option=value)'."
        )
    elif name not in known:
        raise UsageError(f"unknown scorer {name!r}; {did_you_mean(name, known)}")
    else:
        click.echo(f"{click.style(name, bold=True)}\n\n{inspect.getdoc(known[name])}")
        for number, (option, default) in enumerate(_shown(known[name]).items()):
            click.echo(("" if number else "\n") + f"  {option}={default if default == _NEEDED else repr(default)}")


_NEEDED = "(needed)"


def _summary(function: Callable[..., object]) -> str:
    return (inspect.getdoc(function) or "").split("\n", 1)[0]


def _shown(function: Callable[..., object]) -> dict[str, object]:
    """Options and their defaults."""
    defaults = options_of(function)
    return {name: _NEEDED if default is inspect.Parameter.empty else default for name, default in defaults.items()}


def _tell(name: str) -> None:
    entry = find(name)
    if entry is None:
        raise UsageError(f"unknown technique {name!r}; {did_you_mean(name, names())}")
    slug = next(slug for slug, each in TECHNIQUES.items() if each is entry)
    click.echo(click.style(slug, bold=True) + (f"  ({', '.join(entry.aliases)})" if entry.aliases else ""))
    click.echo(f"\n{inspect.getdoc(entry.function)}\n")
    for option, default in entry.options.items():
        click.echo(f"  {option}={default!r}")
    cost = entry.cost()
    for what, figure, formula in (
        ("calls", cost, entry.calls if entry.fewest is None else f"{entry.fewest} to {entry.calls}"),
        ("one after another", cost.critical_path, entry.critical_path),
    ):
        click.echo(f"\n  {what:<18} {figure}" + ("" if str(figure) == formula else f" = {formula}"), nl=False)
    click.echo(f"\n  {'paper':<18} {entry.paper}")


def table() -> list[str]:
    """The catalogue as lines of Markdown: as it stands in docs/techniques.md."""
    rows = ["| technique | short | options | calls | one after another | paper |", "|---|---|---|---|---|---|"]
    for slug, entry in TECHNIQUES.items():
        short = ", ".join(f"`{alias}`" for alias in entry.aliases)
        cost = entry.cost()
        facts = (f"`{slug}`", short, describe_options(entry), str(cost), str(cost.critical_path), entry.paper)
        rows.append("|" + "".join(f" {fact} |" if fact else " |" for fact in facts))
    return rows


def _facts(slug: str) -> dict[str, object]:
    entry = TECHNIQUES[slug]
    options = {name: default if _plain(default) else repr(default) for name, default in entry.options.items()}
    return {
        "summary": entry.summary,
        "aliases": entry.aliases,
        "options": options,
        "calls": entry.calls,
        "fewest": entry.fewest,
        "critical_path": entry.critical_path,
        "paper": entry.paper,
    }


def _plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
