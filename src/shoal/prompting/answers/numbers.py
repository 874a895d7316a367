r"""Numbers as people and models write them, read exactly."""

import re
from collections import deque
from fractions import Fraction
from functools import lru_cache

from shoal.prompting.answers.markup import plain, without_latex

_LONGEST = 1000  # characters; no answer is longer, and Python itself refuses to read 4300 digits
_LARGEST_POWER = 1000

# The comma (or _ or ' or a thin space) separates thousands, the full stop decimals.
_GROUPED = r"[1-9]\d{0,2}+[,_'’\u00a0\u2009\u202f]\d{3}(?:[,_'’\u00a0\u2009\u202f]\d{3}){0,40}+(?!\d)"
_SPACED = r"[1-9]\d{0,2}+(?: \d{3}){1,40}+(?!\d)"
_DECIMALS = r"(?:\.\d++)?"
_TEN = r" ?[×x*·] ?10 ?\^ ?\{?"
_POWER = rf"(?:[eE](?P<e>[-+−]?\d{{1,4}})(?![\d.])|{_TEN}(?P<ten>[-−]?\d{{1,4}})\}}?)?"
_CURRENCY = r"(?:(?:US|AU|CA|A|C)?[$€£¥₹]|(?:USD|EUR|GBP|INR|Rs\.?)(?= ?[\d-]))"

_WHOLE = re.compile(
    rf"(?P<sign>[-−–+]?) ?(?P<currency>{_CURRENCY}?) ?(?P<inner>[-−]?)"
    rf"(?:(?P<whole>\d{{1,300}}+)(?: | and )(?=\d{{1,300}} ?/ ?\d))?"
    rf"(?P<value>(?:{_GROUPED}|{_SPACED}|\d++){_DECIMALS}|\.\d++){_POWER}"
    rf"(?: ?(?P<over_sign>[/:]) ?(?P<over>-?\d++{_DECIMALS}))?(?P<rest>.*)",
    re.DOTALL,
)
_TOKEN = re.compile(
    rf"(?<![\w.^])(?<![A-Za-z]-)(?<!\d[/:])(?<!sqrt\{{)"
    rf"(?:(?<![\w)\]}}%.])[-−+](?=[\d.$€£¥₹])|(?<=[=(] )[-−] (?=[\d.$€£¥₹]))?"
    rf"{_CURRENCY}?[-−]?(?:(?:{_GROUPED}|\d++){_DECIMALS}|\.\d++)"
    rf"(?:[eE][-+−]?\d{{1,4}}(?![\d.])|{_TEN}[-−]?\d{{1,4}}\}}?)?"
    rf"(?: \d{{1,3}}/\d{{1,3}}(?![\d/])|/\d++(?![\d/]))?(?: ?%| (?:hundred|thousand|million|billion|trillion)\b)?"
    rf"(?![xyzn]\b| ?\^|:\d| ?(?:π|√|\\pi|\\sqrt))"
)
_LABEL = re.compile(r"\b(?:step|part|case|option|question|problem|figure)\s{1,3}\Z", re.IGNORECASE)

