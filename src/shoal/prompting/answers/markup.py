r"""The parts of a reply: reasoning, code, boxes, bold type, sentences, and the plain text under the markup."""

import re
from collections.abc import Iterator
from typing import NamedTuple

Span = tuple[int, str]  # where a piece of text starts, and the piece

_THINKING = re.compile(r"<(think(?:ing)?)>.*?(?:</\1>|(\Z))", re.DOTALL | re.IGNORECASE)
_LEFT_THINKING = re.compile(r"</think(?:ing)?>", re.IGNORECASE)


def without_reasoning(text: str) -> str | None:
    """The reply after its <think>...</think>; None where it never leaves it.

    Where only the closing tag is there (the opening one was part of the prompt), what precedes it is reasoning too.
    """
    if "<" not in text:
        return text
    unclosed = False

    def drop(match: re.Match[str]) -> str:
        nonlocal unclosed
        unclosed = unclosed or match[2] is not None
        return " "

    text = _THINKING.sub(drop, text)
    return None if unclosed else _LEFT_THINKING.split(text)[-1]


_QUOTES = "\"'`“‘«„"
_WORD = re.compile(r"\w*")


def is_quoted(text: str, start: int) -> bool:
    """Whether a label is cited there, in the middle of a line: `it says "Score: 10"`; a key (`"score": 10`) is not."""
    before = text[max(0, start - 20) : start].rsplit("\n", 1)[-1]
    if not before or before[-1] not in _QUOTES or not before.strip(" \t*_#>({[-" + _QUOTES):
        return False
    word = _WORD.match(text, start)
    return word is None or text[word.end() : word.end() + 1] not in ('"', "'", "`")


_FENCE = re.compile(r"([ \t>]*)(`{3,}|~{3,})(.*)")


class Block(NamedTuple):
    """A fenced code block: the language after its fence (in lower case), and what is in it. `closed`: it has an end.

    Where the fence is indented or quoted, as in a list, what is in it is without that.
    """

    language: str
    text: str
    closed: bool = True


def blocks(text: str) -> list[Block]:
    """Every fenced code block of a reply, in order; one that is not closed goes to the end."""
    found: list[Block] = []
    margin, fence, language, lines = "", "", "", list[str]()
    for line in (without_reasoning(text) or "").splitlines():
        match = _FENCE.fullmatch(line)
        if not fence:
            if match and "`" not in match[3]:
                margin, fence, language, lines = match[1], match[2], match[3].strip().lower(), []
        elif match and match[2].startswith(fence) and not match[3].strip():
            found.append(Block(language, _without_margin(lines, margin)))
            fence = ""
        else:
            lines.append(line)
    return [*found, Block(language, _without_margin(lines, margin), closed=False)] if fence else found


def _without_margin(lines: list[str], margin: str) -> str:
    """The lines without what stands before their fence, where it stands before all of them."""
    if all(line.startswith(margin) or line.strip() == margin.strip() for line in lines):
        lines = [line[len(margin) :] for line in lines]
    return "\n".join(lines)


def code(text: str) -> str | None:
    """The last fenced code block of a reply, without its fences; None where there is no closed one."""
    return next((block.text for block in reversed(blocks(text)) if block.closed), None)


_BRACES = re.compile(r"\\(?:boxed|fbox)\s{0,9}\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\boxed\s{0,9}([\w.+-]{1,40})")
_LONGEST_BOX = 2000


def boxes(text: str) -> list[Span]:
    r"""What every balanced \boxed{...} or \fbox{...} holds, by where it ends; a box just around a box is that one."""
    if r"\boxed" not in text and r"\fbox" not in text:
        return []
    found = [(match.start(1), match[1]) for match in _BARE_BOX.finditer(text)]
    opened: list[int] = []  # where the contents of open braces start; 0 for braces that are no box
    inner = (-1, -1)
    for match in _BRACES.finditer(text):
        if match[0].endswith("{") and match[0] != r"\{":
            opened.append(match.end() if len(match[0]) > 1 else 0)
        elif match[0] == "}" and opened:
            start = opened.pop()
            holds_a_box = inner[0] == start and inner[1] == match.start()
            if start and match.start() - start <= _LONGEST_BOX and not holds_a_box:
                found.append((match.start(), text[start : match.start()]))
            if start:
                inner = (start - len(r"\boxed{"), match.end())
    return sorted(found, key=lambda span: span[0])


