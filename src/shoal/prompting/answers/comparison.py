"""The form in which equal answers are equal text."""

import re
import unicodedata
from fractions import Fraction

from shoal.prompting.answers.choices import letter, yes_or_no
from shoal.prompting.answers.markup import plain, without_latex
from shoal.prompting.answers.numbers import number

_NAME = re.compile(r"\d[\d,.]*\s[A-Z][a-z]{2}|[A-Z][a-z]+\s[A-Z]")
_LONE_LETTER = re.compile(r"[(\[]?([A-Ja-j])[)\].:]{0,2}")
_LONE_WORD = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
_EDGES = re.compile(r"^(?:[\s.,;:!?*_`\"'“”‘’]|(?:the|an?)\s)++")
_ACCENTS = re.compile(r"(?<=[a-z])[\u0300-\u036f]{1,9}")  # of Latin letters; elsewhere such marks are letters
_LONGEST_COMPOSED = 10_000  # composing characters can take time quadratic in the length


def normalise(answer: str, kind: str = "auto") -> str:
    """The canonical form of an answer, to compare and to vote on.

    Numbers become an exact fraction ("1.50" and "$1.50" are "3/2"), choices a capital letter, booleans yes or no; other
    text loses case, accents, markup, a leading article, and quotes and punctuation around it. With "auto" a text that
    reads as a number is one, unless it looks like a name ("7 Samurai"); a lone letter from A to J is a choice, and true
    is yes.
    """
    text = plain(answer)
    if kind in ("auto", "number"):
        value = None if kind == "auto" and _NAME.match(text) else number(text)
        if value is not None:
            return str(value)
    if kind == "choice" and (said := letter(text)):
        return said
    if kind == "boolean" and (said := yes_or_no(text)):
        return said
    if kind == "auto":
        if lone := _LONE_LETTER.fullmatch(text):
            return lone[1].upper()
        if word := _LONE_WORD.get(text.casefold()):
            return word
    return _canonical_text(text)


def _canonical_text(text: str) -> str:
    text = without_latex(text).casefold().replace("−", "-")
    if len(text) <= _LONGEST_COMPOSED:
        text = unicodedata.normalize("NFKC", _ACCENTS.sub("", unicodedata.normalize("NFKD", text)))
    text = " ".join(text.split())
    text = _EDGES.sub("", text, count=1).rstrip(" .,;:!?*_`\"'“”‘’")
    return re.sub(r" ?([-=+*/^<>(){}\[\],|]) ?", r"\1", text)


def equivalent(a: str, b: str, kind: str = "auto", tolerance: float = 0.0) -> bool:
    """Whether two answers are the same one; numbers may differ by `tolerance`, relative to the larger."""
    if tolerance and kind in ("auto", "number"):
        first, second = number(a), number(b)
        if first is not None and second is not None:
            return abs(first - second) <= Fraction(tolerance) * max(abs(first), abs(second))
    return normalise(a, kind) == normalise(b, kind)
