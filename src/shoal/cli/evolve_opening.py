"""From the options of `shoal evolve` to what a run needs."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from shoal.backends import BaseModel
from shoal.backends.config import Config, load_config, without_keys
from shoal.cli.evolve_options import batch_size, remembered, weights
from shoal.errors import UsageError, did_you_mean
from shoal.evaluation.datasets.naming import data_path
from shoal.evaluation.scorers import open_scorer
from shoal.evolution import BreedOptions, Evolution, GepaEvolution, GepaSettings, Settings, Task
from shoal.evolution.day_care import DayCare, open_day_care, within
from shoal.evolution.embedding import embedder, lexical
from shoal.evolution.embedding import remembered as asked_once
from shoal.evolution.folder import new_run
from shoal.evolution.surroundings import Embed
from shoal.runtime.budget import Budget
from shoal.runtime.model import Applied
from shoal.techniques.opening import open_cache, open_model, opener

_SUITE = "fitness_test_suite"
_SUITES = tuple(f"{_SUITE}{ending}" for ending in (".json", ".jsonl", ".csv", ".tsv", ".parquet"))
_SEED_SUITE = Path("data", _SUITES[0])


def continued(given: Mapping[str, Any]) -> Path:
    """The folder of the run whose options hold where none are given: one that is not there has none."""
    number = given["continue_run_number"]
    if number is None:
        return given["run_dir"] or Path("no such run")
    if given["run_dir"]:
        raise UsageError("--run-dir and --continue_run_number both name the run; give one")
    if not given["day_care_dir"] or not given["task"]:
        raise UsageError("--continue_run_number needs the folder and the --task that the run is of")
    path = Path(given["day_care_dir"], given["task"], f"RUN_{number}")
    if not (path / "_config.json").exists():
        there = sorted(entry.name for entry in path.parent.glob("RUN_*")) if path.parent.is_dir() else []
        raise UsageError(f"--continue_run_number {number}: no run in {path}; {did_you_mean(path.name, there)}")
    return path


def day_care_of(options: dict[str, Any]) -> DayCare:
    """The task of the folder that is named."""
    if not options["task"]:
        raise UsageError("--task is missing: which folder in FOLDER has the task_description.json?")
    override = options["decoder_options_override"]
    if override and override.lstrip().startswith("{"):
        try:
            override = msgspec.json.decode(override)
        except msgspec.DecodeError as error:
            raise UsageError(f"--decoder_options_override: not JSON ({error})") from None
    return open_day_care(Path(options["day_care_dir"]), options["task"], override=override)


def task_of(day_care: DayCare, options: dict[str, Any]) -> Task:
    """The task with its questions."""
    held_out = options["held_out"]
    scorer = None
    if options["scorer"]:
        cache = open_cache(_cached(options))
        scorer = open_scorer(options["scorer"], opener(_config(options), cache=cache))
    apart = None if held_out in ("half", "none") else data_path(held_out)
    return day_care.task(_suite(day_care, options), apart, scorer)


def _suite(day_care: DayCare, options: dict[str, Any]) -> Path:
    """The suite that is named, else the task's own, the folder's own, or the one where Day Care looked for it."""
    if options["fitness_test_suite"]:
        return data_path(options["fitness_test_suite"])
    places = (day_care.folder / day_care.name, day_care.folder)
    for path in (place / name for place in places for name in _SUITES):
        if path.exists():
            return path
    if not _SEED_SUITE.exists():
        raise UsageError(f"no {_SUITE} in {places[0]} or {places[1]}, and no {_SEED_SUITE}; give --{_SUITE} FILE")
    return _SEED_SUITE


def settings_of(task: Task, options: dict[str, Any]) -> Settings:
    """How prompts are bred: as Day Care did, each of its units with `initial_prompts_per_unit` genomes."""
    tested = (("CoT", options["test_cot"]), ("noCoT", options["test_nocot"]))
    variants = tuple(name for name, wanted in tested if wanted)
    steps = options["prompts_per_unit"] or (1 if variants == ("noCoT",) else 2)
    fit = (len(task.rows) + 1) // 2 if options["held_out"] == "half" and not task.held_out else len(task.rows)
    return Settings(
        population_size=options["population_size"] * options["initial_prompts_per_unit"],
        generations=options["evolution_generations"],
        prompts_per_unit=steps,
        batch=batch_size(options["batch"], range(fit)),
        operators=weights(options["operators"]),
        crossover=options["crossover"],
        few_shot=options["few_shot"],
        num_eda_samples=options["num_eda_samples"],
        num_lamarckian_reasonings=options["num_lamarckian_reasonings"],
        variants=variants or ("",),
        seed_founder=bool(options["seed_founder"]),
        speculate=bool(options["speculate"]),
        seed=options["seed"],
    )


def model_of(options: dict[str, Any]) -> BaseModel | Applied:
    """The model that is named: by a spec, or by the path of a GGUF file."""
    name: str = options["model"]
    spec = f"gguf/{name}" if name.endswith(".gguf") and not name.startswith("gguf/") else name
    try:
        return open_model(
            spec, config=_config(options), cache=_cached(options), max_in_flight=options["client_batch_size"]
        )
    except UsageError as error:
        if str(error).startswith("unknown model") and (Path(name).is_dir() or "/" in name):
            raise UsageError(
                f"{error}; weights are loaded as -m vllm/{name} or -m transformers/{name}, from a .gguf file, or by a "
                f"server whose [endpoints.NAME] is named, -m NAME/{name}"
            ) from None
        raise


def embed_of(options: dict[str, Any]) -> Embed:
    """What tells alike prompts."""
    if options["embedder"] is None:
        return embedder()
    if options["embedder"] == "lexical":
        return asked_once(lexical)
    model = open_model(options["embedder"], config=_config(options))
    if not isinstance(model, BaseModel):
        raise UsageError(f"--embedder {options['embedder']}: a model with embeddings is needed, no technique")
    return embedder(model)


def evolution_of(day_care: DayCare, task: Task, options: dict[str, Any]) -> Evolution:
    """The run, by the optimizer that is named; its folder is made when nothing is wrong."""
    settings, model = settings_of(task, options), model_of(options)
    given: BreedOptions = {
        "budget": Budget.parse(options["budget"]) if options["budget"] else None,
        "rollouts": options["rollouts"],
        "split": options["held_out"] == "half",
        "queries": day_care.queries,
        "mutation_prompts": day_care.mutation_prompts,
        "thinking_styles": day_care.thinking_styles,
        "embed": embed_of(options),
        "about": {"command": remembered(options)},
    }
    own = {name: options[name] for name in ("minibatch", "validation", "parallel") if options[name] is not None}
    reflecting = options["reflection_model"]
    if options["optimizer"] == "gepa":
        writer = model_of({**options, "model": reflecting}) if reflecting else None
        evolution: Evolution = GepaEvolution(task, model, settings, GepaSettings(**own), writer, **given)
    elif own or reflecting:
        name = next(iter(own), "reflection-model")
        raise UsageError(f"--{name} is for --optimizer gepa")
    else:
        evolution = Evolution(task, model, settings, **given)
    evolution.options["run_dir"] = None if options["plan"] else place_of(day_care, options)
    return evolution


def place_of(day_care: DayCare, options: dict[str, Any]) -> Path:
    """The run's folder: a new one, unless one is named."""
    if options["run_dir"]:
        return Path(options["run_dir"])
    parent = within(day_care.folder, day_care.name, "--task")
    if options["continue_run_number"] is not None:
        return parent / f"RUN_{options['continue_run_number']}"
    if not options["debug_mode"]:
        return new_run(parent)
    debug = parent / "DEBUG"
    if (debug / "complete").is_file() and not debug.is_symlink():
        shutil.rmtree(debug)
    return debug


def _config(options: dict[str, Any]) -> Config:
    """Endpoints and prices; without keys where nothing will be asked."""
    config = load_config(Path(options["config"]) if options["config"] else None)
    return without_keys(config) if _only_planned(options) else config


def _cached(options: dict[str, Any]) -> bool:
    return not options["no_cache"] and not _only_planned(options)


def _only_planned(options: dict[str, Any]) -> bool:
    return bool(options["plan"]) and not options["pilot"]