_FRACTION = re.compile(
    r"\\[dt]?frac\s{0,9}(?:\{\s{0,9}([-−]?[\d.]{1,99})\s{0,9}\}\s{0,9}\{\s{0,9}(-?[\d.]{1,99})\s{0,9}\}|(\d)(\d))"
)
_VULGAR = {
    ord(sign): f" {over}/{under}"
    for sign, over, under in (
        ("½", 1, 2), ("⅓", 1, 3), ("⅔", 2, 3), ("¼", 1, 4), ("¾", 3, 4), ("⅕", 1, 5), ("⅖", 2, 5), ("⅗", 3, 5),
        ("⅘", 4, 5), ("⅙", 1, 6), ("⅚", 5, 6), ("⅛", 1, 8), ("⅜", 3, 8), ("⅝", 5, 8), ("⅞", 7, 8),
    )
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")

_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {word: value for value, word in enumerate(_SMALL)} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
_WORDS |= {f"{ten}-{one}": _WORDS[ten] + _WORDS[one] for ten in _TENS for one in _SMALL[1:10]}
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MONEY_SCALES = {"k": 10**3, "m": 10**6, "mn": 10**6, "b": 10**9, "bn": 10**9}

_HEDGE = re.compile(
    r"(?:(?:about|around|approximately|approx\.?|roughly|exactly|nearly|almost|only|just)\s|[≈~∼]|\\approx)\s{0,9}",
    re.I,
)
_NEGATIVE = re.compile(r"\A(?:minus|negative) (?=[$€£¥₹]?[\d.])", re.IGNORECASE)
# In a sentence "8 minus 5" is a difference, "is minus 5" a number.
_NEGATIVE_THERE = re.compile(
    r"(?:\bnegative|(?:(?<=\bis )|(?<=\bwas )|(?<=\bto )|(?<=\bby )|(?<=: )|(?<== ))minus) (?=[$€£¥₹]?\d)",
    re.IGNORECASE,
)
_DEFINED = re.compile(
    r"[^=,;]{0,200}(?:=|≈|\\approx)(?!=)\s{0,9}([^=≈,;]{1,200})|[^=,;]{0,200}(?:=|≈|\\approx)\s{0,9}(\D{0,4}[\d,_.]{1,200}\D{0,60})"
)
_UNIT = re.compile(r"(?:[^\W\d_]\.?|[ °'\"′″¢$€£¥%/·()-]|\^\s?\{?-?\d\}?|[²³⁻¹])*+")
# What stands behind a number and is part of a formula or of a list, not a unit.
_NO_UNIT = re.compile(
    r"(?:[a-z]?[xyznijkpqrtuvw]|e|pi|π|and|or|to|plus|minus|times|over|divided|by)\b|[(/-]\w\b", re.IGNORECASE
)


@lru_cache(4096)  # equal answers are many among the draws of one question
def number(text: str) -> Fraction | None:
    r"""The number that a short text is, exactly; None where it is none, or more than one.

    Read are signs, decimals, thousands ("1,234", "1 234", "1_234"; never a decimal comma), fractions ("3/4",
    "\frac{3}{4}", "1 1/2", "½"), ratios ("3:4", but no time of day), powers of ten ("1e3", "1.5 × 10^3"), scales ("1.2
    million", "$5k"), small numbers in words, and what follows "x =". Currency, units and the percent sign are dropped:
    "50%" is 50.
    """
    if len(text) > _LONGEST:
        return None
    text = _readable(text)
    match = _WHOLE.fullmatch(text)
    if match is None:
        return _in_words(text)
    try:
        value = _value(match)
    except (ValueError, ZeroDivisionError):
        return None
    scale = _scale(match["rest"].strip(), bool(match["currency"]))
    if value is None or scale is None:
        return None
    negative = match["sign"] not in ("", "+") or bool(match["inner"])
    return -value * scale if negative else value * scale


def _readable(text: str) -> str:
    text = plain(without_latex(plain(text)))
    text = _NEGATIVE.sub("-", text)
    if "=" in text or "≈" in text:
        defined = _DEFINED.fullmatch(text)
        text = plain(defined[1] or defined[2]) if defined else text
    text = _HEDGE.sub("", text, count=1) if _HEDGE.match(text) else text
    text = " ".join(_fractions(text).split())
    if inside := re.fullmatch(r"\(([^()]*)\)", text):
        text = inside[1]
    text = re.sub(r"(?<=10)[⁻⁰¹²³⁴-⁹]+", lambda power: "^" + power[0].translate(_SUPERSCRIPTS), text)
    return re.sub(r"^([-−]?)10 ?\^", r"\g<1>1×10^", text)


def _fractions(text: str) -> str:
    r"""\frac and ½ written with a slash."""

    def slashed(match: re.Match[str]) -> str:
        over, under = match[1] or match[3], match[2] or match[4]
        joint = " " if match.start() and match.string[match.start() - 1].isdigit() else ""
        return f"{joint}{over}/{under}"

    return _FRACTION.sub(slashed, text).translate(_VULGAR)


def _value(match: re.Match[str]) -> Fraction | None:
    value = Fraction(re.sub(r"[,_'’\s]", "", match["value"]))
    power = (match["e"] or match["ten"] or "0").replace("−", "-")
    if abs(int(power)) > _LARGEST_POWER:
        return None
    value *= Fraction(10) ** int(power)
    if match["over"]:
        clock = match["over_sign"] == ":" and len(match["over"]) == 2 and value <= 24
        if clock:
            return None
        value /= Fraction(match["over"])
    return value + int(match["whole"] or 0)


def _scale(rest: str, money: bool) -> int | None:
    """What the words behind a number multiply it by; None where they make it no number."""
    first, _, others = rest.partition(" ")
    scale = _SCALES.get(first.casefold().removesuffix("s")) or (_MONEY_SCALES.get(first.casefold()) if money else None)
    unit = others if scale else rest
    if not unit:
        return scale or 1
    if len(unit) > 60 or len(unit.split()) > 6 or not _UNIT.fullmatch(unit) or _NO_UNIT.match(unit):
        return None
    if any(word in ("and", "or", "plus", "minus", "times") for word in unit.casefold().split()):
        return None
    return scale or 1


def _in_words(text: str) -> Fraction | None:
    first, _, scale = text.casefold().partition(" ")
    if first in ("a", "an") and scale in _SCALES:
        return Fraction(_SCALES[scale])
    if first in _TENS and scale in _WORDS:
        first, scale = f"{first}-{scale}", ""
    if first not in _WORDS or (scale and scale not in _SCALES):
        return None
    return Fraction(_WORDS[first] * _SCALES.get(scale, 1))


def written(text: str) -> list[tuple[int, str]]:
    """The last numbers (at most 50) a text has, by where they end, without list markers ("2." opening a line)."""
    text = _NEGATIVE_THERE.sub(lambda words: "-".rjust(len(words[0])), _fractions(without_latex(text)))
    found: deque[tuple[int, str]] = deque(maxlen=50)
    for match in _TOKEN.finditer(text):
        if len(match[0]) <= _LONGEST and not _is_marker(text, match):
            found.append((match.end(), match[0].strip()))
    return list(found)


def _is_marker(text: str, match: re.Match[str]) -> bool:
    """Whether the number counts a list or a step: "2. Divide", "Step 3"."""
    before = text[max(0, match.start() - 16) : match.start()]
    if _LABEL.search(before):
        return True
    line = before.rsplit("\n", 1)[-1]
    opens = ("\n" in before or len(before) == match.start()) and not line.strip(" \t>*#-")
    return opens and re.match(r"[.)](?:\*\*)?[ \t]{1,9}\S", text[match.end() : match.end() + 14]) is not None
