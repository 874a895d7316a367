"""Round trip: code is described, written anew from the description alone, and the two are compared by running them.

arXiv:2402.08699 (round-trip correctness), and at inference arXiv:2407.16557.
"""

import ast
import re
import textwrap
from collections.abc import Sequence

from msgspec import Struct, structs

from shoal import sandbox
from shoal.prompting.answers import Block
from shoal.prompting.template import prompt
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model, ask
from shoal.runtime.types import Completion, Request
from shoal.techniques._conversation import aside, instructed, thinking, transcript
from shoal.techniques._program_tests import Step, behaviour, calls_in, is_telling, read_tests, run_tests
from shoal.techniques._programs import (
    block_in,
    check_options,
    is_python,
    parsed,
    python_in,
    shortened,
    tag,
)
from shoal.techniques._spending import Spending

_BETTER = re.compile(r"\bbetter[\s*_\"]*[:：=][\s*_\"(\[<]*(?:program[ _])?(1|2|same)\b", re.IGNORECASE)
_FIRST, _SECOND = 1, 2


async def round_trip(
    model: Model,
    request: Request,
    *,
    tests: str | None = None,
    judge: Model | None = None,
    merge: bool = True,
    seconds: float = 10.0,
) -> Completion:
    """Describe the code of an answer, write it anew from that alone, and where the two differ keep the better one.

    They agree if their syntax is the same or, for Python, if they do the same in the sandbox: on the tests in the
    message (or in `tests`), else on calls that the model writes. Where they differ, the one that passes more tests is
    kept, else the one the `judge` prefers in either order, else (with `merge`) a third one that has to hold in the same
    comparison, else the first. An answer without code is returned as it is. Raises SandboxUnavailable before any call.
    """
    check_options(repairs=0, seconds=seconds)
    steps = read_tests(request, tests)
    await sandbox.need()
    spending = Spending()
    trip = _Trip(spending.on(model), request, spending.on(judge or model), steps, seconds)
    first = await trip.model(request)
    code = None if first.tool_calls else block_in(first)
    if code is None:
        return first
    kept = await _better(trip, structs.replace(first, answer=code.text), code, merge)
    return structs.replace(kept, usage=spending.usage)


class _Seen(Struct, frozen=True):
    """What running a program showed: how well it does in the tests, or what it and each call print and give."""

    rank: tuple[bool, int] = (False, 0)
    shown: tuple[str, ...] = ()


async def _better(trip: "_Trip", first: Completion, code: Block, merge: bool) -> Completion:
    """The first answer, the same with the code of the way back, or a merged one."""
    runs = is_python(code)
    one = await trip.looked_at(code.text) if runs and trip.steps else _Seen()
    if one.rank[0]:
        return first  # the best there is: what is written anew could at most be as good
    text = await trip.written_anew(code, runs)
    if text is None or _same_syntax(code.text, text):
        return first
    if runs and not trip.steps:
        one, two = await gather(trip.looked_at(code.text), trip.looked_at(text))
    else:
        two = await trip.looked_at(text) if runs else _Seen()
    if trip.agree(one, two):
        return first
    winner = max((one.rank, _FIRST), (two.rank, _SECOND))[1] if one.rank != two.rank else None
    winner = winner or await trip.judged((code.text, one), (text, two))
    if winner == _SECOND:
        swapped = _swapped(first.text, code.text, text)
        return structs.replace(first, text=swapped, answer=text, logprobs=None)
    merged = None
    if winner is None and merge and trip.can_tell(one, two):
        merged = await trip.merged((code.text, one), (text, two))
    return merged or first


