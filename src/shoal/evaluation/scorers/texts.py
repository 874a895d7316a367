"""Whether an output has a text in it, or something that a pattern describes."""

import re

from shoal.batch.rows import Row
from shoal.errors import UsageError
from shoal.evaluation.scorers.matching import Matcher
from shoal.evaluation.scorers.rating import Scorer
from shoal.prompting.answers.markup import without_reasoning

LOOKED_AT = 200_000  # characters at the end of an output, of 50,000 tokens and more
_FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE, "a": re.ASCII}


def contains(*, ignore_case: bool = True, words: bool = False) -> Scorer:
    """The target stands in the output, after its reasoning; of a list of targets, any of them.

    With `words` only as whole words: "cat" is not in "concatenate". Of a very long output the last 200,000 characters
    are looked at.
    """

    def folded(text: str) -> str:
        return text.casefold() if ignore_case else text

    async def rate(output: str, _: str | None, target: object, __: Row) -> float:
        shown = folded(shown_end(output))
        return float(any(_stands(folded(wanted), shown, words) for wanted in _wanted(target)))

    return Scorer("contains", rate)


def regex(*, pattern: str | None = None, flags: str = "", seconds: float = 1.0) -> Scorer:
    """The output, after its reasoning, matches the pattern somewhere; without one the target is the pattern.

    `flags` are letters as in Python: i (ignore case), m (lines), s (dot matches all), x (verbose), a (ASCII). Of a very
    long output the last 200,000 characters are looked at. A match that takes longer than `seconds`, as a hostile output
    can make it, is ended and counts as none. In quotes a backslash is written twice, as in Python.
    """
    if unknown := set(flags) - set(_FLAGS):
        raise UsageError(f"regex(flags={flags}): no flag {unknown.pop()!r}; flags are {', '.join(_FLAGS)}")
    if not 0 < seconds < float("inf"):
        raise UsageError(f"regex(seconds={seconds:g}): a match's time must be above 0")
    value = sum(_FLAGS[letter] for letter in set(flags))
    matcher = Matcher(seconds)

    def check(target: object, _: Row) -> None:
        if pattern is None and target is not None:
            _compiled(str(target), value)

    async def rate(output: str, _: str | None, target: object, __: Row) -> float:
        wanted = target if pattern is None else pattern
        return 0.0 if wanted is None else float(await matcher.matches(str(wanted), value, shown_end(output)))

    if pattern is not None:
        _compiled(pattern, value)
    return Scorer("regex", rate, check=check, needs_target=pattern is None)


def shown_end(output: str) -> str:
    """What is looked at of an output: its last characters after the reasoning."""
    return (without_reasoning(output) or "")[-LOOKED_AT:]


def _wanted(target: object) -> list[str]:
    """The texts of which one is to be there; an empty one, which is everywhere, is none."""
    texts = target if isinstance(target, list | tuple) else [target]
    return [str(text) for text in texts if text is not None and str(text)]


def _stands(wanted: str, text: str, words: bool) -> bool:
    if not words:
        return wanted in text
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text) is not None


def _compiled(pattern: str, flags: int) -> None:
    if any(character in pattern for character in "\a\b\f\v"):
        raise UsageError(f"regex: the pattern {pattern!r} has a control character; in quotes write \\\\b for \\b")
    try:
        re.compile(pattern, flags)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"regex: {pattern[:60]!r} is no regular expression: {error}") from None
