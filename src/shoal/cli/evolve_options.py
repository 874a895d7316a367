"""The options of `shoal evolve`: those that Day Care had, with the meaning they had, and ours."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from shoal.cli.options import stacked
from shoal.errors import UsageError, did_you_mean
from shoal.evolution.files import read_json
from shoal.evolution.mutators import MUTATORS

F = TypeVar("F", bound=Callable[..., Any])

# What holds where neither the command nor the run that is continued says anything.
DEFAULTS: dict[str, Any] = {
    "day_care_dir": "./data/lmql_specifications/day_care/",
    "model": "local",
    "population_size": 50,
    "initial_prompts_per_unit": 2,
    "evolution_generations": 20,
    "num_eda_samples": 5,
    "num_lamarckian_reasonings": 2,
    "seed": 42,
    "crossover": 0.1,
    "few_shot": 0,
    "held_out": "half",
    "optimizer": "promptbreeder",
    "wandb_project": "prompt_breeder",
}
# Accepted, because command lines have them, and said to do nothing.
_WITHOUT_MEANING = {
    "server_batch_size": "what is ready goes out together, as large as the endpoint takes it",
    "chunk_size": "nothing is generated speculatively",
    "is_async": "calls always run at once",
}
# Of this process, not of the run: a run that is continued does not remember them.
_OF_THE_PROCESS = (
    "continue_run_number", "run_dir", "budget", "plan", "pilot", "as_json", "quiet", "convert", "report", "verbose",
    "client_batch_size", "config", "use_wandb", *_WITHOUT_MEANING,
)  # fmt: skip
# A folder may come from somebody else, with its runs: what is run or loaded, and whether anything is sent to others
# than the model, is for the command line to say.
_FILES = re.compile(r"scripted/|gguf/|\.gguf|\.py:")


class Lenient(click.Command):
    """A command whose long options may be written with dashes or underscores, and cut short where it is clear."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {spelling: param for param in self.get_params(ctx) for spelling in param.opts if spelling[:2] == "--"}
        plain = {_plain(spelling): spelling for spelling in known}
        end = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, [*(_spelt(word, plain, known) for word in args[:end]), *args[end:]])


def _plain(spelling: str) -> str:
    return spelling.replace("-", "_").lower()


def _spelt(word: str, plain: Mapping[str, str], known: Mapping[str, click.Parameter]) -> str:
    name, equals, value = word.partition("=")
    if not name.startswith("--") or name in known:
        return word
    if _plain(name) in plain:
        return plain[_plain(name)] + equals + value
    begun = {known[spelling]: spelling for form, spelling in plain.items() if form.startswith(_plain(name))}
    if len(begun) > 1:
        raise UsageError(f"{name} may be {' or '.join(sorted(begun.values()))}; write more of it")
    return next(iter(begun.values())) + equals + value if begun else word


def _number(*names: str, least: int = 1, help: str) -> Callable[[F], F]:
    return click.option(*names, type=click.IntRange(least), metavar="N", help=help)


def _flag(*names: str, help: str) -> Callable[[F], F]:
    return click.option(*names, is_flag=True, default=None, help=help)


