"""A conversation as a model's own chat template writes it; for engines whose tokenizers are of Hugging Face."""

import inspect
import json
from typing import Any

from shoal.backends.openai_wire import begun
from shoal.backends.tools import tools_of
from shoal.errors import BadRequest
from shoal.runtime.backend import continues
from shoal.runtime.types import Json, Message, Request

TEMPLATE_EXTRA = "chat_template_kwargs"


def written(tokenizer: Any, request: Request) -> str:
    """The whole prompt of a conversation. A last turn of the assistant is the beginning of its reply.

    Raises BadRequest where the template fails, and where it passes over tools or calls: the model would not see them.
    """
    going_on = begun(request)
    nothing_yet = continues(request) and not going_on and not request.messages[-1].tool_calls
    turns = [_turn(message) for message in (request.messages[:-1] if nothing_yet else request.messages)]
    options = {
        **_template_options(request),
        "add_generation_prompt": not going_on,
        "continue_final_message": going_on,
        "tokenize": False,
    }
    tools = tools_of(request).shown
    text = _filled(tokenizer, turns, tools, options)
    if tools and _filled(tokenizer, turns, [], options) == text:
        raise BadRequest(
            "the model's chat template shows it no tools; ask a model whose template does, or without them"
        )
    without = [{name: value for name, value in turn.items() if name != "tool_calls"} for turn in turns]
    if without != turns and _filled(tokenizer, without, tools, options) == text:
        raise BadRequest("the model's chat template passes over the calls of tools in the conversation")
    return text


def _filled(tokenizer: Any, turns: list[dict[str, Any]], tools: list[dict[str, Any]], options: dict[str, Any]) -> str:
    try:
        text: str = tokenizer.apply_chat_template(turns, tools=tools or None, **options)
    except Exception as error:  # noqa: BLE001 - a template is a program, and raises what it likes
        said = " ".join(str(error).split())[:300]
        raise BadRequest(f"the model's chat template: {type(error).__name__}: {said}") from None
    return text


def _template_options(request: Request) -> dict[str, Any]:
    """What the request says to the template, and to nothing else: the function that fills it in has options, too."""
    extra = request.params.extra.value() if request.params.extra else {}
    options: dict[str, Any] = extra.get(TEMPLATE_EXTRA) or {}
    if not isinstance(options, dict):
        raise BadRequest(f"{TEMPLATE_EXTRA} is an object of what the template knows")
    if not options:
        return options
    from transformers import PreTrainedTokenizerBase  # vLLM's own tokenizers hide what theirs takes

    function = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters.keys()
    if taken := sorted(options.keys() & (function | {"chat_template"})):
        raise BadRequest(f"{TEMPLATE_EXTRA}: {taken[0]} is not the template's")
    return options


def template_of(tokenizer: Any) -> str:
    """The text of the template that is filled in where there are tools; "" for a tokenizer that has none."""
    template = getattr(tokenizer, "chat_template", None) or ""
    if isinstance(template, dict):
        template = template.get("tool_use") or template.get("default") or ""
    return str(template)


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": _text(message)}
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [_call(call.value()) for call in message.tool_calls]
    return turn


def _text(message: Message) -> str:
    if isinstance(message.content, Json):
        parts = message.content.value()
        if any(not isinstance(part, dict) or part.get("type") != "text" for part in parts):
            raise BadRequest("this engine reads text only")
    return message.text


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call as templates want it: its arguments as values, not as the text of JSON."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        return call | {"function": function | {"arguments": json.loads(function["arguments"])}}
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"a tool call's arguments are no JSON: {error}") from None