_BOLD = re.compile(r"(?<!\*)\*\*(?![*\s])([^*\n]{1,200})\*\*(?!\*)|(?<![_\w])__(?!_)([^_\n]{1,200})__(?![_\w])")


def bold(text: str) -> Iterator[Span]:
    """What is in bold type, in order, without headings and labels: `**Step 1:**`, `**2.** Divide`."""
    for match in _BOLD.finditer(text):
        piece = match[1] or match[2]
        if (
            not re.search(r":\s*$|^\s*\(?\w{1,3}[.)]\s*$|^\s*step\b", piece, re.IGNORECASE)
            and text[match.end() :][:1] != ":"
        ):
            yield match.start(), piece


_END = re.compile(r"[.!?](?=[\"'”’*_)\]]{0,4}(?:\s|$))")
_ABBREVIATION = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|st|mt|jr|sr|vs|no|approx|e\.g|i\.e|\w\.\w)|(?<![\w'’])[a-z])$", re.IGNORECASE
)


def sentence_ends(text: str) -> Iterator[int]:
    """Where sentences end (the index of the stop), abbreviations and initials left alone."""
    for match in _END.finditer(text):
        at = match.start()
        if text[at] != "." or not _ABBREVIATION.search(text[max(0, at - 8) : at]):
            yield at


def last_sentence(text: str) -> str:
    """The last sentence of the last line."""
    line = text.rstrip()[-1000:].rsplit("\n", 1)[-1]
    ends = [at for at in sentence_ends(line) if line[at + 1 :].strip("*_\"'”’) ")]
    return line[ends[-1] + 1 :].strip() if ends else line.strip()


_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("[[", "]]"), ("<", ">"))
_LATEX_WRAPPER = re.compile(
    r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathit|operatorname|boxed|fbox)\s{0,9}\{([^{}]*)\}"
)
_LATEX = (
    (re.compile(r"\\[dt]frac\b|\\[dt]frac(?=\d)"), r"\\frac"),
    (re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|\\!"), ""),
    (re.compile(r"\^\s?\{?\\circ\}?|\\degree"), "°"),
    (re.compile(r"\\(?:times|cdot)(?![a-zA-Z])"), "×"),
    (re.compile(r"\\([%$#&_])"), r"\1"),
    (re.compile(r"\\[,;: ]|~|\\quad(?![a-zA-Z])"), " "),
)


def without_latex(text: str) -> str:
    r"""Without the spacing, sizing and font commands: `\text{5}\,\%` becomes `5 %`. Formulas stay formulas."""
    if "\\" in text or "~" in text or "{,}" in text:
        text = text.replace("{,}", ",").replace(r"\,\!", "").replace(r"\!", "")
        text = re.sub(r"(?<=\d)\\,(?=\d{3})", ",", text)
        for _ in range(3):
            text = _LATEX_WRAPPER.sub(r" \1", text)
        for pattern, plain_form in _LATEX:
            text = pattern.sub(plain_form, text)
    return text


def plain(text: str) -> str:
    """Without the markup around it: emphasis, quotes, dollars, brackets of formulas, a closing stop."""
    if text and text[0].isalnum() and text[-1].isalnum():
        return text  # all of it begins or ends with a sign
    for _ in range(6):
        before = text
        text = text.strip().strip("*`_\"“”‘’'#").strip()
        text = re.sub(r"[.,;:!\s]{1,9}$", "", text)
        for opening, closing in _WRAPPERS:
            inside = text[len(opening) : len(text) - len(closing)]
            if inside and text.startswith(opening) and text.endswith(closing) and "\n\n" not in inside:
                text = inside
        wrapped = _LATEX_WRAPPER.fullmatch(text)
        text = wrapped[1] if wrapped else text
        if text == before:
            break
    return text.removesuffix(r"\]").removesuffix(r"\)").rstrip(" .")
