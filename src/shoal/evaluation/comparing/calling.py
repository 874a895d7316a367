"""`shoal.compare`: techniques side by side from Python, with what `shoal compare` guarantees."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from msgspec import structs

from shoal.backends.config import Config, load_config
from shoal.backends.loop import run
from shoal.batch.directory import write_lines
from shoal.batch.records import encode
from shoal.batch.rows import Input, Row
from shoal.batch.tables import rows_of
from shoal.batch.waves import wave_settings
from shoal.errors import UsageError, refuse_unknown
from shoal.evaluation.comparing.arms import Wanted
from shoal.evaluation.comparing.budgeting import EqualBudget
from shoal.evaluation.comparing.comparing import Comparing, Settings, with_targets
from shoal.evaluation.comparing.result import Comparison
from shoal.evaluation.comparing.work import Asked
from shoal.evaluation.datasets.naming import data_path
from shoal.evaluation.scorers import Scorer, open_scorer
from shoal.prompting.template import Template
from shoal.runtime.budget import Budget
from shoal.runtime.model import Model, Technique
from shoal.runtime.scratch import scratch_directory
from shoal.runtime.types import Request, SamplingParams
from shoal.techniques.opening import opener

if TYPE_CHECKING:
    from shoal.backends.waves import WaveSettings


class CompareOptions(TypedDict, total=False):
    """How `compare` runs.

    template      how a row's columns become the prompt; default {prompt}
    system        the system message
    params        how to sample
    scorer        how an answer is rated: a scorer's spec, or what open_scorer gives; default exact
    plain         whether each model is compared by itself, too; default True
    curve         draw every technique that has a size at smaller sizes, too
    equal_budget  "tokens=2000": what a row may cost, by which each technique's size is chosen
    pilot         the rows that sizes are tried on; default 10
    budget        what may be spent in all
    replay        ask nothing: every draw must be in report_dir already
    report_dir    where everything is kept, so that the same call continues a comparison that was stopped
    title         of the comparison
    config        endpoints and prices; default ./shoal.toml
    batch_api     calls travel by the provider's batch API, at half the price, and `report_dir` keeps what was sent:
                  the same call collects it; True, or WaveSettings
    """

    template: str
    system: str | None
    params: SamplingParams | None
    scorer: Scorer | str
    plain: bool
    curve: bool
    equal_budget: str | None
    pilot: int
    budget: Budget | None
    replay: bool
    report_dir: Path | str | None
    title: str
    config: Config | Path | None
    batch_api: "bool | WaveSettings"


def compare(
    data: Iterable[Any] | Any,
    techniques: Sequence[str | Technique] | str,
    *,
    answer: str | None = None,
    model: Model | str | Sequence[Model | str] = "local",
    **options: Unpack[CompareOptions],
) -> Comparison:
    """Compare techniques on rows that say what the answer should be; `answer` is the column with it.

    `data` are rows, the path of a data file, `data/NAME` for a set that ships with shoal, `puzzle/NAME?size=200` for
    puzzles, or a table (pandas, polars, Arrow, Hugging Face). `techniques` are specs, as `self_consistency(n=8)` or,
    with a curve, `self_consistency(n=1..64)`, or technique functions; `model` one model or several. Draws that
    techniques have in common are asked once. Raises UsageError for what cannot be compared, before anything is asked,
    and BudgetExceeded where the budget is spent; with `report_dir` nothing is lost then.
    """
    return run(acompare(data, techniques, answer=answer, model=model, **options))


async def acompare(
    data: Iterable[Any] | Any,
    techniques: Sequence[str | Technique] | str,
    *,
    answer: str | None = None,
    model: Model | str | Sequence[Model | str] = "local",
    **options: Unpack[CompareOptions],
) -> Comparison:
    """`compare` for a program that is already asynchronous."""
    refuse_unknown("compare", options, CompareOptions)
    wanted = Wanted(
        [techniques] if isinstance(techniques, str) else techniques,
        [model] if isinstance(model, str) or callable(model) else model,
        options.get("plain", True),
        options.get("curve", False),
    )
    with ExitStack() as scopes:
        files = scopes.enter_context(scratch_directory())
        settings = _settings(options)
        asked = _asked(_rows(data, files), answer, files, settings.config, options)
        place = options.get("report_dir")
        directory = Path(place) if place is not None else files / "report"
        try:
            return await scopes.enter_context(Comparing(asked, wanted, directory, settings)).run()
        finally:
            if asked.scorer is not options.get("scorer"):
                await asked.scorer.aclose()


def _rows(data: Any, scratch: Path) -> Input:
    if isinstance(data, str | Path):
        return Input(data_path(data) if isinstance(data, str) else data, label=str(data))
    path = scratch / "rows.jsonl"
    write_lines(path, map(encode, rows_of(data, "data")))
    return Input(path, label="rows")


def _asked(rows: Input, answer: str | None, scratch: Path, config: Config, options: CompareOptions) -> Asked:
    form, system = Template(options.get("template") or "{prompt}"), options.get("system")
    given = options.get("scorer") or "exact"
    scorer = open_scorer(given, opener(config)) if isinstance(given, str) else given
    needed = (("template", sorted(form.names)), ("answer=", [answer] if answer else []), ("the scorer", scorer.columns))
    for where, names in needed:
        for name in names:
            rows.require_column(name, where)
    params = options.get("params") or SamplingParams()
    rows, left_out = with_targets(rows, scorer, answer, scratch)
    return Asked(
        rows,
        _maker(form, system, params),
        answer,
        scorer,
        {"template": form.text, "system": system, "params": params},
        left_out,
    )


def _maker(form: Template, system: str | None, params: SamplingParams) -> Callable[[Row], Request]:
    return lambda row: structs.replace(Request.of(form.fill(row), system=system), params=params)


def _settings(options: CompareOptions) -> Settings:
    config, equal = options.get("config"), options.get("equal_budget")
    waves = wave_settings(options.get("batch_api", False))
    if waves and options.get("report_dir") is None:
        raise UsageError("compare: batch_api=True needs report_dir=, where what was sent is kept")
    if waves and options.get("replay"):
        raise UsageError("compare: replay=True asks nothing; leave batch_api= out")
    return Settings(
        config if isinstance(config, Config) else load_config(config),
        options.get("title", ""),
        EqualBudget.parse(equal, by_batch=waves is not None) if equal else None,
        options.get("pilot", 10),
        options.get("budget"),
        options.get("replay", False),
        waves=waves,
    )
