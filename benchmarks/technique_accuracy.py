"""How often each technique is right on real data, beside single samples that cost the same number of tokens.

python -m benchmarks.technique_accuracy [--model local] [--rows 40] [--data capitals]
    [--techniques 'self_consistency,best_of_n(n=8)'] [--markdown]

One JSON line for the single sample and one for each technique; README.md defines the columns. Every draw and every row
is kept when it is done: the same command goes on where it was stopped, and techniques can be measured one by one.
"""

import argparse
import asyncio
import json
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.comparison import Interval, bootstrap, wilson
from benchmarks.technique_runs import BLOCK, TASKS, Records, Runs, Settings, right, tokens

import shoal
from shoal.evaluation.datasets import DATASETS
from shoal.techniques import TECHNIQUES
from shoal.techniques.opening import bases

ROOT = Path(__file__).resolve().parent.parent
Row = dict[str, Any]


async def measure(runs: Runs, specs: list[str], largest_pool: int) -> list[Row]:
    done = [(spec, *await runs.technique(spec)) for spec in specs]
    seconds = await runs.grow(BLOCK)
    while len(runs.pool) < largest_pool and any(e.short for _, records, _ in done for e in runs.equal(records)):
        seconds = await runs.grow(len(runs.pool) + BLOCK)
    return [single(runs, seconds), *(compared(runs, *result) for result in done)]


def single(runs: Runs, seconds: float) -> Row:
    """The single sample: the mean over the pool's draws, its interval over rows."""
    drawn = [record for records in runs.pool for record in records]
    shares = [fmean(draw.right for draw in runs.draws_of(row)) for row in range(len(runs.rows))]
    row = _counts("single sample", drawn, seconds)
    prompt = fmean(map(runs.prompt_tokens, range(len(runs.rows))))
    row |= {"draws": len(runs.pool), "accuracy": _shown(bootstrap(shares)), "prompt_tokens": round(prompt, 1)}
    return row | {"tokens": round(prompt + row["completion_tokens"], 1)}


def compared(runs: Runs, spec: str, records: Records, seconds: float) -> Row:
    """A technique, and how it differs from single samples row by row."""
    scores = [right(record) for record in records]
    answered = [right(record) for record in records if record.error is None]
    singles = [fmean(draw.right for draw in runs.draws_of(row)) for row in range(len(records))]
    equals = runs.equal(records)
    row = _counts(spec, records, seconds)
    return row | {
        "accuracy": _shown(wilson(round(sum(scores)), len(scores))),
        "accuracy_of_answered": _shown(wilson(round(sum(answered)), len(answered))),
        "over_single": _shown(bootstrap([a - b for a, b in zip(scores, singles, strict=True)])),
        "equal_tokens": round(fmean(equal.right for equal in equals), 3),
        "equal_draws": round(fmean(equal.draws for equal in equals), 1),
        "over_equal_tokens": _shown(bootstrap([a - b.right for a, b in zip(scores, equals, strict=True)])),
        "pool_too_small": sum(equal.short for equal in equals),
    }


def _counts(name: str, records: Records, seconds: float) -> Row:
    """Means over rows, but for the seconds, which all of them took together."""
    errors = Counter(record.error.type for record in records if record.error is not None)
    return {
        "technique": name,
        "rows": len(records),
        "errors": sum(errors.values()),
        "errors_by_type": dict(errors),
        "calls": round(fmean(record.usage.calls + record.usage.cached_calls for record in records), 2),
        "prompt_tokens": round(fmean(record.usage.prompt_tokens for record in records), 1),
        "completion_tokens": round(fmean(record.usage.completion_tokens for record in records), 1),
        "tokens": round(fmean(map(tokens, records)), 1),
        "seconds": round(seconds, 1),
    }


def _shown(interval: Interval) -> list[float]:
    return [round(number, 3) for number in interval]


def markdown(rows: list[Row]) -> str:
    lines = [
        "| technique | right, of all rows | errors | right, of answered | over a single sample | vote at equal tokens "
        "| over that vote | calls | tokens | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        vote = f"{row['equal_tokens']:.0%} ({row['equal_draws']:g} draws)" if "equal_tokens" in row else ""
        if row.get("pool_too_small"):
            vote = vote.replace("draws", "draws, the whole pool in some rows")
        cells = [
            row["technique"],
            _percent(row["accuracy"]),
            f"{row['errors']} of {row['rows']}",
            _percent(row.get("accuracy_of_answered")),
            _percent(row.get("over_single"), "+.0%"),
            vote,
            _percent(row.get("over_equal_tokens"), "+.0%"),
            f"{row['calls']:g}",
            f"{row['tokens']:.0f}",
            f"{row['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(interval: list[float] | None, form: str = ".0%") -> str:
    if interval is None:
        return ""
    value, low, high = (format(number, form) for number in interval)
    return f"{value} ({low} to {high})"


async def run(options: argparse.Namespace) -> list[Row]:
    settings = Settings(
        options.temperature, options.max_tokens, options.thinking_tokens, options.row_tokens, options.row_seconds
    )
    model = shoal.open_model(options.model, cache=None)
    try:
        await model(shoal.Request.of("Hi", max_tokens=1))  # loading the model is not counted
        runs = Runs(model, DATASETS[options.data].path, options.rows, settings, options.keep)
        return await measure(runs, options.techniques, options.pool)
    finally:
        for base in bases(model):
            await base.aclose()


def main() -> None:
    usual = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="local", help="the base model's spec")
    parser.add_argument("--data", choices=list(TASKS), default="capitals", help="a data set that ships with shoal")
    parser.add_argument("--rows", type=int, default=40, help="the first so many")
    parser.add_argument("--techniques", type=_specs, default=list(TECHNIQUES), help="specs, separated by commas")
    parser.add_argument("--pool", type=int, default=64, help="single samples of a row at most")
    parser.add_argument("--temperature", type=float, default=usual.temperature)
    parser.add_argument("--max-tokens", type=int, default=usual.max_tokens, help="of an answer")
    parser.add_argument("--thinking-tokens", type=int, default=usual.thinking_tokens, help="of any other call")
    parser.add_argument("--row-tokens", type=int, default=usual.row_tokens, help="a row that needs more is an error")
    parser.add_argument("--row-seconds", type=float, default=usual.row_seconds, help="likewise")
    parser.add_argument(
        "--keep", type=Path, default=ROOT / "benchmarks/.accuracy", help="where draws and rows are kept"
    )
    parser.add_argument("--markdown", action="store_true", help="a table after the JSON lines")
    options = parser.parse_args()
    rows = asyncio.run(run(options))
    for row in rows:
        print(json.dumps({"benchmark": "technique_accuracy", "data": options.data, **row}), flush=True)
    if options.markdown:
        print(markdown(rows))


def _specs(text: str) -> list[str]:
    """Specs separated by commas, those within brackets aside."""
    specs, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and not depth:
            specs.append("")
        else:
            specs[-1] += character
    return [spec.strip() for spec in specs if spec.strip()]


if __name__ == "__main__":
    main()
