"""Numbers and texts of a trace in words for people, the same on the terminal and on a page."""

import json
from decimal import Decimal
from typing import Any

import msgspec

from shoal.runtime.types import Message, Request, Usage
from shoal.traces.data import Failure, Trace

# Control characters of a model's text would act on a terminal; they are shown as their pictures (␛ for escape).
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
_PICTURES |= dict.fromkeys(
    (*range(0x80, 0xA0), *range(0xD800, 0xE000)), 0xFFFD
)  # halves of characters cannot be written


def visible(text: str) -> str:
    return text.replace("\r\n", "\n").translate(_PICTURES)


def short(text: object, width: int) -> str:
    """The text on one line of at most `width` characters."""
    line = visible(" ".join(str(text).split()))
    return line if len(line) <= width else line[: width - 1] + "…"


def seconds(number: float) -> str:
    if number < 10:
        return f"{number:.2f} s"
    if number < 120:
        return f"{number:.0f} s"
    return f"{number / 60:.0f} min" if number < 7200 else f"{number / 3600:.1f} h"


def count(number: float) -> str:
    return f"{number:,.0f}" if number < 1e6 else f"{number / 1e6:,.1f} M"


def plural(number: int, noun: str) -> str:
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def tokens(usage: Usage) -> str:
    return f"{count(usage.prompt_tokens)} + {count(usage.completion_tokens)} tokens"


def failure(error: Failure) -> str:
    if error.type == "CancelledError":
        return "cancelled: its answer was no longer wanted"
    return f"{error.type}: {error.message}" if error.message else error.type


def shown(value: Any) -> str:
    """An argument or a result: text as it is, anything else as JSON over several lines."""
    if isinstance(value, str):
        return value
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def said(answer: str | None, output: Any) -> str:
    """The short answer, or else the output."""
    if answer is not None or output is None:
        return answer or ""
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)


def parameters(request: Request) -> str:
    """The sampling parameters that were given, as in `temperature=0.7, max_tokens=64`."""
    given = msgspec.to_builtins(request.params)
    values = {name: value["text"] if isinstance(value, dict) else value for name, value in given.items()}
    return ", ".join(f"{name}={value}" for name, value in values.items())


def messages(request: Request) -> list[tuple[str, str]]:
    """The conversation as (who, text); a bare prompt is the `prompt`'s."""
    if request.prompt is not None:
        return [("prompt", request.prompt)]
    return [(message.role, _content(message)) for message in request.messages]


def _content(message: Message) -> str:
    parts = [message.text] if message.text else []
    if message.content is not None and not isinstance(message.content, str):
        others = [part.get("type", "part") for part in message.content.value() if "text" not in part]
        parts += [f"[{kind}]" for kind in others]
    return "\n".join([*parts, *(call.text for call in message.tool_calls)])


def same_question(request: Request, other: Request) -> bool:
    return request.messages == other.messages and request.prompt == other.prompt


def asked(trace: Trace) -> str:
    """What a tree was asked, in the words of whoever asked: its request, its arguments, else its first call's."""
    if trace.request is not None:
        return trace.request.text
    if len(trace.children) == 1 and len(trace.arguments or ()) != 1:  # a row's columns, and the prompt made of them
        return asked(trace.children[0])
    if trace.arguments:
        only = next(iter(trace.arguments.values()))
        return shown(only if len(trace.arguments) == 1 else trace.arguments)
    return asked(trace.children[0]) if trace.children else ""


def answered(trace: Trace) -> str | None:
    """What came of it; None where it failed or gave nothing."""
    if trace.completion is not None:
        return trace.completion.text or "\n".join(call.text for call in trace.completion.tool_calls)
    if trace.result is not None:
        return shown(trace.result)
    return _last_answer(trace) if trace.error is None else None


def _last_answer(trace: Trace) -> str | None:
    """Of a body under `tracing()`, which has no result of its own: what its last step said."""
    return answered(trace.children[-1]) if trace.kind in ("program", "builtin") and trace.children else None


def dollars(number: float) -> str:
    """Money, with as many digits as it takes to tell it from none."""
    if number == 0:
        return "$0"
    return f"${number:,.2f}" if number >= 0.1 else f"${Decimal(f'{number:.2g}'):f}"
