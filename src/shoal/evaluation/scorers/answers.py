"""Whether a short answer is the one that was wanted: 1.0 or 0.0."""

from shoal.batch.rows import Row
from shoal.prompting.answers import extract, normalise, number


async def exact(output: str, answer: str | None, target: object, _: Row) -> float:
    """The same answer after normalising: numbers as numbers, words without case, articles and punctuation."""
    wanted = _gold(target, "auto")
    given = extract(output) if answer is None else answer
    if given is None or wanted is None:
        return 0.0
    return float(normalise(given) == normalise(wanted))


async def same_number(output: str, answer: str | None, target: object, _: Row) -> float:
    """The same number, exactly."""
    wanted = _gold(target, "number")
    given = extract(answer or output, "number")
    if given is None or wanted is None:
        return 0.0
    value = number(given)
    return float(value is not None and value == number(wanted))


async def same_choice(output: str, answer: str | None, target: object, _: Row) -> float:
    """The same letter; a whole number as the target counts the options from 0."""
    if isinstance(target, int) and not isinstance(target, bool) and 0 <= target < 10:
        target = "ABCDEFGHIJ"[target]
    wanted = _gold(target, "choice")
    given = extract(answer or output, "choice")
    return float(given is not None and given == wanted)


def _gold(target: object, kind: str) -> str | None:
    """The wanted answer as text; a worked solution ("... #### 42", a box) is the answer it ends in."""
    if target is None:
        return None
    if isinstance(target, bool):
        return "yes" if target else "no"
    text = str(target)
    stated = extract(text, kind) if kind != "auto" or "####" in text or r"\boxed" in text else text
    return stated or None
