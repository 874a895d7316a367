r"""The final answer a reply states, and the form in which two answers can be compared.

Pure text work, in linear time, on text that may be hostile: nothing is evaluated, and no number is built that the text does
not spell out. Whether two formulas are equal takes a computer algebra system, which must not see such text in this process.
"""

import re
from fractions import Fraction

KINDS = ("auto", "number", "choice", "boolean", "text")

_THINK = re.compile(r"<think>.*?(?:</think>|(\Z))", re.DOTALL | re.IGNORECASE)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_HASHES = re.compile(r"^####[ \t]*(.+)$", re.MULTILINE)
# "answer", perhaps a few words ("to the question"), then a verb or a colon; the statement follows.
_STATED = re.compile(
    r"\banswer\b(?:\*\*)?(?:[ \t]+[\w'’-]{1,20}){0,8}?[ \t]*"
    r"(?:(?:\bis|\bare|\bwould be|\bshould be|\bmust be|=)(?:\*\*)?[ \t]*:?|(?:\*\*)?:)(?:\*\*)?[ \t]*\n?[ \t]*([^\n]{1,400})",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<!\b[A-Z])[.!?](?=\s|$|\*\*)")
_SHORT_REPLY = 60


def extract(text: str, kind: str = "auto") -> str | None:
    r"""The final answer a reply states, as it is written there, or None.

    Looked for, the last one that fits `kind` winning: `\boxed{...}`, "the answer is ...", "Answer: ...", `#### ...`,
    `<answer>...</answer>`. Where nothing is stated: for "number" the last number; for "choice" the last letter that stands
    as an option, never the article; for "boolean" an opening yes or no, else the last; for "auto" and "text" a reply of
    one short line is its own answer, and for "auto" a last sentence with a number in it answers with that number.
    Reasoning in <think> is not looked at; a reply that never leaves it has no answer.
    """
    unclosed = False

    def drop(match: re.Match[str]) -> str:
        nonlocal unclosed
        unclosed = unclosed or match[1] is not None
        return " "

    text = _THINK.sub(drop, text)
    if unclosed:
        return None
    for statement in reversed(_statements(text)):
        answer = _as_kind(statement, kind)
        if answer is not None:
            return answer
    return _unstated(text.strip(), kind)


def _statements(text: str) -> list[str]:
    """Everything the text declares to be the answer, in order."""
    found = [(match.end(), match[1]) for pattern in (_TAG, _HASHES) for match in pattern.finditer(text)]
    found += [(match.end(1), _statement(match[1])) for match in _STATED.finditer(text)]
    found += _boxes(text)
    return [statement for _, statement in sorted(found, key=lambda item: item[0])]


def _statement(text: str) -> str:
    """One sentence, and what it denies left out: "not 5 but 6" states 6."""
    end = _SENTENCE_END.search(text)
    sentence = text[: end.start()] if end else text
    if re.match(r"(?:definitely |certainly )?not\b", sentence, re.IGNORECASE):
        _, but, rest = sentence.partition(" but ")
        return rest.removeprefix("rather ") if but else ""
    return sentence


def _boxes(text: str) -> list[tuple[int, str]]:
    r"""The contents of every outermost balanced \boxed{...}, with where it ends."""
    boxes: list[tuple[int, str]] = []
    end = 0
    for match in _BOXED.finditer(text):
        if match.start() < end:
            continue
        depth, at = 1, match.end()
        for brace in re.finditer(r"(?<!\\)[{}]", text[at : at + 2000]):
            depth += 1 if brace[0] == "{" else -1
            if not depth:
                end = at + brace.end()
                boxes.append((end, text[at : end - 1]))
                break
    return boxes


def _as_kind(statement: str, kind: str) -> str | None:
    """A statement as an answer of that kind, or None where it holds none."""
    boxed = _boxes(statement)
    text = _plain(boxed[-1][1] if boxed else statement)
    if kind == "number":
        if number(text) is not None:
            return text
        numbers = _numbers(text)
        return numbers[-1] if numbers else None
    if kind == "choice":
        return _letter(text)
    if kind == "boolean":
        return _boolean(text)
    return text or None


def _unstated(text: str, kind: str) -> str | None:
    if kind == "choice":
        return _letter(text) if len(text) <= 3 else _last_letter(text)
    if kind == "boolean":
        return _boolean(text) or _last_boolean(text)
    if kind in ("auto", "text") and "\n" not in text and len(text) <= _SHORT_REPLY:
        return _plain(text) or None
    if kind == "text":
        return None
    numbers = _numbers(text if kind == "number" else _last_sentence(text))
    return numbers[-1] if numbers else None


