"""Asking a judge for a score, for the better of two answers, or for the best of several."""

import re
from collections.abc import Sequence

from shoal.prompting.answers import rating
from shoal.prompting.answers.markup import is_quoted, without_reasoning
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


def ask_comparison(request: Request, first: Completion, second: Completion) -> Request:
    """Is the first answer (A) or the second (B) better? Reasons come before the verdict."""
    gaps = {"conversation": transcript(request), "first": said(first), "second": said(second)}
    return aside(request, prompt("compare_answers").fill(gaps), temperature=0.0)


def ask_selection(request: Request, answers: Sequence[Completion]) -> Request:
    """Which of the answers, numbered from 1, is the best? Reasons come before the verdict."""
    gaps = {"conversation": transcript(request), "answers": numbered(answers)}
    return aside(request, prompt("select_answer").fill(gaps), temperature=0.0)


def numbered(answers: Sequence[Completion]) -> str:
    """The answers, each under its number."""
    return "\n\n".join(f"[Answer {i}]\n{said(answer)}" for i, answer in enumerate(answers, 1))


def preferred(verdict: Completion) -> str | None:
    """The better of two answers: "A", "B" or "tie"; None where none can be read or the judge was cut off."""
    word = _BETTER.read(verdict)
    return "tie" if word and word.casefold() in _TIES else word and word.upper()


def selected(verdict: Completion, n: int) -> int | None:
    """The index of the best of n answers; None where none can be read or the judge was cut off."""
    number = _BEST.read(verdict)
    return int(number) - 1 if number and number.isdigit() and 1 <= int(number) <= n else None


def is_empty(answer: Completion) -> bool:
    """Whether a reply says nothing beside its reasoning, and calls no tool."""
    return not (without_reasoning(answer.text) or "").strip() and not answer.tool_calls


def is_whole(answer: Completion) -> bool:
    """Whether a reply says something and was not cut off."""
    return not is_empty(answer) and answer.finish_reason != "length"


_TIES = ("tie", "tied", "draw", "neither", "both", "equal")
# What a verdict stands after, the clearest first.
_SAYS = r"[*_\"')\]]{0,4}\s{0,3}(?:[:：=]|[-–—→]\s|is\b:?)"
_LABELS = (
    re.compile(rf"\b(?:verdict|winner)\b{_SAYS}|\[\[(?=[^\[\]\n]{{1,20}}\]\])", re.IGNORECASE),
    re.compile(
        rf"\b(?:preference|judge?ment|(?:better|best)(?: (?:answer|one|response))?)\b{_SAYS}",
        re.IGNORECASE,
    ),
)
_WRAPPERS = r"[\s*_`\"'“”(\[<{$#]{0,9}(?:\\(?:boxed|text|textbf)\{){0,2}"
# A verdict that goes on like this is another than its first word, or none: "A or B", "A is not better".
_SPOILT = (
    r"[*_\"'\s]{{0,4}}(?:,|/|and\b|or\b)\s?(?:(?i:answer)\s)?[*_\"']{{0,3}}(?:{0}|(?i:tie))(?!\w)"
    r"|\s(?:is|are|was)(?:n['’]t|\s(?:\w{{1,12}}\s)?(?:not|worse|wrong|incorrect))\b|\.\d|\s?[-–]\s?\d"
)


class _Grammar:
    """How a judge says one of several labels (a pattern)."""

    def __init__(self, label: str) -> None:
        kind = r"(?i:answer|response|option|assistant|model)[\s_]?"
        name = rf"{_WRAPPERS}(?:(?i:the) |(?i:an?) (?=\w\w))?(?:{kind})?(?:(?i:number|no\.)\s?)?#?{_WRAPPERS}"
        word = rf"{name}({label}|(?i:{'|'.join(_TIES)}))(?!\w)"
        self.labelled = re.compile(f"{word}(?!{_SPOILT.format(label)})")
        self.alone = re.compile(rf"[\s>#]{{0,9}}{word}[\s*_`\"'“”)\]>}}$.!]{{0,9}}")

    def read(self, verdict: Completion) -> str | None:
        """The last verdict given under such a name; where there is none, one that stands alone on the last line.

        One in quotes is not given: it is what an answer says of itself.
        """
        if verdict.finish_reason == "length":
            return None
        shown = (without_reasoning(verdict.text) or "").strip()
        for label in _LABELS:
            places = (at for at in label.finditer(shown) if not is_quoted(shown, at.start()))
            said = [match[1] for at in places if (match := self.labelled.match(shown, at.end()))]
            if said:
                return said[-1]
        alone = self.alone.fullmatch(shown.rsplit("\n", 1)[-1])
        return alone[1] if alone else None


_BETTER = _Grammar(r"[AB]|[ab](?=[*_\"'.\s)\]]{0,9}$)")  # a small one only at the end: "a" may be an article
_BEST = _Grammar(r"\d{1,4}")
