"""A request's prompt as tokens, by the model's own tokenizer and chat template; imported in vLLM's process alone."""

import inspect
import json
from typing import Any

from shoal.backends.openai_wire import begun
from shoal.errors import BadRequest
from shoal.runtime.backend import continues
from shoal.runtime.types import Json, Message, Request


def tokens(tokenizer: Any, request: Request) -> list[int]:
    """The whole prompt. A last turn of the assistant is the beginning of its reply."""
    if request.prompt is not None:
        return list(tokenizer.encode(request.prompt))
    going_on = begun(request)
    nothing_yet = continues(request) and not going_on and not request.messages[-1].tool_calls
    turns = [_turn(message) for message in (request.messages[:-1] if nothing_yet else request.messages)]
    options = _template_options(request)
    try:
        text = tokenizer.apply_chat_template(
            turns,
            tools=[tool.value() for tool in request.tools] or None,
            add_generation_prompt=not going_on,
            continue_final_message=going_on,
            tokenize=False,
            **options,
        )
    except Exception as error:  # noqa: BLE001 - a template is a program, and raises what it likes
        raise BadRequest(f"the model's chat template: {type(error).__name__}: {error}") from None
    return list(tokenizer.encode(text, add_special_tokens=False))


def choice_tokens(tokenizer: Any, request: Request) -> list[int]:
    """The only choice as the tokenizer cuts it after the prompt."""
    (choice,) = request.params.choices
    ids = list(tokenizer.encode(choice, add_special_tokens=False))
    if tokenizer.decode(ids, skip_special_tokens=True).lstrip() != choice.lstrip():
        raise BadRequest(f"the choice {choice!r} is not what its tokens spell")
    return ids


def _template_options(request: Request) -> dict[str, Any]:
    """What the request says to the template, and to nothing else: the function that fills it in has options, too."""
    from transformers import PreTrainedTokenizerBase  # vLLM's own tokenizers hide what theirs takes

    function = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters.keys()
    extra = request.params.extra.value() if request.params.extra else {}
    options: dict[str, Any] = extra.get("chat_template_kwargs") or {}
    if not isinstance(options, dict):
        raise BadRequest("chat_template_kwargs is an object of what the template knows")
    if taken := sorted(options.keys() & (function | {"chat_template"})):
        raise BadRequest(f"chat_template_kwargs: {taken[0]} is not the template's")
    return options


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
    except ValueError as error:
        raise BadRequest(f"a tool call's arguments are no JSON: {error}") from None