def _last_sentence(text: str) -> str:
    line = text.rsplit("\n", 1)[-1]
    ends = [match.end() for match in _SENTENCE_END.finditer(line) if match.end() < len(line.rstrip("*_ "))]
    return line[ends[-1] :] if ends else line


def _plain(text: str) -> str:
    """Without the markup around it: emphasis, quotes, dollars, a closing full stop."""
    previous = None
    while previous != text:
        previous = text
        text = text.strip().strip("*`_\"“”'").rstrip(".,;:!").strip()
        for opening, closing in (("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
            if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
                text = text[len(opening) : -len(closing)]
        text = re.sub(r"^\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}$", r"\1", text)
    return text


# Numbers

_CURRENCY = "$€£¥₹"
_DIGITS = r"(?:\d{1,3}(?:[,_\u00a0\u202f]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_TOKEN = re.compile(
    rf"(?<![\w.,])(?:[-+−–]\s?)?[{_CURRENCY}]?(?:[-−])?(?:{_DIGITS})(?:[eE][-+]?\d{{1,3}}\b)?(?:/\d+(?![\d/]))?%?"
)
_NUMBER = re.compile(
    rf"(?P<sign>[-+−–]?)\s?[{_CURRENCY}]?\s?(?P<inner>[-−]?)(?:(?P<whole>\d+)\s+(?=\d+/\d))?(?P<value>{_DIGITS})"
    r"(?P<power>[eE][-+]?\d{1,3})?(?:\s?/\s?(?P<over>\d+))?\s?(?P<unit>[^\d]*)"
)
_SPACED = re.compile(r"(?<=\d) (?=\d{3}(?:\D|$))")
_FRACTION = re.compile(r"(-?)\\[dt]?frac\s*\{\s*(-?\d{1,400})\s*\}\s*\{\s*(\d{1,400})\s*\}")
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def number(text: str) -> Fraction | None:
    r"""The number that a short text is, exactly: "-$1,234.50", "3/4", "\frac{1}{2}", "1 1/2", "5 km", "1.2 million", "50%".

    Units, currency signs and the percent sign are dropped ("50%" is 50). None where the text is no number, or more than
    one.
    """
    if len(text) > 1000:
        return None
    text = _plain(text).replace("\\%", "%").replace("\\$", "$").replace("{,}", ",")
    text = _FRACTION.sub(r"\1\2/\3", text)
    match = _NUMBER.fullmatch(_SPACED.sub("", text) if re.fullmatch(r"\D*\d{1,3}(?: \d{3})+(?:\.\d+)?\D*", text) else text)
    if match is None:
        return None
    try:
        value = Fraction(re.sub(r"[,_\u00a0\u202f]", "", match["value"]) + (match["power"] or ""))
        if match["over"]:
            value /= int(match["over"])
        value += int(match["whole"] or 0)
    except (ValueError, ZeroDivisionError):
        return None
    unit = match["unit"].strip().casefold()
    value *= _SCALES.get(unit.split(" ", 1)[0], 1)
    return -value if (match["sign"] in ("-", "−", "–", "-") and match["sign"]) or match["inner"] else value


def _numbers(text: str) -> list[str]:
    """The numbers in a text, as they are written there."""
    return [match[0].strip() for match in _TOKEN.finditer(_FRACTION.sub(r"\1\2/\3", text).replace("{,}", ","))]


# Choices and yes or no

_LETTER = re.compile(r"\W*(?:(?:option|choice|answer)\W{1,3})?\(?([A-Ja-j])(?:[).:,\]*}]|\s*$|\s+(?:because|since|is|as)\b)", re.I)
_LETTERS = re.compile(
    r"\(([A-Ja-j])\)"  # (B)
    r"|\b(?:[Oo]ption|[Cc]hoice)\s+\(?([A-J])\b"
    r"|^[ \t>*]*\(?([A-J])[ \t*]*[.):]?[ \t*]*$"  # a line of its own
    r"|\A\s*\**([A-J])\**[.):]"  # at the start of the reply
    r"|\*\*\(?([A-J])[).]?\*\*",
    re.MULTILINE,
)


def _letter(text: str) -> str | None:
    match = _LETTER.match(text)
    if match is None or (match[1].islower() and not re.match(r"\W*\(?[a-j][).]|\W*[a-j]\W*$", text)):
        return None
    return match[1].upper()


def _last_letter(text: str) -> str | None:
    matches = list(_LETTERS.finditer(text))
    return next(group for group in matches[-1].groups() if group).upper() if matches else None


_YES = frozenset(("yes", "true", "correct", "yeah", "yep"))
_NO = frozenset(("no", "false", "incorrect", "nope"))


def _boolean(text: str) -> str | None:
    """yes or no, where the text opens with it."""
    word = re.match(r"\W*(\w+)", text)
    if word is None:
        return None
    said = word[1].casefold()
    return "yes" if said in _YES else "no" if said in _NO else None


def _last_boolean(text: str) -> str | None:
    words = re.findall(r"\b(yes|no|true|false)\b", text, re.IGNORECASE)
    return _boolean(words[-1]) if words else None


# Comparing


def normalise(answer: str, kind: str = "auto") -> str:
    """The form in which equal answers are equal text.

    Numbers become exact fractions, choices capital letters, booleans yes or no; other text loses case, markup, articles,
    quotes and punctuation at its ends. With "auto" whatever reads as a number or a lone letter is one.
    """
    text = _plain(answer)
    if kind in ("auto", "number") and (value := number(text)) is not None:
        return str(value)
    if kind == "choice" and (letter := _letter(text)) is not None:
        return letter
    if kind == "auto" and re.fullmatch(r"\(?[A-J][).]?", text):
        return text.strip("().")
    if kind == "boolean" and (said := _boolean(text)) is not None:
        return said
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"^(?:the|an?)\s+", "", " ".join(text.casefold().split()))
    return text.strip(" .,;:!?*_`\"'“”()")


