"""What a model wrote when it was asked for a prompt, made one. Such replies are messy, and may be hostile."""

import re

from shoal.prompting.answers.markup import without_reasoning

LONGEST = 4000  # characters of a prompt

_CONTROLS = dict.fromkeys([*range(32), *range(127, 160)])
for _kept in "\n\t":
    del _CONTROLS[ord(_kept)]
_LABEL = re.compile(r"(?m)(?:^[ \t>*#]*INSTRUCTION|\*{0,3}\bINSTRUCTION( MUTANT))\*{0,3}[ \t]*:\*{0,3}")
_ECHO = re.compile(r"\A[*\"]{0,3}The instruction was:\*{0,3}", re.IGNORECASE)
_ITEM = re.compile(r"(?m)^[ \t]*(?:(\d{1,4})[.)]|[-*•])(?:[ \t]+|$)")
_REASONED = re.compile(r"\A\s*<think|\A(?:(?!<think).)*</think", re.IGNORECASE | re.DOTALL)
# As in "Sure! Here is the improved instruction:", which chat models say first.
_ANNOUNCED = re.compile(
    r"\A(?:(?:sure|certainly|of course|okay|ok|absolutely)\b[^\n:]{0,40}?[,.!:\s]\s*)?here(?:['’]s| is)\b[^\n:]{0,80}?"
    r"\b(?:instruction|prompt|mutant|version|rewrite)\b[^\n:]{0,80}:\s*(?=\S)",
    re.IGNORECASE,
)
_FENCED = re.compile(r"\A(`{3,})[\w-]{0,20}\n((?:(?!```).)*)\1\Z", re.DOTALL)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`"}


def cleaned(reply: str) -> str:
    """The prompt in a reply, without the reasoning before it, an announcement, our labels, a fence, a list number or
    quotes around it; "" where there is none. It has at most `LONGEST` characters.
    """
    text = _unfenced(_ANNOUNCED.sub("", _unlabelled(printable(reply))))
    return _unquoted(_unnumbered(text))[:LONGEST].strip()


def first_listed(reply: str, number: int) -> str:
    """The prompt that a reply continues a numbered list with, whose next item is `number`."""
    text = _unlabelled(printable(reply))
    items = list(_ITEM.finditer(text))
    ends = [*(item.start() for item in items[1:]), len(text)]
    for item, end in zip(items, ends, strict=False):
        if item[1] == str(number):  # also where the list is repeated first
            return _one(text[item.end() : end])
    before = text[: items[0].start()] if items else text
    lines = [line.strip() for line in before.splitlines() if line.strip()]
    if lines and not (lines[0].endswith(":") and (items or len(lines) > 1)):
        return _one(lines[0])
    if items:
        return _one(text[items[0].end() : ends[0]])
    return _one(lines[1]) if lines else ""


def one_line(text: str) -> str:
    """A text as an item of a list."""
    return " ".join(text.split())


def _one(item: str) -> str:
    return cleaned(one_line(item.strip().split("\n\n")[0]))


def printable(reply: str) -> str:
    """After its reasoning, without control characters, and such that it can be written as UTF-8."""
    if _REASONED.match(reply):  # elsewhere a prompt may speak of such tags
        reply = without_reasoning(reply) or ""
    return reply.encode("utf-8", "replace").decode().replace("\r\n", "\n").translate(_CONTROLS).strip()


def _unlabelled(text: str) -> str:
    """What stands behind INSTRUCTION MUTANT where a reply repeats it, what stands before where it goes on with it."""
    before, *pieces = _LABEL.split(_ECHO.sub("", text))
    labelled = [(mutant, content.strip()) for mutant, content in zip(pieces[::2], pieces[1::2], strict=True)]
    after = next((content for mutant, content in labelled if mutant and content), "")
    if before.strip() and not (after and before.rstrip().endswith(":")):
        return before.strip()
    return after or next((content for _, content in labelled if content), "")


def _unfenced(text: str) -> str:
    fenced = _FENCED.match(text)
    return fenced[2].strip() if fenced else text


def _unnumbered(text: str) -> str:
    """Without the mark of a list that has one item only: a prompt may be a list of steps."""
    marks = list(_ITEM.finditer(text))
    return text[marks[0].end() :] if len(marks) == 1 and marks[0].start() == 0 else text


def _unquoted(text: str) -> str:
    close = _QUOTES.get(text[:1])
    inner = text[1:-1]
    return inner.strip() if close and text.endswith(close) and not {text[0], close} & set(inner) else text
