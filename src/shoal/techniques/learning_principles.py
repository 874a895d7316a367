"""Learning principles from mistakes on given examples, then answering with them: LEAP (arXiv:2402.05403)."""

import re
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct, structs

from shoal.errors import UsageError
from shoal.prompting.answers import equivalent, extract
from shoal.prompting.answers.markup import without_reasoning
from shoal.prompting.template import prompt
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model, answer, ask
from shoal.runtime.types import Completion, Message, Request, Usage, total
from shoal.techniques._conversation import aside, instructed, said, thinking, with_system
from shoal.techniques._options import at_least

_LABEL = re.compile(
    r"^[ \t>*#]{0,9}(q|question|problem|input|a|answer|solution|output)(?: ?\d{1,3})?\*{0,2} ?:\*{0,2}",
    re.IGNORECASE | re.MULTILINE,
)
_QUESTIONS = ("q", "question", "problem", "input")
_PRINCIPLE = re.compile(r"^[ \t>*#_]{0,9}principle[*_]{0,3} ?:[*_]{0,3}", re.IGNORECASE | re.MULTILINE)


async def learning_principles(
    model: Model,
    request: Request,
    *,
    attempts: int = 3,
    level: str = "high",
    kind: str = "auto",
    examples: Sequence[tuple[str, str]] | None = None,
) -> Completion:
    """Answer the given examples, learn principles from the mistakes, and answer the question with them.

    The examples are those of `examples` or, without it, the earlier turns of the conversation (a question of the user's
    and the assistant's answer) and pairs "Q: ... A: ..." in its last one. Each is answered `attempts` times, step by
    step; an attempt whose final answer is another than the example's (by value, not by wording) is a mistake, from
    which one principle is drawn. With `level` "high" these are summed up into a few general ones, with "low" they are
    used as they are. Without examples or without mistakes the question is answered as it stands.
    """
    at_least(1, attempts=attempts)
    if level not in ("high", "low"):
        raise UsageError(f"learning_principles: level={level!r}; it is high or low")
    extract("", kind)  # an unknown kind is refused here
    lessons = [
        _lesson(model, example, number, kind)
        for example in _examples(request, examples, kind)
        for number in range(attempts)
    ]
    learned = await gather(*lessons)
    spent = total(lesson.usage for lesson in learned)
    principles = _listed(lesson.principle for lesson in learned if lesson.principle)
    if principles and level == "high":
        summary = await model(ask(request, prompt("learning_principles_summary").fill({"principles": principles})))
        spent = spent + summary.usage
        if summary.finish_reason != "length":  # or else some of them would be lost
            principles = (without_reasoning(summary.text) or "").strip() or principles
    final = await answer(model, _informed(request, examples or (), principles))
    return structs.replace(final, usage=spent + final.usage)


class _Example(Struct, frozen=True):
    """A question, put alone, with the whole answer to it and the short one that this ends in."""

    request: Request
    answer: str
    short: str


class _Lesson(Struct, frozen=True):
    principle: str | None
    usage: Usage


def _examples(request: Request, given: Sequence[tuple[str, str]] | None, kind: str) -> list[_Example]:
    """The examples whose answers can be compared; each is asked under the user's system messages alone."""
    systems = tuple(message for message in request.messages if message.role in ("system", "developer"))
    pairs = _shown(request) if given is None else ((Message("user", q), a) for q, a in given)
    found = []
    for question, text in pairs:
        short = extract(text, kind)
        if short is not None:
            bare = request.prompt is not None
            turns = () if bare else (*systems, question)
            asked = structs.replace(thinking(request), messages=turns, prompt=question.text if bare else None)
            found.append(_Example(asked, text, short))
    return found


def _shown(request: Request) -> Iterator[tuple[Message, str]]:
    """Pairs of question and answer in a conversation; what its last turn asks again is the question itself."""
    for asked, replied in zip(request.messages, request.messages[1:], strict=False):
        turns = (asked.role, replied.role) == ("user", "assistant")
        if turns and replied.text.strip() and not replied.tool_calls and not _asked_again(asked, request.messages[-1]):
            yield asked, replied.text
    for question, text in _written(request.text):
        yield Message("user", question), text


def _asked_again(question: Message, last: Message) -> bool:
    """Whether the last turn ends in that question; one with images may differ in these."""
    text = question.text.strip()
    return isinstance(last.content, str) and bool(text) and f"\n{last.content.strip()}".endswith(f"\n{text}")


def _written(text: str) -> Iterator[tuple[str, str]]:
    """Pairs "Q: ... A: ..." in a text. What stands after a blank line behind the last answer is not part of it."""
    _, *pieces = _LABEL.split(text)
    labels, said_ = [label.lower() for label in pieces[::2]], [piece.strip() for piece in pieces[1::2]]
    for i in range(1, len(labels)):
        if labels[i - 1] in _QUESTIONS and labels[i] not in _QUESTIONS and said_[i - 1] and said_[i]:
            last = i == len(labels) - 1
            yield said_[i - 1], re.split(r"\n\s*\n", said_[i], maxsplit=1)[0] if last else said_[i]


async def _lesson(model: Model, example: _Example, number: int, kind: str) -> _Lesson:
    """One attempt at an example and, where it goes wrong, the principle that would have prevented it."""
    asked = example.request.draw(number)
    attempt = await model(instructed(asked, prompt("learning_principles_try").fill({})))
    found = extract(attempt.text, kind, cut_off=attempt.finish_reason == "length")
    if found is None or equivalent(found, example.short, kind):
        return _Lesson(None, attempt.usage)
    gaps = {"question": asked.text, "attempt": said(attempt), "answer": example.answer}
    explained = await model(aside(asked, prompt("learning_principles_explain").fill(gaps)))
    return _Lesson(_principle(explained), attempt.usage + explained.usage)


def _principle(explained: Completion) -> str | None:
    """The principle an explanation ends in; all of it where none is marked, unless it was cut off before that."""
    text = without_reasoning(explained.text) or ""
    *_, last = _PRINCIPLE.split(text)
    if last == text and explained.finish_reason == "length":
        return None
    return last.strip() or None


def _informed(request: Request, examples: Sequence[tuple[str, str]], principles: str) -> Request:
    """The conversation with the examples it does not show itself, and with the principles."""
    if examples:
        pairs = "\n\n".join(f"Q: {question}\nA: {text}" for question, text in examples)
        request = with_system(request, prompt("learning_principles_examples").fill({"examples": pairs}))
    if principles:
        request = with_system(request, prompt("learning_principles").fill({"principles": principles}))
    return request


def _listed(principles: Iterable[str]) -> str:
    return "\n".join(f"- {principle}" for principle in principles)