_OPTIONS = (
    click.option("--task", metavar="TASK", help="The folder in FOLDER with the task_description.json."),
    click.option("--day_care_dir", metavar="FOLDER", help="FOLDER, as an option."),
    click.option("-m", "--model", "--model_name_or_path", "model", metavar="SPEC", help="A spec, or a GGUF file."),
    click.option("--fitness_test_suite", metavar="FILE", help="The questions, with gold_TASK; any data file."),
    click.option("--decoder_options_override", metavar="OPTIONS", help='As "sample(temperature=0.7)", or JSON.'),
    _number("--population_size", help="Units, times --initial_prompts_per_unit; default 50."),
    _number("--initial_prompts_per_unit", help="Default 2."),
    _number("--evolution_generations", least=0, help="Rounds of tournaments; default 20."),
    _number("--num_eda_samples", help="Prompts that are listed to go on with; default 5."),
    _number("--num_lamarckian_reasonings", help="Right workings that are shown; default 2."),
    _flag("--test_CoT", "test_cot", help="Test with working out."),
    _flag("--test_noCoT", "test_nocot", help="Test without; with both, the better counts."),
    click.option("--seed", type=int, help="Of all chance; default 42."),
    _number("--continue_run_number", least=0, help="Go on with RUN_N, its options where none are given."),
    _flag("--verbose", help="Print the best prompt of each generation."),
    _flag("--debug_mode", help="Run in TASK/DEBUG; one that is complete there is begun anew."),
    _flag("--use_wandb", help="Log generations to Weights & Biases."),
    click.option("--wandb_project", metavar="NAME", help="Default prompt_breeder."),
    _number("--client_batch_size", help="Most calls at once; default: what the endpoint allows."),
    _number("--server_batch_size", help="No meaning here."),
    _number("--chunk_size", help="No meaning here."),
    _flag("--is_async", help="No meaning here: always so."),
    click.option("--batch", metavar="N|all", help="Questions for each evaluation, drawn anew; default: all of 200."),
    _number("--prompts-per-unit", help="Task prompts applied in turn; default 2, or 1 with --test_noCoT alone."),
    click.option("--operators", metavar="NAME=WEIGHT,...", help="Which mutate, and how often; default all alike."),
    click.option("--crossover", type=click.FloatRange(0, 1), help="Chance of a foreign task prompt; default 0.1."),
    _number("--few-shot", least=0, help="Right workings shown before a question; default 0."),
    _flag("--seed-founder", help="One founder has the seed prompt, so that it competes too."),
    _flag("--speculate", help="Mutate before it is known who wins: faster, dearer."),
    click.option("--embedder", metavar="lexical|SPEC", help="What tells alike prompts; default wordllama."),
    click.option("--scorer", metavar="SCORER", help="In place of the task's fitness_scorer."),
    click.option("--held-out", metavar="FILE|half|none", help="Rows for the comparison in the end; default half."),
    click.option("--optimizer", metavar="NAME", help="promptbreeder, the default, or gepa."),
    _number("--rollouts", help="Questions put to prompts, in place of generations: to compare both optimizers."),
    click.option("--reflection-model", metavar="SPEC", help="gepa: what writes the prompts; default the model."),
    _number("--minibatch", help="gepa: questions before and after a reflection; default 3."),
    _number("--validation", help="gepa: rows that prompts are ranked by; default half, at most 50."),
    _number("--parallel", help="gepa: parents drawn at once; default 1."),
    click.option("--budget", metavar="calls=,tokens=,seconds=,dollars=", help="Stop when this much is spent."),
    click.option("--plan", is_flag=True, help="Say what the run will cost, and ask nothing."),
    _number("--pilot", least=4, help="With --plan: put N questions to the seed prompt, and predict from them."),
    click.option("--run-dir", type=click.Path(file_okay=False, path_type=Path), help="Default: FOLDER/TASK/RUN_n."),
    click.option("--config", type=click.Path(dir_okay=False), metavar="FILE", help="Default ./shoal.toml."),
    _flag("--no-cache", help="Neither read nor write the draw cache."),
    click.option("--convert", nargs=2, metavar="OLD NEW", help="Rewrite the folder OLD, written in LMQL, as NEW."),
    click.option(
        "--report", type=click.Path(path_type=Path), metavar="RUN_DIR", help="Make the report of a run, and end."
    ),
    click.option("--quiet", is_flag=True, help="No progress and no result on stderr."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)


evolve_options = stacked(*_OPTIONS)


def notes(options: Mapping[str, Any]) -> list[str]:
    """What was accepted and does nothing."""
    given = [name for name in _WITHOUT_MEANING if options.get(name)]
    return [f"--{name} has no meaning here: {_WITHOUT_MEANING[name]}" for name in given]


def remembered(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a run is continued with."""
    return {name: value for name, value in options.items() if name not in _OF_THE_PROCESS and value is not None}


def with_those_of(run: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options given, where a run is continued over those that it began with, and over the defaults."""
    before: dict[str, Any] = {}
    config = run / "_config.json"
    if config.exists():
        try:
            before = dict(read_json(config)["about"].get("command", {}))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"{config}: cannot be read ({error}); name another run") from None
        known = before.keys() & given.keys() - {*_OF_THE_PROCESS}
        before = {name: _as_given(name, before[name], config) for name in sorted(known)}
    for name in ("model", "embedder", "scorer", "reflection_model"):
        if given[name] is None and _FILES.search(str(before.get(name))):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{config}: {flag} is {before[name]!r}, a file; say so on the command line to go on")
    return {**given, **DEFAULTS, **before, **{name: value for name, value in given.items() if value is not None}}


def _as_given(name: str, value: Any, config: Path) -> Any:
    """A value from a run's configuration, as the command line would have given it."""
    option = next(param for param in click.get_current_context().command.params if param.name == name)
    try:
        if not isinstance(value, str | int | float):
            raise UsageError(f"{str(value)[:60]!r} is neither a text nor a number")
        return option.type.convert(value, option, None)
    except (click.BadParameter, UsageError) as error:
        raise UsageError(f"{config}, {name}: {getattr(error, 'message', error)}") from None


def weights(text: str | None) -> dict[str, float] | None:
    """Operators by name, each with its weight: `lineage=2,lamarckian`, whose weight is 1."""
    if text is None:
        return None
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, weight = (piece.strip() for piece in part.partition("="))
        if name not in MUTATORS:
            raise UsageError(f"--operators: no operator {name!r}; {did_you_mean(name, MUTATORS)}")
        try:
            found[name] = float(weight) if equals else 1.0
        except ValueError:
            raise UsageError(f"--operators: the weight of {name} is {weight!r}, no number") from None
    return found


def batch_size(text: str | None, rows: Sequence[object]) -> int | None:
    """Questions for each evaluation; None: all. By default all of at most 200: fewer would only add noise."""
    if text is None:
        return None if len(rows) <= 200 else 100
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch {text!r}: a number of questions from 1 on, or all")
    return int(text) if int(text) < len(rows) else None
