"""Runs of evolution on scripted models, for tests."""

import re
from collections.abc import Sequence
from typing import Any

from tests.scripting import run, scripted

from shoal.evaluation.scorers import Scorer, open_scorer
from shoal.evolution.breeder import Breeder
from shoal.evolution.generation import Generation
from shoal.evolution.queries import Queries
from shoal.evolution.settings import Settings
from shoal.evolution.surroundings import Breeding
from shoal.evolution.task import Decoders, Task
from shoal.runtime import registry
from shoal.runtime.model import Model
from shoal.runtime.types import Request

EXACT = open_scorer("exact")
ROWS = [{"question": f"Say {i}.", "answer": str(i)} for i in range(20)]


def task(scorer: Scorer = EXACT, rows: Sequence[dict[str, Any]] = ROWS, **options: Any) -> Task:
    return Task("toy", "Say the number.", rows, "answer", scorer, **options)


async def by_letters(texts: Sequence[str]) -> list[list[float]]:
    """How often each letter occurs in a text: alike texts have alike vectors."""
    return [[1.0, *(float(text.lower().count(letter)) for letter in "abcdefghijklmnopqrstuvwxyz")] for text in texts]


def breeding(task: Task, **settings: Any) -> Breeding:
    given = Settings(**{"population_size": 8, "generations": 5, "prompts_per_unit": 1, "batch": 5, **settings})
    return Breeding(task, given, Queries(), ["Change it:", "Make it better:"], ["Think.", "Be brief."], by_letters)


def bred(model: Model, breeding: Breeding) -> list[Generation]:
    """All generations of a run."""
    breeder = Breeder(breeding)
    with registry.using(model):
        run(breeder.execute())
    return breeder.history


def ones(request: Request) -> str:
    """Whoever's prompt has more "1" answers more of the questions; mutations turn an 0 of the prompt into 1."""
    text = request.text
    asked = re.search(r"Say (\d+)\.", text)
    if asked is None or "The instruction was:" in text:
        old = re.findall(r"[01]{10}", text)
        number = sum(request.sample) + len(request.sample)
        if not old:
            return "0000000000"
        place = number % 10
        return f"{old[-1][:place]}1{old[-1][place + 1 :]}"
    prompt = re.findall(r"[01]{10}", text)[-1]
    return asked[1] if int(asked[1]) % 10 < prompt.count("1") else "wrong"


__all__ = ["ROWS", "Decoders", "bred", "breeding", "ones", "scripted", "task"]
