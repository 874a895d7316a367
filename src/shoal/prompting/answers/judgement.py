"""What a judge decided: right or wrong, and how many points."""

import re
from collections import deque

from shoal.prompting.answers.markup import boxes, is_quoted, plain, without_reasoning

_VERDICT = re.compile(
    r"\b(?:(?P<good>correct|right|true|valid|accurate|yes|pass|passed|passes)"
    r"|incorrect|wrong|false|invalid|inaccurate|no|fail|failed|fails)\b",
    re.IGNORECASE,
)
_STANDALONE = ("yes", "no", "pass", "fail", "passed", "failed", "passes", "fails")
_OPENING = r"[\s*_#>\"'“\[({-]{0,9}$"
_LABEL = re.compile(
    r"(?:\b(?:verdict|judge?ment|decision|conclusion|correctness|correct|assessment|evaluation|result|answer|grade|label|"
    r"ruling|status)\b[\"'*_)\]]{0,4}\s{0,3}[:：=]|<(?:verdict|answer|judge?ment)>|\[\[|\\boxed\{(?:\\text\{)?)"
    + _OPENING,
    re.IGNORECASE,
)
_STARTS = re.compile(
    r"(?:^|[.!?:;\n]|\b(?:so|therefore|thus|hence|overall|finally),?)(?:\s{0,3}\bnot)?" + _OPENING, re.I
)
_ENDS = re.compile(r"[\"'”*_\])}]{0,4}\s{0,3}(?:$|[.,;:!)\]}<–—\n]|-\s)")
# What may stand between a subject or a negation and the verdict.
_BETWEEN = re.compile(
    r"(?:(?:(?P<copula>['’]s|\b(?:is|are|was|were|be|been|being|as|seems?|looks?|appears?|it|answer|solution|response)\b)"
    r"|\b(?:(?P<partly>partially|partly|almost|nearly|mostly|half|largely|only)|the|an?|to|this|that|at all|(?:entire|"
    r"ful|complete|real|actual|total|strict|technical|necessari|mathematical|logical|factual|exact|definite|clear|"
    r"absolute|certain|probab|like)ly|quite|therefore|thus|indeed|also|both|considered|all|one|very|most|deemed|judged|"
    r"think|believe|find|say|agree)\b)[\s*_\"'“]{0,4}){0,9}$",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"(?:\b(?:not|never|hardly|far from|neither|nor|cannot|no longer|(?:is|do|does|did|are|was|were|ca)nt)|n['’]t)"
    r"[\s*_]{0,4}$",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(
    r"\b(?:if|whether|unless|when|assuming|suppose|(?:would|should|could|might) be|would have been)\b[^.!?\n]{0,80}$",
    re.IGNORECASE,
)
_NOUN = re.compile(
    r"\s{1,3}(?:(?:answer|value|result|solution|formula|number|response|method|step|option|choice|triangle|angle|side|hand)"
    r"s?|one|approach|way|order|track|now|away)\b",
    re.IGNORECASE,
)


def verdict(text: str) -> bool | None:
    """A judge's verdict: True for correct, right, yes; False for incorrect, wrong, "not correct", no; else None.

    The last one said counts, and one that is labelled ("Verdict: ...", [[...]], boxed) outranks prose. What is asked or
    supposed is no verdict, nor is the word before a noun ("the correct answer is 5"); "partly correct" is False.
    """
    shown = without_reasoning(text) or ""
    said: bool | None = None
    labelled: bool | None = None
    for match in deque(_VERDICT.finditer(shown), maxlen=500):
        before = shown[max(0, match.start() - 100) : match.start()]
        between = _BETWEEN.search(before)
        tail = between.start() if between else len(before)
        negated = _NEGATED.search(before[:tail]) is not None
        partly = between is not None and between["partly"] is not None
        good = (match["good"] is not None) is not negated and not partly
        if _LABEL.search(before[: before.rfind("not")] if negated else before):
            labelled = good
        elif _is_said(shown, match, before, negated or (between is not None and between["copula"] is not None)):
            said = good
    return said if labelled is None else labelled


def _is_said(text: str, match: re.Match[str], before: str, predicate: bool) -> bool:
    """Whether a word such as "correct" is a verdict where it stands."""
    after = text[match.end() : match.end() + 60]
    if _STARTS.search(before if len(before) == match.start() else "x" + before) and _ENDS.match(after):
        return True
    if not predicate or match[0].casefold() in _STANDALONE:
        return False
    if _SUPPOSED.search(before) or re.match(r"[^.!\n]{0,50}\?", after):
        return False
    noun = _NOUN.match(after)
    return noun is None or re.match(r"\s{0,3}(?:$|[.,;!\n])", after[noun.end() :]) is not None


_POINTS = r"(?P<{0}>[-−]?\d{{1,9}}(?:[.,]\d{{1,9}})?)"
_OUT_OF = r"(?:\s{{0,3}}(?:/|\bout\s+of\b)\s{{0,3}}(?P<{0}>\d{{1,9}}))"
# A scale that is only named: "(0-10)", "on a scale of 1 to 10:".
_SCALE = re.compile(
    r"[(\[]\s?\d{1,3}\s?(?:-|–|to)\s?\d{1,3}\s?[)\]]"
    r"|\b(?:scale (?:of|from)|from|between) \(?\d{1,3}\s?(?:-|–|to|and)\s?\d{1,3}\b(?! ?/)"
)
_RATING = re.compile(
    rf"\b(?:score|rating|grade|rate[sd]?|mark|points)\b[^\d\n.!?]{{0,60}}?(?:\n[\s*_#]{{0,9}})?"
    rf"(?<![\d.]){_POINTS.format('said')}{_OUT_OF.format('of')}?(?P<rest>\s{{0,2}}%|\s?[-–]\s?\d|\d|[A-Za-z]|[.,]\d)?"
    rf"|\[\[\s?{_POINTS.format('double')}{_OUT_OF.format('among')}?\s?\]\]"
    rf"|(?<![\w./-]){_POINTS.format('part')}{_OUT_OF.format('whole')}(?![\d/])"
    rf"|\*\*\s?{_POINTS.format('strong')}\s?\*\*"
    rf"|^[ \t#>(*]{{0,9}}{_POINTS.format('alone')}[ \t.)*]{{0,9}}$",
    re.IGNORECASE | re.MULTILINE,
)
_BOXED = re.compile(_POINTS.format("points") + _OUT_OF.format("of") + "?")


def rating(text: str, low: float = 0.0, high: float = 10.0) -> float | None:
    """A judge's score from `low` to `high`: the last one given, since reasons come first; None where it is missing.

    "Score: 8", "Rating: 8/10", [[8]] and a box count before "8 out of 10", and that before a number alone in bold or on
    a line. A score out of something else than `high` is scaled where `low` is 0. None, which is not a score of 0, where
    nothing can be read, where it is out of range, and where the clearest forms contradict each other. What stands in a
    box or as [[8]] on a line before "Score: ..." is only talked of, and so is a "Score: ..." in quotes.
    """
    shown = _SCALE.sub(" ", without_reasoning(text) or "")
    scores: dict[str, float | None] = {}  # the last of each form; None where that one does not count
    said_at = 0  # where the last "Score: ..." is
    for match in _RATING.finditer(shown):
        form = next(name for name in ("said", "double", "part", "strong", "alone") if match[name])
        if form == "said":
            if is_quoted(shown, match.start()):
                continue
            said_at = match.start()
            scores.pop("double", None)
        out_of = match["of"] or match["among"] or match["whole"]
        scores[form] = None if match["rest"] else _points(match[form], out_of, low, high)
    boxed = boxes(shown[shown.rfind("\n", 0, said_at) + 1 :])[-1:]
    if boxed and (inside := _BOXED.fullmatch(plain(boxed[0][1]))):
        scores["boxed"] = _points(inside["points"], inside["of"], low, high)
    explicit = {scores[form] for form in ("said", "double", "boxed") if form in scores}
    if explicit:
        return explicit.pop() if len(explicit) == 1 else None
    return next((scores[form] for form in ("part", "strong", "alone") if form in scores), None)


def _points(said: str, out_of: str | None, low: float, high: float) -> float | None:
    value = float(said.replace(",", ".").replace("−", "-"))
    if out_of is not None and float(out_of) != high:
        if low != 0 or float(out_of) == 0:
            return None
        value *= high / float(out_of)
    return value if low <= value <= high else None
