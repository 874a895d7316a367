"""A run of evolution logged to Weights & Biases, as a process of its own: `tracked.py FOLDER GENERATIONS`."""

import sys
from pathlib import Path

from tests.evolution.breeding import by_letters, ones, task
from tests.scripting import scripted

from shoal.evolution import Settings, breed
from shoal.evolution.tracking import Tracker

if __name__ == "__main__":
    folder, generations = Path(sys.argv[1]), int(sys.argv[2])
    settings = Settings(population_size=6, generations=generations, prompts_per_unit=1, batch=4, few_shot=2)
    model, _ = scripted(ones)
    folder.mkdir(exist_ok=True)
    with Tracker(folder, "prompts", "toy", settings) as tracker:
        result = breed(
            task(seed_prompt="0000000000"),
            model=model,
            settings=settings,
            run_dir=folder,
            mutation_prompts=["Change it:"],
            thinking_styles=["Think."],
            embed=by_letters,
            on_generation=tracker.generation,
        )
        assert result.comparison is not None
        tracker.comparison(result.comparison)
