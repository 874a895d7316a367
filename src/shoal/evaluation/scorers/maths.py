"""Whether two formulas are the same mathematics, decided by a computer algebra system that only the sandbox may run."""

import hashlib
import importlib.util
import json
import re
from collections import OrderedDict
from functools import partial

from shoal import sandbox
from shoal.batch.rows import Row
from shoal.errors import UsageError
from shoal.evaluation.scorers.answers import gold
from shoal.evaluation.scorers.rating import Scorer
from shoal.evaluation.scorers.texts import shown_end
from shoal.prompting.answers import extract, normalise, number
from shoal.prompting.answers.markup import boxes, plain, without_latex
from shoal.sandbox import Limits, run_python

_LONGEST = 1000  # characters of a formula
_KEPT = 4096  # comparisons that are remembered: draws of one row often give the same answer
_FORMULA = re.compile(r"[\d\\^+*/=<>(\[{|√π∞±∪∩≤≥≠]|^-?[A-Za-z]$|\b[A-Za-z] ?[-−] ?[A-Za-z]\b")
_ROOT = re.compile(r"√\s?(?:(\d{1,99}|[A-Za-z])|[({]([^(){}]{1,99})[)}])")
_PI = re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])")

# The formulas come as data. What it says is marked, so that nothing printed by the way can look like a verdict.
_COMPARE = """
import json, sys
from math_verify import parse, verify
job = json.load(sys.stdin)
wanted, given = (parse(text, fallback_mode="no_fallback", parsing_timeout=None) for text in job["formulas"])
same = bool(wanted and given) and verify(wanted, given, timeout_seconds=None)
print("\\n" + job["mark"] + (" same" if same else " different"))
"""


def maths(*, seconds: float = 5.0) -> Scorer:
    r"""The same mathematics: 1/2 is 0.5 and \frac{1}{2}, x^2+2x+1 is (x+1)^2, {1,2} is {2,1}.

    The answer is the last box, else what the output states. Equal texts, numbers and words are compared here; formulas
    by math-verify, in the sandbox. A comparison that takes longer than `seconds` is ended and counts as different.
    """
    if not 0 < seconds < float("inf"):
        raise UsageError(f"maths(seconds={seconds:g}): a comparison's time must be above 0")
    kept: OrderedDict[tuple[str, str], bool] = OrderedDict()

    async def rate(output: str, answer: str | None, target: object, _: Row) -> float:
        wanted, given = gold(target, "auto"), _read(output) if answer is None else answer
        if wanted is None or given is None:
            return 0.0
        decided = _decided(given, wanted)
        if decided is not None:
            return float(decided)
        pair = _formula(wanted), _formula(given)
        if pair not in kept:
            kept[pair] = await _same(*pair, seconds)
            if len(kept) > _KEPT:
                kept.popitem(last=False)
        return float(kept[pair])

    return Scorer("maths", rate, read=_read, need=partial(_need))


async def _need() -> None:
    if importlib.util.find_spec("math_verify") is None:
        raise UsageError("the scorer maths needs math-verify: pip install 'shoal[evaluation]'")
    await sandbox.need()


def _read(output: str) -> str | None:
    """What the last box holds, whole; else the answer that is stated."""
    found = boxes(shown_end(output))
    return found[-1][1] if found else extract(output)


def _decided(given: str, wanted: str) -> bool | None:
    """Whether two answers are the same, where that takes no algebra."""
    if normalise(given) == normalise(wanted):
        return True
    if max(len(given), len(wanted)) > _LONGEST or not (_is_formula(given) and _is_formula(wanted)):
        return False
    first, second = number(given), number(wanted)
    whole = first is not None and second is not None and first.denominator == second.denominator == 1
    return False if whole and "%" not in given + wanted else None


def _is_formula(text: str) -> bool:
    """Whether it can be mathematics: the letters of a word would be multiplied."""
    return _FORMULA.search(plain(without_latex(text))) is not None


def _formula(text: str) -> str:
    r"""A formula as LaTeX has it, between dollars."""
    inside = plain(text).replace("$", "").replace("**", "^").replace("π", r"\pi ").replace("∞", r"\infty ")
    inside = _ROOT.sub(lambda root: rf"\sqrt{{{root[1] or root[2]}}}", _PI.sub(r"\\pi ", inside))
    return f"${' '.join(inside.split())}$"


async def _same(wanted: str, given: str, seconds: float) -> bool:
    mark = hashlib.sha256(f"{wanted}\0{given}".encode(errors="replace")).hexdigest()
    job = json.dumps({"formulas": [wanted, given], "mark": mark})
    outcome = await run_python(_COMPARE, stdin=job, limits=Limits(wall=seconds, cpu=seconds))
    return outcome.ok and f"{mark} same" in outcome.stdout.splitlines()
