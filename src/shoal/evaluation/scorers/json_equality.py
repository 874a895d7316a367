"""Whether an output has the JSON value that was wanted."""

import json as reader
from collections.abc import Callable, Sequence
from typing import Any

from shoal.batch.rows import Row
from shoal.errors import UsageError
from shoal.evaluation.scorers.rating import Scorer
from shoal.evaluation.scorers.texts import shown_end
from shoal.prompting.answers import blocks, extract
from shoal.prompting.llm.objects import decode_json, json_in

_MOST = 1000  # items of a list that are compared in any order
Equal = Callable[[Any, Any], bool]


def json(*, tolerance: float = 0.0, ignore_order: bool = False, subset: bool = False) -> Scorer:
    """The last JSON value in the output (all of it, in a code block, or in prose) equals the target.

    In prose it is the last object where the target is one, the last list where it is a list. The target is a JSON
    value, or its text. Numbers may differ by `tolerance`, relative to the larger; 1 and 1.0 are equal, 1 and true are
    not. With `ignore_order` the items of lists may stand in any order (in lists of up to 1000). With `subset` objects
    may have more keys than the target's. Of a very long output the last 200,000 characters are looked at.
    """
    if not 0 <= tolerance < 1:
        raise UsageError(f"json(tolerance={tolerance:g}): from 0 up to, but not, 1")
    equal = _comparison(tolerance, ignore_order=ignore_order, subset=subset)

    def check(target: object, _: Row) -> None:
        _target(target)

    async def rate(output: str, answer: str | None, target: object, _: Row) -> float:
        wanted = _target(target)
        try:
            return float(any(equal(given, wanted) for given in _given(output, answer, type(wanted))))
        except RecursionError:  # no value that a target is compared with here is nested so deeply
            return 0.0

    return Scorer("json", rate, read=_read, check=check)


def _read(output: str) -> str | None:
    """The value as text, for people to read; of prose with no value in it, what it states."""
    for value in _given(output, None):
        return reader.dumps(value, ensure_ascii=False)
    return extract(output[-1000:])


def _given(output: str, answer: str | None, kind: type = object) -> list[Any]:
    """The value that an output ends in, in prose the last of that kind; where that is none, its short answer, too."""
    shown = shown_end(output)
    texts = [shown, *(block.text for block in reversed(blocks(shown)) if block.closed)]
    for text in texts:
        try:
            return [decode_json(text.strip())]
        except ValueError:
            continue
    try:
        found = json_in(shown)
        return [value for value in found if isinstance(value, kind)][-1:] or found[-1:]
    except ValueError:
        return _values(extract(shown[-1000:]), answer)


def _values(*texts: str | None) -> list[Any]:
    """Short answers as JSON values; what is none is a text."""
    found = []
    for text in texts:
        if text is not None:
            try:
                found.append(decode_json(text))
            except ValueError:
                found.append(text)
    return found


def _target(target: object) -> Any:
    if not isinstance(target, str):
        return target
    try:
        return decode_json(target)
    except ValueError as error:
        raise UsageError(f"json: {target[:60]!r} is not JSON: {error}") from None


def _comparison(tolerance: float, *, ignore_order: bool, subset: bool) -> Equal:
    def equal(given: Any, wanted: Any) -> bool:
        if isinstance(wanted, dict):
            if not isinstance(given, dict) or not wanted.keys() <= given.keys():
                return False
            return (subset or len(given) == len(wanted)) and all(
                equal(given[key], value) for key, value in wanted.items()
            )
        if isinstance(wanted, list | tuple):
            if not isinstance(given, list) or len(given) != len(wanted):
                return False
            in_order = all(map(equal, given, wanted))
            return in_order or (ignore_order and len(wanted) <= _MOST and _matched(given, wanted, equal))
        if _is_number(wanted) and _is_number(given):
            return _close(given, wanted, tolerance)
        return type(given) is type(wanted) and bool(given == wanted)

    return equal


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _close(given: float, wanted: float, tolerance: float) -> bool:
    if given == wanted or not tolerance:
        return given == wanted
    try:
        return abs(given - wanted) <= tolerance * max(abs(given), abs(wanted))
    except OverflowError:  # an integer beyond all floating-point numbers
        return False


def _matched(given: Sequence[Any], wanted: Sequence[Any], equal: Equal) -> bool:
    """Whether each wanted item can have a given one of its own. (With a tolerance the first that fits may be the only
    one for another.)
    """
    fits = [[at for at, item in enumerate(given) if equal(item, one)] for one in wanted]
    owner: dict[int, int] = {}  # of a given item, which wanted one has it
    for start in range(len(wanted)):
        came_from: dict[int, int] = {}  # given item -> the wanted one that asks for it
        waiting, free = [start], -1
        for one in waiting:
            for at in fits[one]:
                if at in came_from:
                    continue
                came_from[at] = one
                if at not in owner:
                    free = at
                    break
                waiting.append(owner[at])
            if free >= 0:
                break
        if free < 0:
            return False
        while free >= 0:  # each that had one on the way takes the next
            one = came_from[free]
            before = next((at for at, has in owner.items() if has == one), -1)
            owner[free] = one
            free = -1 if one == start else before
    return True
