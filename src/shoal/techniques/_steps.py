"""Solving step by step: asking for the next step of a partial solution, judging it, and writing the answer from it."""

import re
from collections.abc import Sequence

from shoal.prompting.template import prompt
from shoal.runtime.model import Model, answer
from shoal.runtime.types import Completion, Request
from shoal.techniques._conversation import aside, fits, has_form, instructed, thinking, transcript

_FINAL = re.compile(r"^[\s*_#>]*final answer\b", re.IGNORECASE | re.MULTILINE)


def ask_step(request: Request, path: Sequence[str]) -> Request:
    """The conversation, with the steps so far and the wish for the next one alone."""
    wish = prompt("next_step").fill({"steps": numbered(path) or "(none yet)"})
    return instructed(thinking(request), wish)


def is_final(step: str) -> bool:
    """Whether a step ends a solution: it says "Final answer"."""
    return _FINAL.search(step) is not None


def ask_step_rating(request: Request, path: Sequence[str]) -> Request:
    """How likely is it that these steps lead to a right answer, from 0 to 10? Reasons come before the score."""
    question = prompt("rate_steps").fill({"conversation": transcript(request), "steps": numbered(path)})
    return aside(request, question, temperature=0.0)


def joined(path: Sequence[str]) -> str:
    """The steps as one text."""
    return "\n\n".join(path)


def is_answer(request: Request, path: Sequence[str]) -> bool:
    """Whether the steps are themselves the answer the user asked for: whole, of no special form, and not too long."""
    return bool(path) and is_final(path[-1]) and not has_form(request) and fits(request, joined(path))


def ask_answer(request: Request, path: Sequence[str]) -> Request:
    """The wish for the answer to the conversation from worked steps, with everything the user asked of the answer."""
    return instructed(request, prompt("write_answer").fill({"steps": numbered(path)}))


async def write_answer(model: Model, request: Request, path: Sequence[str]) -> Completion:
    """The answer to the conversation from worked steps: one call, in tail position."""
    return await answer(model, ask_answer(request, path))


def numbered(path: Sequence[str]) -> str:
    """The steps as text, each under its number."""
    return "\n\n".join(f"[Step {i}]\n{step.strip()}" for i, step in enumerate(path, 1))
