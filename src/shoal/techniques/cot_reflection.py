"""Chain of thought with reflection: think, go over it, then answer, in one reply (after arXiv:2201.11903)."""

import re

from msgspec import structs

from shoal.prompting.template import prompt
from shoal.runtime.model import Model, answer
from shoal.runtime.types import Completion, Request
from shoal.techniques._conversation import has_form, thinking, with_system
from shoal.techniques._steps import write_answer

_THINKING = re.compile(r"<thinking>", re.IGNORECASE)
_THOUGHT = re.compile(r"</thinking>", re.IGNORECASE)
_OUTPUT = re.compile(r"<output>", re.IGNORECASE)
_OUTPUT_LINE = re.compile(r"^[ \t*`]*<output>", re.IGNORECASE | re.MULTILINE)  # a tag, and not a word of a sentence
_END = re.compile(r"</output>", re.IGNORECASE)


async def cot_reflection(model: Model, request: Request) -> Completion:
    """Think and reflect before the answer; the text is the answer alone, `reasoning` the rest.

    One call. A second one writes the answer where the tags cannot stand in it (the user asked for a form: a schema,
    tools, stop strings...) and where the reply ends without an answer. A reply that was cut off while still thinking
    has no text, and its finish_reason says "length".
    """
    formed = has_form(request)
    asked = with_system(thinking(request) if formed else request, prompt("cot_reflection").fill({}))
    reply = await model(asked)
    thought, output, closed = _parts(reply.text)
    if formed or (thought and not output and reply.finish_reason == "stop"):
        work = reply.text if formed else thought
        final = await (write_answer(model, request, [work]) if work.strip() else answer(model, request))
        reasoning = _joined(reply.reasoning, work, final.reasoning)
        return structs.replace(final, reasoning=reasoning, usage=reply.usage + final.usage)
    cut_off_later = closed and reply.finish_reason == "length"
    finish_reason = "stop" if cut_off_later else reply.finish_reason
    reasoning = _joined(reply.reasoning, thought)
    return structs.replace(reply, text=output, reasoning=reasoning, finish_reason=finish_reason)


def _parts(text: str) -> tuple[str, str, bool]:
    """The thinking, the output and whether that is closed, in a reply that may lack any of the tags."""
    thought = _THOUGHT.search(text)
    tagged = thought or _THINKING.search(text)
    outputs = list((_OUTPUT if tagged else _OUTPUT_LINE).finditer(text, thought.end() if thought else 0))
    if outputs:
        at = outputs[0 if thought else -1]  # a thought that never ends may name the tag that it will come to
        ends = list(_END.finditer(text, at.end()))
        output = text[at.end() : ends[-1].start() if ends else len(text)]
        return _untagged(text[: at.start()]), output.strip(), bool(ends)
    if thought:
        return _untagged(text[: thought.end()]), text[thought.end() :].strip(), False
    if tagged:
        return _untagged(text), "", False
    return "", text, False  # no tags at all: the reply is the answer


def _untagged(text: str) -> str:
    return _THOUGHT.sub("", _THINKING.sub("", text)).strip()


def _joined(*parts: str | None) -> str | None:
    return "\n\n".join(filter(None, parts)) or None
