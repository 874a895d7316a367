"""Prompts that are bred: PromptBreeder (arXiv:2309.16797), and GEPA on the same engine."""

from shoal.evolution.gepa import GepaEvolution, GepaSettings, abreed_gepa, breed_gepa
from shoal.evolution.held_out import Comparison
from shoal.evolution.planning import CallPlan, plan_calls
from shoal.evolution.progress import Progress
from shoal.evolution.running import BreedOptions, Evolution, Result, abreed, breed
from shoal.evolution.settings import Settings
from shoal.evolution.statistics import GenerationStats
from shoal.evolution.task import Decoders, Task

__all__ = [
    "BreedOptions",
    "CallPlan",
    "Comparison",
    "Decoders",
    "Evolution",
    "GenerationStats",
    "GepaEvolution",
    "GepaSettings",
    "Progress",
    "Result",
    "Settings",
    "Task",
    "abreed",
    "abreed_gepa",
    "breed",
    "breed_gepa",
    "plan_calls",
]
