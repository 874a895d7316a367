"""What a model of transformers wrote: its text and its calls of tools."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec
from msgspec import structs

from shoal.backends.chat_template import template_of
from shoal.backends.engine_config import check_constraint
from shoal.backends.tool_calls import Before, Form, Found, as_wire, forced, form_of, read
from shoal.backends.tools import Tools, parameters_of, tools_of
from shoal.errors import BadRequest
from shoal.runtime.types import Completion, Json, Request, SamplingParams

FORMS = ("hermes", "llama3_json")


class Reader:
    """Reads the replies to one request with tools, of which `prompt` is the model's.

    `form` is how calls are written; None for a tokenizer that says itself how to read replies.
    """

    def __init__(self, tools: Tools, form: Form | None, tokenizer: Any, prompt: list[int], *, stops: bool) -> None:
        self._tools, self._form, self._stops = tools, form, stops
        self._tokenizer, self._prompt = tokenizer, prompt
        self._before = Before(form) if form is not None else None

    @property
    def constraint(self) -> str:
        """What a reply keeps that must be a call: a structural tag of xgrammar's; "" where it need not be one."""
        if not self._tools.forced or self._form is None:
            return ""
        return forced(self._form, template_of(self._tokenizer), self._tools)

    def sure(self, text: str) -> str:
        """What of the only draw is text before its calls, when the next piece of it has come."""
        return "" if self._before is None else self._before.feed(text)

    def whole(self, completion: Completion, ids: Sequence[int]) -> Completion:
        """The finished draw, its calls read; as it is where there are none."""
        text, reasoning, found = self._read(completion.text, ids)
        if not found:
            return structs.replace(completion, text=text, reasoning=reasoning)
        return structs.replace(
            completion,
            text=text,
            reasoning=reasoning,
            finish_reason="tool_calls" if completion.finish_reason == "stop" else completion.finish_reason,
            tool_calls=as_wire(found if self._tools.several else found[:1], self._prompt),
        )

    def _read(self, text: str, ids: Sequence[int]) -> tuple[str, str | None, list[Found]]:
        if self._form is None:  # marks are special tokens, which are not in the text; ids know no stop strings
            return _by_the_tokenizer(
                self._tokenizer, text, text if self._stops else list(ids), self._prompt, self._tools
            )
        said, found = read(self._form, text)
        return said, None, found


def reader(request: Request, prompt: list[int], tokenizer: Any, named: str | None) -> Reader | None:
    """What reads the replies to a request, None where they are text alone. BadRequest where nothing can."""
    tools = tools_of(request)
    if tools.choice == "none":
        return None
    params = request.params
    if params.json_schema or params.regex is not None or params.choices or params.grammar is not None:
        raise BadRequest("this engine draws no calls of tools beside a constraint on the text; ask for one of them")
    for schema in parameters_of(tools).values() if tools.forced else ():
        check_constraint(SamplingParams(json_schema=Json.in_order(schema)))
    return Reader(tools, _form(tokenizer, named, tools), tokenizer, prompt, stops=bool(params.stop))


def _form(tokenizer: Any, named: str | None, tools: Tools) -> Form | None:
    if named is None and _says_itself(tokenizer):
        if tools.forced:
            raise BadRequest("the form of this model's calls is its tokenizer's own, in which none can be forced")
        return None
    form = named or form_of(template_of(tokenizer))
    if form not in FORMS:
        message = f"this engine reads calls of tools as {' and '.join(FORMS)} write them, and this model's template"
        writes = f"writes {form}" if form else "does not tell its form; options = { tool_call_parser = ... } does"
        raise BadRequest(f"{message} {writes}")
    return cast(Form, form)


def _says_itself(tokenizer: Any) -> bool:
    template = getattr(tokenizer, "response_template", None)
    return isinstance(template, dict) and hasattr(tokenizer, "parse_response")


def _by_the_tokenizer(
    tokenizer: Any, text: str, reply: str | list[int], prompt: list[int], tools: Tools
) -> tuple[str, str | None, list[Found]]:
    """As the library reads a reply by the tokenizer's own `response_template`."""
    try:
        said = tokenizer.parse_response(reply, prefix=prompt if isinstance(reply, list) else "", tools=tools.shown)
        found = [_found(call["function"]) for call in said.get("tool_calls") or ()]
        return str(said.get("content") or ""), said.get("thinking") or None, found
    except Exception:  # noqa: BLE001 - whatever a template stumbles over is text
        return text, None, []


def _found(function: dict[str, Any]) -> Found:
    arguments = function["arguments"]
    return Found(str(function["name"]), msgspec.json.encode(dict(arguments)).decode())