class _Trip:
    """A round trip: what it is about, the calls that compare programs, and every reply so far."""

    def __init__(self, model: Model, request: Request, judge: Model, steps: Sequence[Step], seconds: float) -> None:
        self.model, self.request, self.judge = model, request, judge
        self.steps, self.seconds = steps, seconds
        self.calls: Sequence[Step] = ()

    async def written_anew(self, code: Block, runs: bool) -> str | None:
        """The code made from a description of it; meanwhile, calls to compare the two by where there are no tests."""
        shown = {"code": f"```{tag(code)}\n{code.text}\n```", "conversation": transcript(self.request)}
        needed = [self._there_and_back(shown)]
        if runs and not self.steps:
            needed.append(self._calls(shown))
        back, *calls = await gather(*needed)
        self.calls = calls_in(calls[0].text) if calls and calls[0] else []
        return back.text if back and is_python(back) == runs else None

    async def _there_and_back(self, shown: dict[str, str]) -> Block | None:
        description = await self.model(self._fresh(prompt("round_trip_describe").fill(shown)))
        if not description.text.strip() or description.finish_reason == "length":
            return None
        wish = prompt("round_trip_write").fill({"description": description.text})
        return block_in(await self.model(self._fresh(wish)))

    async def _calls(self, shown: dict[str, str]) -> Block | None:
        question = aside(self.request, prompt("round_trip_inputs").fill(shown))
        return block_in(await self.model(structs.replace(question, params=thinking(self.request).params)))

    def _fresh(self, text: str) -> Request:
        """A question that knows nothing of the conversation."""
        return ask(self.request, text, params=thinking(self.request).params)

    async def looked_at(self, text: str) -> _Seen:
        if self.steps:
            result = await run_tests(text, self.steps, self.seconds)
            return _Seen((result.problem is None, result.passed), (result.problem or result.output,))
        return _Seen(shown=tuple(await behaviour(text, self.calls, self.seconds)))

    def agree(self, one: _Seen, two: _Seen) -> bool:
        """Whether they were seen to do the same: nothing seen, or only errors, shows nothing."""
        return not self.steps and one.shown == two.shown and is_telling(one.shown)

    def can_tell(self, one: _Seen, two: _Seen) -> bool:
        """Whether running it would show that a third program is good enough."""
        if self.steps:
            return bool(one.shown)
        return len(one.shown) == len(two.shown) and (is_telling(one.shown) or is_telling(two.shown))

    async def judged(self, one: tuple[str, _Seen], two: tuple[str, _Seen]) -> int | None:
        """Which is better, asked in both orders; None where the orders contradict each other or say nothing."""
        orders = ((one, two), (two, one))
        verdicts = await gather(*(self.judge(self._comparison(*order)) for order in orders))
        there, back = _preferred(verdicts[0]), _preferred(verdicts[1])
        votes = (there, {"1": "2", "2": "1"}.get(back or "", back))
        if "2" in votes:
            return _SECOND if votes == ("2", "2") else None
        return _FIRST if "1" in votes or "same" in votes else None

    async def merged(self, one: tuple[str, _Seen], two: tuple[str, _Seen]) -> Completion | None:
        """A third answer from both programs; None where it has no code or does not hold in the comparison."""
        wish = prompt("round_trip_merge").fill(self._shown(one, two))
        third = await self.model(instructed(self.request, wish))
        text, _ = python_in(third, defining=True)
        if text is None or third.finish_reason == "length":
            return None
        seen = await self.looked_at(text)
        if self.steps:
            holds = seen.rank > one[1].rank
        else:
            pairs = list(zip(one[1].shown, two[1].shown, strict=True))
            allowed = len(seen.shown) == len(pairs) and is_telling(seen.shown)
            holds = allowed and all(it in pair for it, pair in zip(seen.shown, pairs, strict=True))
        return structs.replace(third, answer=text) if holds else None

    def _comparison(self, one: tuple[str, _Seen], two: tuple[str, _Seen]) -> Request:
        shown = {"conversation": transcript(self.request), **self._shown(one, two)}
        return aside(self.request, prompt("round_trip_compare").fill(shown), temperature=0.0)

    def _shown(self, one: tuple[str, _Seen], two: tuple[str, _Seen]) -> dict[str, str]:
        labels = ["the tests"] if self.steps else ["run by itself", *(step.source for step in self.calls)]
        lines = [
            f"{label}\nprogram 1: {a or '(nothing)'}\nprogram 2: {b or '(nothing)'}"
            for label, a, b in zip(labels, one[1].shown, two[1].shown, strict=False)
            if a != b
        ]
        differences = shortened("\n\n".join(lines)) or "(None could be found by running them.)"
        return {"first": one[0], "second": two[0], "differences": differences}


def _preferred(verdict: Completion) -> str | None:
    """The number of the better program, or "same"; None where no verdict can be read or it was cut off."""
    said = [match[1].lower() for match in _BETTER.finditer(verdict.text)]
    return said[-1] if said and verdict.finish_reason != "length" else None


def _same_syntax(one: str, two: str) -> bool:
    """Whether two programs are the same but for comments, docstrings and layout; in other languages, for space."""
    trees = [parsed(text) for text in (one, two)]
    if None in trees:
        return one.split() == two.split()
    return _dumped(trees[0]) == _dumped(trees[1])


def _dumped(tree: ast.Module | None) -> str:
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:]
    return ast.dump(tree) if tree else ""


def _swapped(text: str, code: str, other: str) -> str:
    """The whole reply with other code in the place of its own."""
    lines = r"\r?\n[ \t>]*".join(re.escape(line.lstrip(" \t>")) for line in code.split("\n"))
    *_, last = [None, *re.finditer(rf"^([ \t>]*){lines}", text, re.MULTILINE)]
    if last is None:
        return f"```python\n{other}\n```"
    margin = last[1]  # of a block in a list, say
    return f"{text[: last.start()]}{textwrap.indent(other, margin, lambda _: True)}{text[last.end() :]}"
