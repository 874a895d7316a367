"""A streamed reply of the OpenAI API, put together again: deltas on the way, then the whole Completion.

A stream is whole only with a finish_reason and `[DONE]`; anything less is an error, never a shorter answer.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from shoal.backends.openai_errors import Server, error_of
from shoal.backends.openai_usage import present, share_usage
from shoal.backends.openai_wire import as_id, token_logprobs
from shoal.backends.sse import SseParser
from shoal.runtime.backend import Draws
from shoal.runtime.types import Completion, Delta, Json, Request, TokenLogprob


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct):
    index: int = 0
    id: str | None = None
    type: str | None = None
    function: _Function | None = None


class _Piece(Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(Struct):
    index: int | None = None
    delta: _Piece | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Raw = Raw()


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    id: Any = None
    model: str | None = None
    usage: Raw = Raw()
    error: Raw = Raw()


_decode = msgspec.json.Decoder(_Chunk).decode


class StreamedReply:
    """One draw on its way. `done` once `[DONE]` came; `completion()` then gives the answer, or says what is missing."""

    def __init__(self, request: Request, server: Server) -> None:
        self.done = False
        self._request = request
        self._server = server
        self._model = server.model
        self._id: str | None = None
        self._parser = SseParser()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._tools: dict[int, dict[str, Any]] = {}
        self._finish_reason: str | None = None
        self._usage = Raw()

    def feed(self, chunk: bytes) -> list[Delta]:
        """The deltas that these bytes complete."""
        deltas = [self._event(data) for data in self._parser.feed(chunk)]
        return [delta for delta in deltas if delta is not None]

    def completion(self) -> Completion:
        if not self.done or self._finish_reason is None:
            missing = "finish_reason" if self._finish_reason is None else "[DONE]"
            raise self._server.malformed(f"the stream ended without {missing}")
        completion = Completion(
            "".join(self._text),
            self._finish_reason,
            logprobs=tuple(self._logprobs) or None,
            tool_calls=tuple(Json.of(self._tools[index]) for index in sorted(self._tools)),
            reasoning="".join(self._reasoning) or None,
        )
        return share_usage([Draws(self._request)], [[completion]], self._usage, self._model, self._id)[0][0]

    def _event(self, data: bytes) -> Delta | None:
        if self.done:
            return None
        if data.strip() == b"[DONE]":
            self.done = True
            return None
        try:
            chunk = _decode(data)
        except (ValueError, RecursionError) as error:
            raise self._server.malformed(f"not an event of this API: {error}") from None
        if present(chunk.error):
            raise error_of(200, {}, data, self._server)
        self._model = chunk.model or self._model
        self._id = self._id or as_id(chunk.id)
        if present(chunk.usage):
            self._usage = chunk.usage.copy()
        return self._choice(chunk.choices[0]) if chunk.choices else None

    def _choice(self, choice: _Choice) -> Delta | None:
        if choice.index:
            raise self._server.malformed("a choice with an index nobody asked for")
        self._finish_reason = choice.finish_reason or self._finish_reason
        if present(choice.logprobs):
            self._logprobs += token_logprobs(choice.logprobs, self._server) or ()
        piece = choice.delta or _Piece()
        for call in piece.tool_calls or ():
            self._tool_call(call)
        text = piece.content or piece.refusal or choice.text or ""
        reasoning = piece.reasoning_content or piece.reasoning or ""
        if not text and not reasoning:
            return None
        self._text.append(text)
        self._reasoning.append(reasoning)
        return Delta(text, reasoning)

    def _tool_call(self, piece: _ToolCall) -> None:
        """Names and ids come once, arguments in pieces."""
        call = self._tools.setdefault(piece.index, {"type": "function", "function": {"name": "", "arguments": ""}})
        if piece.id:
            call["id"] = piece.id
        if piece.type:
            call["type"] = piece.type
        if piece.function:
            call["function"]["name"] += piece.function.name or ""
            call["function"]["arguments"] += piece.function.arguments or ""
