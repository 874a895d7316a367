"""A scripted model that works step by step: what it says next, what its judge says, and the answer it writes."""

import re
from collections.abc import Callable

from shoal.runtime.types import Completion, Request

Said = str | Completion


def steps_in(request: Request) -> list[str]:
    """The steps that a request shows."""
    shown = request.text.rsplit("<steps>\n", 1)[1].split("\n</steps>")[0]
    return [step.strip() for step in re.split(r"\[Step \d+\]\n", shown)[1:]]


def kind_of(request: Request) -> str:
    if "Score: <number>" in request.text:
        return "rating"
    return "step" if "Write the next step only" in request.text else "answer"


def stepwise(
    step: Callable[[list[str], tuple[int, ...]], Said],
    score: Callable[[list[str]], object],
    answer: Callable[[list[str]], Said] = lambda steps: "written from " + " / ".join(steps),
) -> Callable[[Request], Said]:
    """`step(steps, draw)`, `score(steps)` (a number, or the judge's whole reply) and `answer(steps)`."""

    def script(request: Request) -> Said:
        shown = steps_in(request)
        if kind_of(request) == "rating":
            said = score(shown)
            return said if isinstance(said, str | Completion) else f"It may be. Score: {said}"
        return step(shown, request.sample) if kind_of(request) == "step" else answer(shown)

    return script
