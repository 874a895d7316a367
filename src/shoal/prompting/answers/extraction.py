r"""The final answer a reply states."""

import re
from collections import deque
from collections.abc import Iterable

from shoal.errors import UsageError, did_you_mean
from shoal.prompting.answers.choices import letter, stated_booleans, unstated_letter, yes_or_no
from shoal.prompting.answers.markup import (
    Span,
    bold,
    boxes,
    last_sentence,
    plain,
    sentence_ends,
    without_latex,
    without_reasoning,
)
from shoal.prompting.answers.numbers import number, written

KINDS = ("auto", "number", "choice", "boolean", "text")

_SHORT_REPLY = 60
_LONGEST_VALUE = 40
_LONGEST_STATEMENT = 400
_LAST = 200  # so many of the last statements are looked at
_LOOKED_AT = 200_000  # characters, of 50,000 tokens and more

_HASHES = re.compile(r"^####(?!#)[ \t]{0,9}(?=\S)", re.MULTILINE)
_TAG = re.compile(r"<(?:final[ _-]?)?answer>", re.IGNORECASE)
_VERB = r"(?:is|are|was|were|will be|would be|should be|must be|has to be|becomes|equals|=)(?![\w'’])"
_MARKER = re.compile(
    rf"\b(?:answer|ans|(?:correct|right|best) (?:option|choice|letter))\b[*_\"”]{{0,3}}"
    rf"(?:(?P<colon>\s?(?:\([^()\n]{{0,40}}\))?\s?[*_]{{0,3}}\s?[:：][*_]{{0,3}})"
    rf"|(?P<heading>[ \t*_#]{{0,9}}(?=\n))"
    rf"|(?P<between>[^.:=?!\n]{{0,70}}?)\s[*_]{{0,3}}{_VERB}[*_]{{0,3}}\s?:?)",
    re.IGNORECASE,
)
_OWN = re.compile(
    r"\b(?:the|my|our|your|this|that|its|his|her|their|final|correct|right|best|so|thus|therefore|an)\W{1,4}(?:\w{1,15}\W{1,3}){0,2}$",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(
    r"\b(?:if|whether|unless|suppose|assume|assuming|say|what|which)\W{1,3}(?:that\s)?(?:\w{1,10}\s){0,3}$",
    re.IGNORECASE,
)
_LINE_START = re.compile(
    r"(?:^|\n)[\s>*_#(\[-]{0,9}(?:(?:the|my|so|thus|therefore|hence)\b,?\s{1,3}){0,2}(?:(?:final|correct|short)\s{1,3})?$",
    re.IGNORECASE,
)
_LEAD = re.compile(
    r"(?:[\s:：>`]|\*\*|__|\\\[|\$\$(?!\$)|(?:therefore|thus|then|hence|simply|just|clearly|definitely|indeed|actually|probably|likely)\b,?)*+",
    re.IGNORECASE,
)
_STEP = re.compile(r"\d{1,3}[.)]\s\S|step\b|first\b|let|we\b|to\b", re.IGNORECASE)
_REASON = re.compile(
    r"\s(?:because|since|as (?:the|it|we|they|there|this|that)|which|where|so that|due to|given that)\b"
    r"|,\s(?:because|since|as|so|where|which|not|and not|rather than|assuming)\b|\s[-–—]{1,2}\s(?=[a-z])|;",
    re.IGNORECASE,
)
_EMPHASIS = re.compile(r"\*\*(?!\d)|(?<!\d)\*\*")
_DENIED = re.compile(r"(?:definitely |certainly |clearly )?not\b", re.IGNORECASE)
_INSTEAD = re.compile(r"\bbut(?: rather| instead)?\s|\bit(?:'|’| i)s\s|\brather\s", re.IGNORECASE)
_NO_ANSWER = re.compile(
    r"(?:correct|right|wrong|incorrect|rounded|expressed|written|given (?:by|in|as|below|above)|reported|as follows|"
    r"below|above|in the|found|obtained|unknown|unclear|not|calculated|based on|consistent|unique)\b",
    re.IGNORECASE,
)
# "The capital of France is Paris.": what has a name or is a number, not what is blue or on the mat.
_SAID_OF = re.compile(
    r"(?:the|its|his|her|their|your|my)\s[^.,;:?!\n]{1,80}?\s(?:is|are|was|were|equals)\s([*_$]{0,3}(?-i:[A-Z\d\"“])[^\n]{0,60})"
    r"|the\s(?:opposite|antonym|synonym|plural|past tense|translation) of [^.,;:?!\n]{1,80}?\sis\s([^\W\d_]{1,40})",
    re.IGNORECASE,
)
_ARITHMETIC = re.compile(r"\d\s?(?:=|[-+*/×÷]\s?[$]?\d|plus|minus|times|divided by)|=\s?[-$]{0,2}\d", re.IGNORECASE)


def extract(text: str, kind: str = "auto", *, cut_off: bool = False) -> str | None:
    r"""The final answer a reply states, as it stands there without its markup; None where there is none.

    The last statement that fits the kind wins, of `\boxed{...}`, "the answer is ...", "Answer: ...", `#### ...`,
    `<answer>...</answer>`, a heading "Answer", and what stands alone in bold. Where nothing is stated,

    - "number" takes the last number written,
    - "choice" the last letter named as an option ("(B)", "option B", a line of its own), and returns it in capitals,
    - "boolean" the last yes, no, true or false that opens a sentence or is said of something, and returns yes or no,
    - "text" what a reply of one sentence says something named is ("The capital of France is Paris."), or else a reply
      of one short line (60 characters) whole, unless it breaks off in stating an answer,
    - "auto" the same, else the last number of a text that does sums.

    Where nothing is stated in a text that was `cut_off` before its end, there is no answer: the last number in it, say,
    is only the last that was reached.

    What is denied is not stated ("not 5 but 6" is 6), nor what is asked or supposed ("if the answer is 5"). Reasoning
    in <think> is not looked at, and a reply that never leaves it has no answer. Of a very long reply the last 200,000
    characters are looked at: a server answers nobody else meanwhile.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind of answer {kind!r}; {did_you_mean(kind, KINDS)}")
    shown = without_reasoning(text)
    if shown is None:
        return None
    shown = shown.strip()[-_LOOKED_AT:]
    for _, statement in reversed(_statements(shown)):
        answer = _as_kind(statement, kind)
        if answer is not None:
            return answer
    return _in_bold(shown, kind) or (None if cut_off else _unstated(shown, kind))


def _statements(text: str) -> list[Span]:
    """The last things the text declares to be the answer, in order."""
    found: list[Span] = boxes(text)[-_LAST:]
    tags = _last(match.end() for match in _TAG.finditer(text))
    found += [(at, re.split(r"</", text[at : at + 2000], maxsplit=1)[0]) for at in tags]
    found += [(at, text[at : at + 2000].split("\n", 1)[0]) for at in _last(m.end() for m in _HASHES.finditer(text))]
    markers: deque[re.Match[str]] = deque((m for m in _MARKER.finditer(text)), maxlen=_LAST)
    found += [(match.end(), _statement(text, match)) for match in markers if _is_marker(text, match)]
    return sorted(found, key=lambda span: span[0])


def _last(positions: Iterable[int]) -> list[int]:
    return list(deque(positions, maxlen=_LAST))


def _is_marker(text: str, match: re.Match[str]) -> bool:
    """Whether the word "answer" there announces one."""
    before = text[max(0, match.start() - 50) : match.start()]
    if match["colon"] is not None or match["heading"] is not None:
        at_start = _LINE_START.search(before if len(before) == match.start() else "x" + before) is not None
        return at_start or (match["colon"] is not None and _SUPPOSED.search(before) is None)
    return (not match["between"].strip() or _OWN.search(before) is not None) and _SUPPOSED.search(before) is None


def _statement(text: str, match: re.Match[str]) -> str:
    """What follows a marker: the rest of its sentence or, where its line ends there, the next line."""
    rest = text[match.end() : match.end() + _LONGEST_STATEMENT + 100]
    lead = _LEAD.match(rest)
    start = lead.end() if lead else 0
    line = rest[start:].split("\n", 1)[0][:_LONGEST_STATEMENT]
    if "\n" in rest[:start] and _STEP.match(line):
        return ""
    end = next(sentence_ends(line), None)
    if end is not None and line[end] == "?" and match["colon"] is None:
        return ""
    sentence = _EMPHASIS.sub("", line if end is None else line[:end])
    if "\n" in rest[:start]:
        sentence = sentence.removeprefix("- ")
    if _DENIED.match(sentence):
        instead = _INSTEAD.search(sentence)
        return sentence[instead.end() :] if instead else ""
    return sentence


def _as_kind(statement: str, kind: str) -> str | None:
    """A statement as an answer of that kind; None where it is none."""
    if kind == "choice":
        return letter(statement)
    if kind == "boolean":
        return yes_or_no(statement)
    text = plain(statement)
    if not text or _NO_ANSWER.match(text):
        return None
    if number(text) is not None:
        return plain(text.rsplit("=", 1)[-1])
    reason = _REASON.search(text)
    short = plain(text[: reason.start()]) if reason else text
    if kind == "number":
        return _number_in(short)
    if kind == "text":
        return short or None
    return _opening_value(short) or short or None


def _number_in(text: str) -> str | None:
    """The number a statement comes to: itself, what follows its last "=", the one it opens with, or its last."""
    result = plain(text.rsplit("=", 1)[-1])
    if number(result) is not None:
        return result
    numbers = [(end, token) for end, token in written(result) if number(token) is not None]
    if not numbers:
        return None
    end, first = numbers[0]
    opens = without_latex(result).lstrip(" (\\$*").startswith(first.lstrip("$"))
    goes_on = re.match(r"\(|\s?(?:[-+*/×÷^]|\\|plus|minus|times|divided|and|or|to)", without_latex(result)[end:])
    return first if opens and not goes_on else numbers[-1][1]


def _opening_value(text: str) -> str | None:
    """The letter, number, yes or no that a longer statement opens with: "(B) Paris", "18 dollars a day, I think"."""
    if re.match(r"\W{0,3}(?:[A-J][).:]|\([A-Ja-j]\))(?:\s|\W{0,3}$)", text):
        return letter(text)
    if re.match(r"(?:yes|no)\b,", text, re.IGNORECASE):
        return yes_or_no(text)
    if "=" in text and "\\" not in text and number(text.rsplit("=", 1)[-1]) is not None:
        return plain(text.rsplit("=", 1)[-1])
    if re.match(r"[-−]?[$€£¥₹]?[-−]?[\d.,]{1,40}%?(?:\s[a-z]{2,}|,\s[a-z])", text) and not re.search(r"[\\^=+]", text):
        return _number_in(text)
    return None


def _in_bold(text: str, kind: str) -> str | None:
    """The last answer of that kind that is all there is in a piece of bold type."""
    pieces = _last_pieces(text)
    for piece in reversed(pieces):
        value = plain(piece)
        if kind == "choice" and re.fullmatch(r"\(?[A-J]\)?(?:[).:] .*)?", value):
            return letter(value)
        if kind == "boolean" and re.fullmatch(r"yes|no|true|false", value, re.IGNORECASE):
            return yes_or_no(value)
        if kind in ("auto", "number") and number(value) is not None:
            return value
    if kind in ("auto", "text"):
        at_the_end = [plain(piece) for _, piece in bold(last_sentence(text))]
        if len(at_the_end) == 1 and (kind == "text" or len(at_the_end[0]) <= _LONGEST_VALUE):
            return at_the_end[0] or None
    return None


def _last_pieces(text: str) -> list[str]:
    return list(deque((piece for _, piece in bold(text)), maxlen=_LAST))


def _unstated(text: str, kind: str) -> str | None:
    """The answer of a reply that states none."""
    if kind == "choice":
        return unstated_letter(text)
    if kind == "boolean":
        said: deque[Span] = deque(stated_booleans(text), maxlen=1)
        return said[0][1] if said else yes_or_no(text)
    if kind == "number" and "=" not in text and number(text) is not None:
        return plain(text)
    if kind in ("auto", "text") and "\n" not in text and "\\boxed" not in text and not _MARKER.search(text):
        sentence = plain(text) if len(text) <= 2 * _SHORT_REPLY else ""
        if (said_of := _SAID_OF.fullmatch(sentence)) and next(sentence_ends(sentence), None) is None:
            return plain(said_of[1] or said_of[2])
        if len(text) <= _SHORT_REPLY:
            return sentence or None
    if kind == "text" or (kind == "auto" and not _ARITHMETIC.search(text)):
        return None
    return next((token for _, token in reversed(written(text)) if number(token) is not None), None)
