"""The OpenAPI document of the server, made from the structs its bodies are read into, and a table of its routes.

`python -m shoal.server.openapi` prints it; openapi.json beside this module is that.
"""

import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec
from msgspec import Struct

from shoal.server import shapes
from shoal.server.batches.endpoints import Create
from shoal.server.batches.objects import Batch, File
from shoal.server.playground import Question, Shown, Spec
from shoal.server.wire.chat_input import Chat, Common
from shoal.server.wire.completions import Text
from shoal.server.wire.messages_input import Messages
from shoal.server.wire.responses_input import Responses

_REF = "#/components/schemas/"
JSON, EVENTS = "application/json", "text/event-stream"


class Operation(Struct, frozen=True):
    """A route. `path` is as the router has it, `{name}` for a part that is filled in.

    `body` are the structs a body is read into, all from one object, and `needs` its fields that cannot be left out
    beside those without a default. `reply` is a struct, or a media type. `refuses` are the statuses that its errors
    have beside those that all have, `errors` is what they look like.
    """

    method: str
    path: str
    summary: str
    reply: type | str
    body: tuple[type, ...] = ()
    needs: tuple[str, ...] = ()
    streams: bool = False
    body_type: str = JSON
    open: bool = False  # whether it asks for no key
    refuses: tuple[int, ...] = ()
    errors: type = shapes.ErrorReply


_ASKING = (404, 413, 422, 429, 502, 504)
_KEPT = (404, 503, 507)

OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/health", "Whether the server runs", shapes.Health, open=True),
    Operation("GET", "/openapi.json", "This document", JSON),
    Operation("GET", "/metrics", "Counters, as Prometheus reads them", "text/plain"),
    Operation("GET", "/v1/models", "The models, and every technique on each", shapes.Models),
    Operation("GET", "/v1/models/{name}", "One model, or technique on one", shapes.Model, refuses=(404,)),
    Operation(
        "POST",
        "/v1/chat/completions",
        "Answer a conversation, by a model or a technique on one",
        shapes.ChatCompletion,
        body=(Common, Chat),
        needs=("messages",),
        streams=True,
        refuses=_ASKING,
    ),
    Operation(
        "POST",
        "/v1/completions",
        "Continue bare prompts",
        JSON,
        body=(Common, Text),
        needs=("prompt",),
        streams=True,
        refuses=_ASKING,
    ),
    Operation(
        "POST",
        "/v1/responses",
        "Answer a conversation, as OpenAI's Responses API has it; nothing is kept",
        JSON,
        body=(Responses,),
        streams=True,
        refuses=_ASKING,
    ),
    Operation(
        "POST",
        "/v1/messages",
        "Answer a conversation, as Anthropic's API has it",
        JSON,
        body=(Messages,),
        needs=("max_tokens",),
        streams=True,
        refuses=_ASKING,
        errors=shapes.AnthropicErrorReply,
    ),
    Operation(
        "POST",
        "/v1/messages/count_tokens",
        "The tokens of a conversation",
        shapes.InputTokens,
        body=(Messages,),
        refuses=_ASKING,
        errors=shapes.AnthropicErrorReply,
    ),
    Operation(
        "POST",
        "/v1/files",
        "Keep the input of a batch",
        File,
        body=(shapes.Upload,),
        body_type="multipart/form-data",
        refuses=(429, *_KEPT),
    ),
    Operation("GET", "/v1/files", "The files that are kept", shapes.Files, refuses=_KEPT),
    Operation("GET", "/v1/files/{id}", "One file", File, refuses=_KEPT),
    Operation("GET", "/v1/files/{id}/content", "What is in a file", "application/octet-stream", refuses=_KEPT),
    Operation("DELETE", "/v1/files/{id}", "Delete a file", JSON, refuses=(*_KEPT, 409)),
    Operation(
        "POST", "/v1/batches", "Answer the requests of a file", Batch, body=(Create,), refuses=(*_KEPT, 409, 429)
    ),
    Operation("GET", "/v1/batches", "The batches", shapes.Batches, refuses=_KEPT),
    Operation("GET", "/v1/batches/{id}", "How far a batch is", Batch, refuses=_KEPT),
    Operation("POST", "/v1/batches/{id}/cancel", "Stop a batch", Batch, refuses=(*_KEPT, 409)),
    Operation("GET", "/playground/api/catalogue", "For the page: models and techniques", JSON),
    Operation(
        "POST", "/playground/api/estimate", "For the page: what an answer costs", JSON, body=(Spec,), refuses=(404,)
    ),
    Operation("POST", "/playground/api/render", "For the page: Markdown as HTML", JSON, body=(Shown,), refuses=(413,)),
    Operation(
        "POST",
        "/playground/api/run",
        "For the page: an answer as it comes about",
        EVENTS,
        body=(Question,),
        refuses=_ASKING,
    ),
)

