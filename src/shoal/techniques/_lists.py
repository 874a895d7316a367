"""Reading a list out of a reply: numbers, bullets, JSON, items of several lines."""

import json
import re
from typing import Any

from shoal.prompting.answers.markup import code, without_reasoning
from shoal.runtime.types import Completion

_EMPHASIS = r"(?:\*\*|__)?"
_ITEM = re.compile(
    rf"(?P<indent>[ \t]*)(?P<heading>#{{1,6}} )?(?:(?P<bullet>[-*+•‣–—] )"
    rf"|(?P<number>{_EMPHASIS}(?:(?:observation|hint|idea|insight|point|item|step) ?#?)?\(?\d{{1,3}}(?:[.):]|\\[.)])))"
    rf"(?P<text>(?:\s|{_EMPHASIS}[^\s\d]).*|{_EMPHASIS}$)",
    re.IGNORECASE,
)


def items(reply: Completion) -> list[str]:
    """The items of the list in a reply, each with its further lines and sub-items; the whole text where it has none.

    What stands before the first item or, after a blank line, behind the last one is no part of it. Of a reply that was
    cut off, the last item is left out if there are others. Nothing of a blank one, or of one still in its thoughts.
    """
    text = without_reasoning(reply.text) or ""
    found = _in_json(text) or _marked(text) or [text.strip()]
    if reply.finish_reason == "length" and len(found) > 1:
        found = found[:-1]
    return [item for item in found if item]


def _in_json(text: str) -> list[str]:
    """The items of a JSON list, or of the first list in a JSON object, in a code block or by itself."""
    try:
        value: Any = json.loads(code(text) or text)
        if isinstance(value, dict):
            value = next((inner for inner in value.values() if isinstance(inner, list)), list(value.values()))
        return [_as_text(item) for item in value] if isinstance(value, list) else []
    except (ValueError, RecursionError):
        return []


def _as_text(item: Any) -> str:
    if isinstance(item, dict):
        return "\n".join(map(_as_text, item.values()))
    return item.strip() if isinstance(item, str) else json.dumps(item, ensure_ascii=False)


def _marked(text: str) -> list[str]:
    """The items of a list with numbers or bullets, whichever comes first, at the depth of the first."""
    kind, depth = "", 0
    found: list[list[str]] = []
    for line in text.splitlines():
        match = _ITEM.match(line.expandtabs(4))
        this = "" if match is None else "bullet" if match["bullet"] else "number"
        if match and (not found or (this == kind and len(match["indent"]) <= depth + 1)):
            kind, depth = this, depth if found else len(match["indent"])
            found.append([match["text"]])
        elif found:
            found[-1].append(line)
    if found:
        found[-1] = _without_remarks(found[-1], depth, last_of=found)
    return [_joined(lines) for lines in found if _joined(lines)]


def _without_remarks(lines: list[str], depth: int, last_of: list[list[str]]) -> list[str]:
    """The last item without the paragraphs behind the list, which stand no deeper than its markers.

    Where other items have such paragraphs too, they belong to the items.
    """

    def remark(item: list[str]) -> int | None:
        for i in range(1, len(item)):
            line = item[i].expandtabs(4)
            if not item[i - 1].strip() and line.strip() and len(line) - len(line.lstrip()) <= depth:
                return i
        return None

    usual = any(remark(item) is not None for item in last_of[:-1])
    return lines if usual else lines[: remark(lines)]


def _joined(lines: list[str]) -> str:
    text = "\n".join(line.rstrip() for line in lines).strip()
    for mark in ("**", "__"):  # one that was opened before the number
        if text.count(mark) % 2:
            text = text.replace(mark, "", 1)
    return text.removeprefix(":").strip()
