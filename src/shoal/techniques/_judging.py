"""Asking a judge for a score."""

from shoal.prompting.answers import rating
from shoal.prompting.template import prompt
from shoal.runtime.types import Completion, Request
from shoal.techniques._conversation import aside, said, transcript


def ask_rating(request: Request, answer: Completion | str) -> Request:
    """How good is this answer to the conversation, from 0 to 10? Reasons come before the score."""
    text = said(answer) if isinstance(answer, Completion) else answer
    question = prompt("rate_answer").fill({"conversation": transcript(request), "answer": text})
    return aside(request, question, temperature=0.0)


def score(verdict: Completion) -> float | None:
    """The judge's score from 0 to 10; None, which is not 0, where none can be read or the judge was cut off."""
    return None if verdict.finish_reason == "length" else rating(verdict.text)
