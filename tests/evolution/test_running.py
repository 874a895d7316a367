"""`breed`: what it keeps, what it says in the end, how it is stopped and goes on."""

import json
from pathlib import Path
from typing import Any

from tests.evolution.breeding import by_letters, ones, task
from tests.scripting import scripted

from shoal.evolution import Result, Settings, breed
from shoal.evolution.folder import new_run

GIVEN: dict[str, Any] = {
    "mutation_prompts": ["Change it:", "Make it better:"],
    "thinking_styles": ["Think.", "Be brief."],
    "embed": by_letters,
}
TASK = task(seed_prompt="0000000000")
SMALL = Settings(population_size=6, generations=4, prompts_per_unit=1, batch=4)


def files(folder: Path) -> dict[str, Any]:
    """What a run has written, without times."""
    found = {}
    for path in sorted(folder.rglob("*.json")):
        value = json.loads(path.read_bytes())
        if path.name.endswith("_stats.json"):
            del value["seconds"]
        found[str(path.relative_to(folder))] = value
    return found


def bred(place: Path | None = None, script: Any = ones, settings: Settings = SMALL, **options: Any) -> Result:
    model, _ = scripted(script)
    return breed(TASK, model=model, settings=settings, run_dir=place, **{**GIVEN, **options})


def test_a_run_writes_its_folder(tmp_path: Path) -> None:
    result = bred(new_run(tmp_path))
    place = tmp_path / "RUN_0"
    assert result.run_dir == place
    assert len(result.history) == len(result.stats) == 5
    assert result.ended == "generations"
    for number in range(5):
        population = list((place / f"generation_{number}_population").glob("*.json"))
        assert {path.stem for path in population} == {one.unit.id for one in result.history[number].population}
        stats = json.loads((place / f"generation_{number}_stats.json").read_text())
        assert stats["mean"] == result.history[number].mean
        assert (place / f"generation_{number}_log.json").exists()
    for name in ("generation_log", "elite_history", "new_mutation_prompts", "result", "_config"):
        json.loads((place / f"{name}.json").read_text())
    assert json.loads((place / "complete").read_text()) == {"ended": "generations", "generations": 4}
    assert new_run(tmp_path).name == "RUN_1"


def test_a_run_goes_on_from_any_generation_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    bred(tmp_path / "whole")
    for stop in range(4):
        bred(tmp_path / f"{stop}", settings=Settings(**{**_settings(), "generations": stop}))
        bred(tmp_path / f"{stop}")
        assert files(tmp_path / f"{stop}") == files(tmp_path / "whole")


def _settings() -> dict[str, Any]:
    return {name: getattr(SMALL, name) for name in SMALL.__struct_fields__}


def test_without_a_folder_nothing_is_left(tmp_path: Path) -> None:
    assert bred().run_dir is None