def equivalent(a: str, b: str, kind: str = "auto", tolerance: float = 0.0) -> bool:
    """Whether two answers are the same one; numbers may differ by `tolerance`, relative to the larger."""
    first, second = (number(a), number(b)) if tolerance and kind in ("auto", "number") else (None, None)
    if first is not None and second is not None:
        return abs(first - second) <= Fraction(tolerance) * max(abs(first), abs(second))
    return normalise(a, kind) == normalise(b, kind)


# Judgements

_VERDICT = re.compile(
    r"(?P<negated>\bnot\b|n['’]t\b|\bnever\b)?\s*(?:\b(?:the|a|entirely|fully|quite|completely|really)\s+)?"
    r"\b(?:(?P<good>correct|right|true|valid|yes)|(?P<bad>incorrect|wrong|false|invalid|no))\b",
    re.IGNORECASE,
)
_RATING = re.compile(
    r"\b(?:score|rating|grade|rated?|mark)\b[^\d\n-]{0,24}(?P<said>-?\d+(?:\.\d+)?)(?:\s*/\s*(?P<of>\d+)|\s+out\s+of\s+(?P<out>\d+))?"
    r"|\[\[(?P<double>-?\d+(?:\.\d+)?)\]\]"
    r"|(?<![\w./])(?P<part>-?\d+(?:\.\d+)?)\s*(?:/|out\s+of)\s*(?P<whole>\d+)(?![\d/])"
    r"|^[ \t]*(?:\*\*|#+[ \t]*)?(?P<alone>-?\d+(?:\.\d+)?)(?:\*\*)?[ \t.]*$",
    re.IGNORECASE | re.MULTILINE,
)


def verdict(text: str) -> bool | None:
    """A judge's last word: True for correct, right, yes; False for incorrect, wrong, "not correct", no; None where unsaid."""
    last = None
    for match in _VERDICT.finditer(text):
        last = match
    if last is None:
        return None
    return bool(last["good"]) is not bool(last["negated"])


def rating(text: str, low: float = 0.0, high: float = 10.0) -> float | None:
    """A judge's score: the last "Score: 8", "8/10", "8 out of 10", "[[8]]" or number on a line of its own.

    A score out of something else than `high` is scaled. None where none can be read or it is out of range: a score that
    is missing, which is not a score of 0.
    """
    last = None
    for match in _RATING.finditer(text):
        last = match
    if last is None:
        return None
    value = float(last["said"] or last["double"] or last["part"] or last["alone"])
    scale = float(last["of"] or last["out"] or last["whole"] or high)
    if scale != high and scale > 0:
        value *= high / scale
    return value if low <= value <= high else None


_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)


def code(text: str) -> str | None:
    """The last fenced code block, without its fence."""
    blocks = _FENCE.findall(text)
    return blocks[-1] if blocks else None
