"""Choice letters, yes and no, as replies state them."""

import re
from collections import deque
from collections.abc import Iterator

from shoal.prompting.answers.markup import Span, plain, sentence_ends

# A letter at the start of a statement: "B", "(b)", "B) Paris", "option B", "B because". Never an article: "A dog".
_OPENING = re.compile(
    r"[\W_]{0,9}(?:(?:(?:the|option|choice|answer|letter)\W{1,4}){0,2})?"
    r"(?:[(\[]\s?([A-Ja-j])\s?[)\]]|([A-J])(?=[).:,\]*_}\n]|\s{0,3}$|\s[-–—]\s|\s(?:because|since|is|as|was)\b)"
    r"|([a-j])(?=[).:]\s|[).:]?\W{0,3}$))",
    re.IGNORECASE,
)
_MENTIONED = re.compile(
    r"\(([A-J]|[a-j])\)"
    r"|\b(?:[Oo]ption|[Cc]hoice|[Ll]etter|[Aa]nswer)\s{1,3}[(*]{0,3}([A-J])\b(?!')"
    r"|^[ \t>*#]{0,9}[(\[]{0,2}([A-J])[)\].:]?[ \t*]{0,9}$"
    r"|\*\*[(\[]?([A-J])(?:[)\].:]{0,2}\*\*|[).:] [^*\n]{1,200}\*\*)"
    r"|\b([B-J]) is (?:the )?(?:correct|right|true|best)\b"
    r"|\b(?:choose|pick|select|go with|chose|is|be) ([B-J])(?=[.,;)\n]|$)",
    re.MULTILINE,
)
_ALONE = re.compile(r"^[ \t>*#]{0,9}[(\[]{0,2}([A-J])[)\].:]{0,2}[ \t*]{0,9}$", re.MULTILINE)
_LISTED = re.compile(r"^[ \t>*-]{0,9}(?:\(?([A-J])[).:])(?:\*\*)?[ \t]{1,3}\S", re.MULTILINE)


def letter(statement: str) -> str | None:
    """The letter that a statement opens with, in capitals."""
    match = _OPENING.match(plain(statement)[:400])
    return _said(match) if match else None


def stated_letters(text: str) -> Iterator[Span]:
    """Every letter a text names as an option, in order, options that it only lists left out."""
    listed = {match.start(1) for match in _LISTED.finditer(text)}
    if len({text[at] for at in listed}) < 2:
        listed = set()
        if opening := _LISTED.match(text):
            yield opening.start(1), opening[1].upper()
    for match in _MENTIONED.finditer(text):
        if match.start(match.lastindex or 0) not in listed:
            yield match.start(), _said(match)


def unstated_letter(text: str) -> str | None:
    """The letter of a reply that declares none: on a line of its own at the start, else the last named as an option.

    What stands behind such a line explains the others: "B\\n\\nOption A is wrong."
    """
    if _ALONE.match(text):
        return [*_ALONE.finditer(text)][-1][1].upper()
    if len(text) <= 3:
        return letter(text)
    named: deque[Span] = deque(stated_letters(text), maxlen=1)
    if named:
        return named[0][1]
    opening = letter(text) if "\n" not in text.strip() else None
    return opening if opening != "I" else None  # "I was not told."


def _said(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group).upper()


_YES = ("yes", "true", "correct", "yeah", "yep")
_NO = ("no", "false", "incorrect", "nope")
_WORDS = dict.fromkeys(_YES, "yes") | dict.fromkeys(_NO, "no")
_FIRST_WORD = re.compile(
    r"[\W_]{0,9}(?:(?:so|therefore|thus|hence|actually|wait|well|ok|okay)\b,?\s{1,3}){0,2}"
    r"(?:(?:definitely |certainly )?(not) )?"
    r"(yes|no|true|false|correct|incorrect|yeah|yep|nope)\b(?![-'’]\w)",
    re.IGNORECASE,
)
_GOES_ON = re.compile(
    r"[*_\"'”’]{0,4}(?:[.,;:!)\]}–—*]|\s{0,3}$|\s*\n|\s(?:it|they|he|she|this|that|the|there|you|we|i|because|since|-|–|—)\b)",
    re.IGNORECASE,
)
_PREDICATE = re.compile(
    r"\b(?:is|are|was|were|be|it's|that's)(n['’]t)?\s{1,3}(?:(not|never)\s{1,3})?(?:(?:therefore|thus|indeed|actually|also|both)\s{1,3})?"
    r"[*_\"'“]{0,3}(true|false|yes|no(?=\W{0,3}$)|correct|incorrect)\b(?! (?:that|answer|value|number|statement)\b)",
    re.IGNORECASE | re.MULTILINE,
)


def yes_or_no(statement: str) -> str | None:
    """yes or no, where the statement opens with it ("True" and "correct" being yes)."""
    match = _FIRST_WORD.match(plain(statement)[:400])
    return _denied(match[2], bool(match[1])) if match else None


def stated_booleans(text: str) -> Iterator[Span]:
    """Every yes or no that opens a sentence or that something is said to be, in order of appearance."""
    found = [(match.start(), _denied(match[3], bool(match[1] or match[2]))) for match in _PREDICATE.finditer(text)]
    starts = [0, *(match.end() for match in re.finditer(r"\n", text)), *(at + 1 for at in sentence_ends(text))]
    for start in starts:
        opening = text[start : start + 80]
        match = _FIRST_WORD.match(opening)
        if match and _GOES_ON.match(opening, match.end()):
            found.append((start, _denied(match[2], bool(match[1]))))
    yield from sorted(found)


def _denied(word: str, negated: bool) -> str:
    said = _WORDS[word.casefold()]
    return said if not negated else "no" if said == "yes" else "yes"
