"""Solving step by step: asking for the next step of a partial solution, judging it, and writing the answer from it."""

import re
from collections.abc import Sequence

from shoal.prompting.answers.markup import without_reasoning
from shoal.prompting.template import prompt
from shoal.runtime.model import Model, answer
from shoal.runtime.types import Completion, Request
from shoal.techniques._conversation import aside, fits, has_form, instructed, thinking, transcript

# Where a line states the final answer, be it numbered like the steps shown. Only to speak of it is not enough.
FINAL_ANSWER = re.compile(
    r"^[ \t*_#>-]*(?:\[?step \d{1,3}\]?[ \t:.*_]*|\d{1,3}[.)][ \t*_]*)?final answer\b"
    r"(?=[^\n:]{0,60}:|[ \t]+is\b|[ \t*_]*$)",
    re.IGNORECASE | re.MULTILINE,
)


def ask_step(request: Request, path: Sequence[str]) -> Request:
    """The conversation, with the steps so far and the wish for the next one alone."""
    wish = prompt("next_step").fill({"steps": numbered(path) or "(none yet)"})
    return instructed(thinking(request), wish)


def said_step(reply: Completion) -> str:
    """The step that a reply is, without the reasoning before it: what was tried there is not said yet."""
    return (without_reasoning(reply.text) or "").strip()


def is_final(step: str) -> bool:
    """Whether a step ends a solution: it says "Final answer"."""
    return FINAL_ANSWER.search(step) is not None


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


def wording(step: str) -> str:
    """The form in which two steps are the same: case and white space do not count."""
    return " ".join(step.casefold().split())
