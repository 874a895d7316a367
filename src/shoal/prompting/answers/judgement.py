"""What a judge decided: right or wrong, and how many points."""

import re

from shoal.prompting.answers.markup import boxes, plain, without_reasoning

_GOOD = "correct|right|true|valid|accurate|yes|pass|passed|passes"
_BAD = "incorrect|wrong|false|invalid|inaccurate|no|fail|failed|fails"
_ADVERBS = (
    "the|a|an|be|being|been|at all|entirely|fully|completely|quite|really|actually|totally|strictly|technically|"
    "necessarily|mathematically|logically|factually|exactly|therefore|thus|indeed|also|both|100%|in fact|definitely|"
    "clearly|absolutely|considered|all|one|very|most certainly|certainly|probably|likely|deemed|judged|marked as"
)
_PARTLY = "partially|partly|almost|nearly|mostly|half|largely|not only"
_VERDICT = re.compile(
    rf"(?P<negated>\b(?:not|never|hardly|far from|neither|cannot|no longer)\b|n['’]?t\b)?"
    rf"(?:\s{{0,3}}(?:{_ADVERBS})\b){{0,4}}\s{{0,3}}"
    rf"(?:(?P<partly>\b(?:{_PARTLY}))\s{{1,3}})?(?P<open>[\"'“*_\[({{]{{0,4}})"
    rf"\b(?:(?P<good>{_GOOD})|(?P<bad>{_BAD}))\b(?P<close>[\"'”*_\])}}]{{0,4}})",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"(?:\b(?:verdict|judge?ment|decision|conclusion|correctness|correct|assessment|evaluation|result|answer|grade|label|"
    r"ruling|is_correct|status)\b[\"'*_)\]]{0,4}(?:\s{0,3}[:：=]|\sis:?)[\s*_\"'“\[({]{0,9}|<(?:verdict|answer|judge?ment)>\s{0,9}"
    r"|\[\[\s?|\\boxed\{(?:\\text\{)?)$",
    re.IGNORECASE,
)
_COPULA = re.compile(
    r"(?:\b(?:is|are|was|were|be|seems?|looks?|appears?(?: to be)?|it|being|as|answer|solution|response)|['’]s)"
    r"[\s*_\"']{0,4}$",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(
    r"\b(?:if|whether|unless|when|assuming|suppose|(?:would|should|could|might) be|would have been)\b[^.!?\n]{0,80}$",
    re.IGNORECASE,
)
_SENTENCE_START = re.compile(
    r"(?:^|[.!?:;\n]|\b(?:so|therefore|thus|hence|overall|finally),?)[\s*_#>\"'“\[({-]{0,9}$", re.IGNORECASE
)
_ENDS = re.compile(r"\s{0,3}(?:$|[.,;:!)\]}–—\n]|-\s)")
_ATTRIBUTE = re.compile(
    r"\s{1,3}(?:answers?|values?|results?|solutions?|formulas?|numbers?|responses?|one|methods?|approach|way|steps?|option|choice|triangle|angle|side|hand|order|track|now|away)\b",
    re.IGNORECASE,
)
_STANDALONE = ("yes", "no", "pass", "fail", "passed", "failed", "passes", "fails")


def verdict(text: str) -> bool | None:
    """A judge's verdict: True for correct, right, yes; False for incorrect, wrong, "not correct", no; else None.

    The last one said counts, and one that is labelled ("Verdict: ...", [[...]], boxed) outranks prose. What is asked or
    supposed is no verdict, nor is the word before a noun ("the correct answer is 5"); "partly correct" is False.
    """
    shown = without_reasoning(text) or ""
    said: bool | None = None
    labelled: bool | None = None
    for match in _VERDICT.finditer(shown):
        before = shown[max(0, match.start() - 100) : match.start()]
        opened = before + shown[match.start() : match.start("good" if match["good"] else "bad")]
        good = (bool(match["good"]) is not bool(match["negated"])) and not match["partly"]
        if _LABEL.search(opened) or _LABEL.search(before):
            labelled = good
        elif _is_said(shown, match, before):
            said = good
    return said if labelled is None else labelled


def _is_said(text: str, match: re.Match[str], before: str) -> bool:
    """Whether a word such as "correct" is a verdict where it stands."""
    after = text[match.end() : match.end() + 60]
    starts = _SENTENCE_START.search(before if len(before) == match.start() else "x" + before) is not None
    if starts and _ENDS.match(after):
        return True
    word = (match["good"] or match["bad"]).casefold()
    if word in _STANDALONE or _SUPPOSED.search(before) or re.match(r"[^.!\n]{0,50}\?", after):
        return False
    predicate = match["negated"] is not None or _COPULA.search(before) is not None
    if not predicate:
        return False
    noun = _ATTRIBUTE.match(after)
    return noun is None or re.match(r"\s{0,3}(?:$|[.,;!\n])", after[noun.end() :]) is not None


_POINTS = r"(?P<{0}>[-−]?\d{{1,9}}(?:[.,]\d{{1,9}})?)"
_OUT_OF = r"(?:\s{{0,3}}(?:/|\bout\s+of\b)\s{{0,3}}(?P<{0}>\d{{1,9}}))"
_RANGE = r"\(?\[?\b(?:on a scale )?(?:of |from |between )?\(?\[?\d{1,3}\s?(?:-|–|to|and)\s?\d{1,3}[)\]]{0,2}"
_RATING = re.compile(
    rf"\b(?:score|rating|grade|rate[sd]?|mark|points)\b[^\d\n.!?]{{0,40}}?(?:{_RANGE})?[^\d\n.!?+]{{0,40}}?(?:\n[\s*_#]{{0,9}})?"
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
    nothing can be read, where it is out of range, and where the clearest forms contradict each other.
    """
    shown = without_reasoning(text) or ""
    scores: dict[str, float | None] = {}  # the last of each form; None where that one does not count
    for match in _RATING.finditer(shown):
        form = next(name for name in ("said", "double", "part", "strong", "alone") if match[name])
        out_of = match["of"] or match["among"] or match["whole"]
        scores[form] = None if match["rest"] else _points(match[form], out_of, low, high)
    boxed = boxes(shown)[-1:]
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