_SAID = {
    400: "The request makes no sense; `param` says where",
    401: "No key, or one that is not known",
    403: "The key, the host or the origin may not do this",
    404: "There is no such thing",
    409: "It is not in a state in which this can be done",
    413: "The body is too large",
    415: "The body is not of the right content type",
    422: "The model's server cannot work with the request",
    429: "A limit or a budget is reached; `retry-after` says when to come again, where that helps",
    502: "The model's server failed, and trying again did not help",
    503: "This server keeps no files",
    504: "The model's server did not answer in time",
    507: "Files cannot be kept now",
}


@cache
def document() -> bytes:
    """The document, as JSON."""
    return msgspec.json.format(msgspec.json.encode(described(OPERATIONS)), indent=1) + b"\n"


def described(operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes."""
    kinds = [kind for each in operations for kind in (*each.body, each.reply, each.errors) if isinstance(kind, type)]
    unique = list(dict.fromkeys(kinds))
    references, schemas = msgspec.json.schema_components(unique, ref_template=f"{_REF}{{name}}")
    names = {kind: found["$ref"].removeprefix(_REF) for kind, found in zip(unique, references, strict=True)}
    paths: dict[str, Any] = {}
    for operation in operations:
        if operation.body:
            schemas[f"{_id(operation)}_body"] = _merged(operation, [schemas[names[kind]] for kind in operation.body])
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, names)
    return {
        "openapi": "3.1.0",
        "info": {"title": "shoal", "version": version("shoal"), "license": {"name": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: Operation, names: dict[type, str]) -> dict[str, Any]:
    statuses = {*operation.refuses, 400, 403}
    if not operation.open:
        statuses.add(401)
    if operation.body:
        statuses |= {413, 415}
    wrong = {JSON: {"schema": {"$ref": _REF + names[operation.errors]}}}
    described: dict[str, Any] = {
        "operationId": _id(operation),
        "summary": operation.summary,
        "responses": {
            "200": {"description": "Done", "content": _content(operation, names)},
            **{str(status): {"description": _SAID[status], "content": wrong} for status in sorted(statuses)},
        },
    }
    if operation.open:
        described["security"] = []
    if parameters := [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]:
        described["parameters"] = [
            {"name": part, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for part in parameters
        ]
    if operation.body:
        schema = {"$ref": f"{_REF}{_id(operation)}_body"}
        described["requestBody"] = {"required": True, "content": {operation.body_type: {"schema": schema}}}
    return described


def _id(operation: Operation) -> str:
    name = "_".join(part.strip("{}") for part in operation.path.split("/") if part)
    return f"{operation.method.lower()}_{name}".replace(".", "_")


def _content(operation: Operation, names: dict[type, str]) -> dict[str, Any]:
    if isinstance(operation.reply, str):
        content: dict[str, Any] = {operation.reply: {}}
    else:
        content = {JSON: {"schema": {"$ref": _REF + names[operation.reply]}}}
    return content | {EVENTS: {}} if operation.streams else content


def _merged(operation: Operation, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One schema for all that is read from one body."""
    properties = {name: schema for part in parts for name, schema in part["properties"].items()}
    for name in operation.needs:  # not null, either
        schema = {key: value for key, value in properties[name].items() if key != "default"}
        options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
        properties[name] = {"anyOf": options} if options else schema
    required = {*operation.needs, *(name for part in parts for name in part["required"])}
    closed = {"additionalProperties": False} if all(part.get("additionalProperties") is False for part in parts) else {}
    return {"type": "object", "properties": properties, "required": sorted(required), **closed}


if __name__ == "__main__":
    sys.stdout.write(document().decode())
