"""Whether a short answer is the one that was wanted: 1.0 or 0.0."""

import re
from functools import lru_cache

from shoal.batch.rows import Row
from shoal.errors import UsageError
from shoal.evaluation.metrics import affirms
from shoal.evaluation.metrics import f_beta as f_beta_metric
from shoal.evaluation.scorers.rating import Scorer
from shoal.prompting.answers import extract, normalise
from shoal.prompting.answers import number as number_in

_NOT_YES = ("no", "false", "0")
_SHORT = 1000  # characters; nothing longer is held in memory


def exact() -> Scorer:
    """The same answer after normalising: numbers as numbers, words without case, articles and punctuation."""
    return Scorer("exact", _same_text)


def number() -> Scorer:
    """The same number, exactly: 1,000 is $1000.00, and 0.5 is 1/2."""
    return Scorer("number", _same_number, "number", check=_has_number)


def choice() -> Scorer:
    """The same letter from A to J; a whole number as the target counts the options from 0."""
    return Scorer("choice", _same_choice, "choice", check=_has_letter)


def boolean() -> Scorer:
    """The same of yes and no; the target is true or false, yes or no, 1 or 0."""
    return Scorer("boolean", _same_decision, "boolean", check=_yes_or_no)


def f_beta(*, beta: float = 1.0, yes: str | None = None) -> Scorer:
    """As `boolean` in each row, and over all rows F-beta: recall counts `beta` times as much as precision.

    An answer that says neither yes nor no is a no. With `yes` only an output that is this text, to the letter, is a
    yes: `f_beta(beta=0.5, yes=" Yes")`.
    """
    if not 0 < beta < float("inf"):
        raise UsageError(f"f_beta(beta={beta:g}): beta must be above 0")
    read = None if yes is None else lambda output: "yes" if output == yes else "no"
    return Scorer("f_beta", _same_side, "boolean", f_beta_metric(beta), read=read, check=_yes_or_no)


async def _same_text(output: str, answer: str | None, target: object, _: Row) -> float:
    wanted = gold(target, "auto")
    given = extract(output) if answer is None else answer
    if given is None or wanted is None:
        return 0.0
    return float(normalise(given) == normalise(wanted))


async def _same_number(output: str, answer: str | None, target: object, _: Row) -> float:
    wanted = gold(target, "number")
    given = _stated(answer or output, "number")
    if given is None or wanted is None:
        return 0.0
    value = number_in(given)
    return float(value is not None and value == number_in(wanted))


async def _same_choice(output: str, answer: str | None, target: object, _: Row) -> float:
    wanted = _letter(target)
    given = _stated(answer or output, "choice")
    return float(given is not None and given == wanted)


def _letter(target: object) -> str | None:
    """The wanted letter; in a CSV file a whole number is text."""
    digits = "" if isinstance(target, bool) else str(target)
    return "ABCDEFGHIJ"[int(digits)] if re.fullmatch("[0-9]", digits) else gold(target, "choice")


async def _same_decision(output: str, answer: str | None, target: object, _: Row) -> float:
    given = _stated(answer or output, "boolean")
    return float(given is not None and target is not None and (given == "yes") is affirms(target))


async def _same_side(_: str, answer: str | None, target: object, __: Row) -> float:
    return float(affirms(answer) is affirms(target))


def _has_number(target: object, _: Row) -> None:
    if target is not None and gold(target, "number") is None:
        raise UsageError(f"{str(target)[:60]!r} has no number to compare with")


def _has_letter(target: object, _: Row) -> None:
    if target is not None and _letter(target) is None:
        raise UsageError(f"{str(target)[:60]!r} names no choice from A to J, and no whole number from 0 to 9")


def _yes_or_no(target: object, _: Row) -> None:
    if target is not None and not affirms(target) and target is not False and normalise(str(target)) not in _NOT_YES:
        raise UsageError(f"{str(target)[:60]!r} is neither yes nor no")


def gold(target: object, kind: str) -> str | None:
    """The wanted answer as text; a worked solution ("... #### 42", a box) is the answer it ends in."""
    if target is None:
        return None
    if isinstance(target, bool):
        return "yes" if target else "no"
    text = str(target)
    stated = _stated(text, kind) if kind != "auto" or "####" in text or r"\boxed" in text else text
    return stated or None


def _stated(text: str, kind: str) -> str | None:
    """`extract` for targets and short answers, which come again and again: half the work of a score."""
    return _remembered(text, kind) if len(text) <= _SHORT else extract(text, kind)


_remembered = lru_cache(maxsize=2048)(extract)
