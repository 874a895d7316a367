"""What a model wrote, by vLLM's own parsers: its thoughts, its text and its calls of tools; in vLLM's process alone."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import structs

from shoal.backends.chat_template import TEMPLATE_EXTRA, template_of
from shoal.backends.engine_config import check_constraint
from shoal.backends.openai_wire import begun, wire_messages
from shoal.backends.tool_calls import WHITE_SPACE, Found, as_wire, form_of
from shoal.backends.tools import Tools, parameters_of, tools_of
from shoal.errors import BadRequest
from shoal.runtime.types import Completion, Delta, Json, Request, SamplingParams

_RESPONSE_TEMPLATE = "hf"  # the parser that reads what the tokenizer says of replies
_MADE_UP = "chatcmpl-tool-"  # ids that vLLM gives where the form of calls has none
_LOUD = ("vllm.tool_parsers", "vllm.reasoning", "vllm.parser")  # tell of every reply that they cannot read
_encode = msgspec.json.Encoder().encode


class Parsers:
    """The parsers that a model's options name; where they name none for calls, the one that its template speaks for."""

    def __init__(self, tool_calls: str | None, reasoning: str | None, tokenizer: Any, model_config: Any) -> None:
        self._tool_calls = tool_calls
        self._reasoning = reasoning
        self._tokenizer = tokenizer
        self._model = model_config
        self._known: dict[tuple[str | None, str | None], Any] = {}
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    def reader(self, request: Request, prompt: list[int]) -> "Reader | None":
        """What reads the replies to a request, None where they are text alone. BadRequest where nothing can."""
        tools = tools_of(request)
        reasoning = self._reasoning if request.prompt is None and not begun(request) else None
        if tools.choice == "none" and not reasoning:
            return None
        kind = self._kind(None if tools.choice == "none" else self._form(), reasoning)
        reader = Reader(kind, _asked(request, tools), prompt, self._tokenizer, self._model)
        if tools.forced and reader.constraint is None:
            raise BadRequest("vLLM's parser of this model's calls cannot force one; ask with tool_choice 'auto'")
        beside = tools.choice == "auto" and constraint(request.params) is not None
        if beside and reader.constraint.structural_tag is None:
            raise BadRequest("vLLM's parser of this model's calls knows none beside a constraint on the text")
        return reader

    def _form(self) -> str:
        form = self._tool_calls or (
            _RESPONSE_TEMPLATE
            if isinstance(getattr(self._tokenizer, "response_template", None), dict)
            else form_of(template_of(self._tokenizer))
        )
        if form is None:
            message = "how this model writes calls of tools is not to be told from its template; name vLLM's parser"
            raise BadRequest(f"{message} for it in the engine's table: options = {{ tool_call_parser = ... }}")
        return form

    def _kind(self, tool_calls: str | None, reasoning: str | None) -> Any:
        from vllm.parser import ParserManager

        if (tool_calls, reasoning) not in self._known:
            try:
                self._known[tool_calls, reasoning] = ParserManager.get_parser(
                    tool_calls,
                    reasoning,
                    enable_auto_tools=True,
                    is_harmony=self._model.hf_config.model_type == "gpt_oss",
                    tokenizer=self._tokenizer,
                )
            except Exception as error:  # noqa: BLE001 - parsers raise what they like at a tokenizer that is not theirs
                raise BadRequest(f"vLLM's parser of replies: {one_line(error)}") from None
        return self._known[tool_calls, reasoning]


