"""What llama.cpp's server code can beyond the OpenAI API, as bytes: templates, tokens, grammars of tokens."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct, structs

from shoal.backends.openai_errors import Server
from shoal.backends.openai_wire import begun, wire_messages
from shoal.backends.schemas import UNANCHORED, check_enforced
from shoal.errors import BadRequest, ModelError
from shoal.runtime.backend import Outcome
from shoal.runtime.types import Completion, Request

_PASSED_OVER = frozenset({UNANCHORED, "minProperties", "maxProperties", "propertyNames"})
_encode = msgspec.json.Encoder().encode


class _Token(Struct):
    id: int
    piece: str | list[int]


class _Pieces(Struct):
    tokens: list[_Token]


class _Ids(Struct):
    tokens: list[int]


class _Prompt(Struct):
    prompt: str


_decode_pieces = msgspec.json.Decoder(_Pieces).decode
_decode_ids = msgspec.json.Decoder(_Ids).decode
_decode_prompt = msgspec.json.Decoder(_Prompt).decode


def template_body(request: Request) -> bytes:
    """For /apply-template: the conversation as the model is to see it."""
    body: dict[str, Any] = {"messages": wire_messages(request)}
    if request.tools:
        body["tools"] = [Raw(tool.text.encode()) for tool in request.tools]
    return _encode(body)


def prompt_of(reply: bytes, server: Server) -> str:
    try:
        return _decode_prompt(reply).prompt
    except ValueError as error:
        raise server.malformed(f"not a prompt: {error}") from None


def prompt_body(prompt: str) -> bytes:
    """For /tokenize: a prompt, in which the marks of turns count as such."""
    return _encode({"content": prompt, "add_special": True, "parse_special": True})


def count_of(reply: bytes, server: Server) -> int:
    try:
        return len(_decode_ids(reply).tokens)
    except ValueError as error:
        raise server.malformed(f"no tokens: {error}") from None


def choice_body(choice: str) -> bytes:
    """For /tokenize: plain text that follows a prompt."""
    return _encode({"content": choice, "add_special": False, "parse_special": False, "with_pieces": True})


def forced(request: Request, reply: bytes, server: Server) -> Request:
    """The request with its only choice as these tokens and no others, for a grammar of texts lets the likeliest pieces
    of the text come first."""
    (choice,) = request.params.choices
    try:
        tokens = _decode_pieces(reply).tokens
    except ValueError as error:
        raise server.malformed(f"no tokens: {error}") from None
    if not tokens or b"".join(_bytes(token.piece) for token in tokens) != choice.encode():
        raise BadRequest(f"the choice {choice!r} is not what its tokens spell", endpoint=server.name)
    if any(not isinstance(token.piece, str) for token in tokens):
        message = f"llama.cpp cannot score the choice {choice!r}: a token of it ends within a character"
        raise BadRequest(message, endpoint=server.name)
    grammar = "root ::= " + " ".join(f"<[{token.id}]>" for token in tokens)
    most = min(request.params.max_tokens or len(tokens), len(tokens))  # the token that ends the turn is not asked
    params = structs.replace(request.params, choices=(), grammar=grammar, max_tokens=most)
    return structs.replace(request, params=params)


def scored(completion: Completion, request: Request) -> Completion:
    """The choice as if it had been drawn to its end."""
    whole = completion.text == request.params.choices[0]
    return structs.replace(completion, finish_reason="stop") if whole else completion


def new_text(outcome: Outcome, request: Request) -> Outcome:
    """What came after the beginning of a reply, which the server repeats where it does not stream."""
    if isinstance(outcome, ModelError):
        return outcome
    given = request.messages[-1].text
    return [structs.replace(drawn, text=drawn.text.removeprefix(given)) for drawn in outcome]


def _bytes(piece: str | Sequence[int]) -> bytes:
    return piece.encode() if isinstance(piece, str) else bytes(piece)


def check(request: Request, server: Server) -> None:
    """Refuse what llama.cpp would pass over, or fail at.

    It holds a schema against the whole message, what is given of it included.
    """
    check_enforced(request.params.json_schema, _PASSED_OVER, server.name)
    if begun(request) and request.params.json_schema is not None:
        raise BadRequest("llama.cpp cannot continue a message under a json_schema; use a grammar", endpoint=server.name)
