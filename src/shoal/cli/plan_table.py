"""A plan as people read it: one line that says what it comes to, then where each figure is from."""

from collections.abc import Callable, Iterator

import click
import msgspec
from rich.console import Console
from rich.table import Table

from shoal.backends.prices import Price
from shoal.planning import Figure, ModelPlan, Plan
from shoal.traces import words
from shoal.traces.words import dollars

Shown = Callable[[float], str]
_SOURCES = {
    "exact": "counted",
    "formula": "by formula",
    "sample": "counted on some rows",
    "dry run": "on stand-in replies",
    "pilot": "predicted",
    "assumption": "estimated",
}


def standard_output() -> Console:
    """Where plans are printed: as wide as the terminal, and wide enough for whole lines where there is none."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=160)


def print_plan(plan: Plan, *, as_json: bool = False, of_rows: bool = True) -> None:
    """Print a plan on standard output; one that is not `of_rows` is of a run as a whole."""
    if as_json:
        click.echo(msgspec.json.encode(plan))
        return
    console = standard_output()
    console.print(headline(plan), style="bold")
    console.print()
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column()
    facts.add_column(style="dim")
    for name, figure, source in _facts(plan, of_rows=of_rows):
        facts.add_row(name, figure, source)
    console.print(facts)
    if len(plan.models) > 1:
        console.print()
        console.print(_by_model(plan.models))
    for note in plan.notes:
        console.print(f"· {note}", style="dim")


def headline(plan: Plan) -> str:
    """The plan in one line: `4,000 calls in 500 requests, 3 steps, 1.2 M - 1.6 M tokens, 2 - 4 min, $0.31 - $0.44`."""
    if not plan.left:
        return "nothing is left to do"
    parts = [
        f"{_some(plan.calls, 'call')} in {_some(plan.wire_requests, 'request')}",
        _some(plan.steps, "step") if plan.waves is None else _some(plan.waves, "wave"),
        _some(plan.tokens, "token"),
        "time unknown" if plan.seconds is None else amount(plan.seconds, words.seconds),
        "price unknown" if plan.dollars is None else _money(plan.dollars, plan.live_dollars),
    ]
    return ", ".join(parts)


def _facts(plan: Plan, *, of_rows: bool) -> Iterator[tuple[str, str, str]]:
    done = [f"{words.count(plan.done)} done" if plan.done else "", _pilot_rows(plan)]
    also = ", ".join(part for part in done if part)
    if of_rows:
        yield "rows", words.count(plan.left) + (f" ({also})" if also else ""), ""
    yield "calls", amount(plan.calls), _source(plan.calls)
    if plan.kept:
        yield "kept already", words.count(plan.kept), "cost nothing"
    yield "wire requests", amount(plan.wire_requests), _source(plan.wire_requests)
    yield "critical path", _some(plan.path, "call") + (" a row" if of_rows else ""), _source(plan.path)
    if plan.waves is None:
        yield "steps", f"{_some(plan.steps, 'round')} of requests", _source(plan.steps)
    else:
        yield "waves", f"{amount(plan.waves)} one after another", _source(plan.waves)
    yield "prompt tokens", amount(plan.prompt_tokens), _tokens(plan)
    yield "completion tokens", amount(plan.completion_tokens), _completion(plan)
    if plan.seconds is not None:
        yield "time", amount(plan.seconds, words.seconds), _source(plan.seconds)
    if plan.dollars is not None:
        yield "money", amount(plan.dollars, dollars), _price(plan)
        if plan.live_dollars is not None:
            yield "live", amount(plan.live_dollars, dollars), "what the same would cost without --batch-api"
    if plan.pilot is not None:
        pilot = plan.pilot
        cost = f"{words.count(pilot.calls)} calls, {words.count(pilot.tokens)} tokens, {words.seconds(pilot.seconds)}"
        yield "pilot", cost, f"{len(pilot.rows)} rows; what is predicted holds at {pilot.confidence:.0%}"


def _money(figure: Figure, live: Figure | None) -> str:
    return amount(figure, dollars) + (f" (live {amount(live, dollars)})" if live is not None else "")


def _pilot_rows(plan: Plan) -> str:
    """The rows of a pilot that need not be run again."""
    again = plan.rows - plan.done - plan.left
    return f"{words.count(again)} in the pilot" if again else ""


def _source(figure: Figure) -> str:
    return _SOURCES[figure.source]


def _tokens(plan: Plan) -> str:
    if plan.prompt_tokens.source != "assumption":
        return _source(plan.prompt_tokens)
    return "by the tokenizer" if all(model.tokenizer for model in plan.models) else "estimated"


def _completion(plan: Plan) -> str:
    return "up to --max-tokens" if plan.completion_tokens.source == "formula" else _source(plan.completion_tokens)


def _price(plan: Plan) -> str:
    if len(plan.models) != 1 or (quote := plan.models[0].price) is None:
        return ""
    return quote.source if quote.most == Price(0.0, 0.0) else f"{_per_million(plan.models[0])} ({quote.source})"


def _per_million(model: ModelPlan) -> str:
    if model.price is None:
        return "unknown"
    least, most = model.price.least, model.price.most
    sides = (("in", least.input, most.input), ("out", least.output, most.output))
    said = [f"{amount(Figure(low, high, 'exact'), dollars)} {side}" for side, low, high in sides]
    return f"{', '.join(said)} a million"


def _by_model(models: tuple[ModelPlan, ...]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("model", "calls", "requests", "prompt tokens", "completion tokens", "money", "price"):
        table.add_column(heading)
    for model in models:
        figures = (model.calls, model.wire_requests, model.prompt_tokens, model.completion_tokens)
        money = "unknown" if model.dollars is None else amount(model.dollars, dollars)
        price = f"{_per_million(model)} ({model.price.source})" if model.price else "unknown"
        table.add_row(model.model, *map(amount, figures), money, price)
    return table


def amount(figure: Figure, shown: Shown = words.count) -> str:
    """A figure, or both ends of an interval; one where they read the same."""
    least, most = shown(figure.least), shown(figure.most)
    return least if least == most else f"{least} – {most}"


def _some(figure: Figure, noun: str) -> str:
    return f"{amount(figure)} {noun}" if figure.most == 1 else f"{amount(figure)} {noun}s"