def _asked(request: Request, tools: Tools) -> Any:
    """The request in the terms of vLLM's server, as far as its parsers look at it."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    extra = request.params.extra.value() if request.params.extra else {}
    structured = constraint(request.params)
    body: dict[str, Any] = {
        "messages": msgspec.json.decode(_encode(wire_messages(request))),
        "chat_template_kwargs": extra.get(TEMPLATE_EXTRA),
        "structured_outputs": structured,
    }
    if tools.choice != "none":
        if tools.forced and structured is not None:
            raise BadRequest("a reply that must be a call of a tool cannot keep a constraint on its text as well")
        for schema in parameters_of(tools).values() if tools.forced else ():
            check_constraint(SamplingParams(json_schema=Json.in_order(schema)))
        # Without `strict` the arguments of a forced call would be any JSON, and no call could be made beside a schema.
        strict = tools.forced or structured is not None
        body["tools"] = [_strict(tool) for tool in tools.shown] if strict else tools.shown
        named = {"type": "function", "function": {"name": tools.function}}
        body["tool_choice"] = named if tools.choice == "named" else tools.choice
        body["parallel_tool_calls"] = tools.several
    try:
        return ChatCompletionRequest.model_validate(body)
    except ValueError as error:
        raise BadRequest(f"the request is none that vLLM's parsers know: {one_line(error)}") from None


def _strict(tool: dict[str, Any]) -> dict[str, Any]:
    return {**tool, "function": {**tool["function"], "strict": True}}


def constraint(params: SamplingParams) -> Any:
    """A request's own constraint on the text in vLLM's terms, if it has one."""
    from vllm.sampling_params import StructuredOutputsParams

    given = {"regex": params.regex, "choice": list(params.choices) or None, "grammar": params.grammar}
    if params.json_schema is not None:
        given["json"] = params.json_schema.text
    return StructuredOutputsParams(**given) if any(value is not None for value in given.values()) else None


class Reader:
    """Reads the replies to one request. `constraint` and `skip_special_tokens` are how these must be drawn for it.

    A reply that comes in pieces is read by `piece` on the way; `whole` reads what has come when it is over, and
    `after` what of it the pieces have not shown.
    """

    def __init__(self, kind: Any, asked: Any, prompt: list[int], tokenizer: Any, model_config: Any) -> None:
        self._kind, self._prompt, self._tokenizer, self._model = kind, prompt, tokenizer, model_config
        self._request = asked
        try:
            self._parser = self._parser_of_a_draw()
            self._request = self._parser.adjust_request(asked)
        except Exception as error:  # noqa: BLE001 - parsers raise what they like at a request that is not for them
            raise BadRequest(f"vLLM's parser of replies: {one_line(error)}") from None
        self.constraint = _bounded(self._request.structured_outputs)
        self.skip_special_tokens: bool = self._request.skip_special_tokens
        self._text = self._reasoning = self._blank = ""
        self._lost = False

    def _parser_of_a_draw(self) -> Any:
        kwargs = self._request.chat_template_kwargs or {}
        return self._kind(self._tokenizer, self._request.tools, chat_template_kwargs=kwargs, model_config=self._model)

    def piece(self, text: str, ids: Sequence[int]) -> Delta:
        """What the next piece of the only draw shows of its text and thoughts."""
        if self._lost:
            return Delta()
        try:
            read = self._parser.parse_delta(text, list(ids), self._request, self._prompt, finished=False)
        except Exception:  # noqa: BLE001 - a parser that cannot go on: what it wrote comes when it is whole
            self._lost = True
            return Delta()
        content = self._blank + ((read and read.content) or "")
        self._blank = "" if content.strip() or self._text else content  # no text, where a call follows
        shown = Delta(content if not self._blank else "", (read and read.reasoning) or "")
        self._text += shown.text
        self._reasoning += shown.reasoning
        return shown

    def whole(self, completion: Completion, ids: Sequence[int]) -> Completion:
        """The finished draw, its text read; as it is where no parser can make anything of it."""
        try:
            parser = self._parser_of_a_draw()
            parser.set_prompt_token_ids(self._prompt)
            reasoning, content, calls = parser.parse(
                completion.text, self._request, enable_auto_tools=True, model_output_token_ids=list(ids)
            )
        except Exception:  # noqa: BLE001 - whatever a parser stumbles over is text
            return completion
        found = [Found(call.name, call.arguments, _own_id(call.id)) for call in calls or ()]
        if self._request.parallel_tool_calls is False:
            found = found[:1]  # not every form can be kept to one
        return structs.replace(
            completion,
            text=content or "",
            finish_reason="tool_calls" if found and completion.finish_reason == "stop" else completion.finish_reason,
            tool_calls=as_wire(found, self._prompt),
            reasoning=reasoning or None,
        )

    def after(self, completion: Completion) -> tuple[Delta, Completion]:
        """What the pieces have not shown of a draw, and the draw, which takes nothing back that they have."""
        text, reasoning = completion.text, completion.reasoning or ""
        if not text.startswith(self._text):
            text = self._text
        if not reasoning.startswith(self._reasoning):
            reasoning = self._reasoning
        rest = Delta(text[len(self._text) :], reasoning[len(self._reasoning) :])
        return rest, structs.replace(completion, text=text, reasoning=reasoning or None)


def _bounded(structured: Any) -> Any:
    """The constraint, with little white space in the calls that it forces: a small model may find no end of it."""
    if structured is None or structured.structural_tag is None:
        return structured
    tag = msgspec.json.decode(structured.structural_tag)
    waiting = [tag]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict) and part.get("type") == "json_schema":
            part["max_whitespace_cnt"] = WHITE_SPACE
        elif isinstance(part, dict):
            waiting += part.values()
    return replace(structured, structural_tag=msgspec.json.encode(tag).decode())


def _own_id(id: str | None) -> str | None:
    return None if id is None or id.startswith(_MADE_UP) else id


def one_line(error: BaseException, most: int = 300) -> str:
    """What an error of vLLM's says, in one line of so many characters at the most."""
    return " ".join(str(error).split())[:most] or type(error).__name__
