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
from shoal.server.bodies import Chat, Common

_REF = "#/components/schemas/{name}"
JSON, EVENTS, TEXT, HTML = "application/json", "text/event-stream", "text/plain", "text/html"


class Operation(Struct, frozen=True):
    """A route. `path` is as the router has it, `{name}` for a part that is filled in.

    `body` are the structs a body is read into, all from one object, and `needs` its fields that cannot be left out
    beside those without a default. `reply` is a struct, or a media type for what is not JSON. `refuses` are the
    statuses that its errors have.
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
    success: int = 200
    refuses: tuple[int, ...] = ()


_ASKING = (404, 413, 422, 429, 502, 504)

OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/health", "Whether the server runs", shapes.Health, open=True),
    Operation("GET", "/openapi.json", "This document", JSON),
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
    504: "The model's server did not answer in time",
    507: "Files cannot be kept now",
}


@cache
def document() -> bytes:
    """The document, as JSON."""
    return msgspec.json.format(msgspec.json.encode(described(OPERATIONS)), indent=1) + b"\n"


def described(operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes."""
    kinds = [kind for each in operations for kind in (*each.body, each.reply) if isinstance(kind, type)]
    unique = list(dict.fromkeys([*kinds, shapes.ErrorReply]))
    _, schemas = msgspec.json.schema_components(unique, ref_template=_REF)
    paths: dict[str, Any] = {}
    for operation in operations:
        if operation.body:
            schemas[_body_name(operation)] = _merged(operation, schemas)
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
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


def _operation(operation: Operation) -> dict[str, Any]:
    statuses = [*operation.refuses, 400, 403]
    if not operation.open:
        statuses.append(401)
    if operation.body:
        statuses.append(415)
    name = "_".join(part.strip("{}") for part in operation.path.split("/") if part).replace(".", "_")
    described: dict[str, Any] = {
        "operationId": f"{operation.method.lower()}_{name}",
        "summary": operation.summary,
        "responses": {
            str(operation.success): {"description": "Done", "content": _content(operation)},
            **{str(status): _error(status) for status in sorted(set(statuses))},
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
        schema = {"$ref": _REF.format(name=_body_name(operation))}
        described["requestBody"] = {"required": True, "content": {operation.body_type: {"schema": schema}}}
    return described


def _content(operation: Operation) -> dict[str, Any]:
    if isinstance(operation.reply, str):
        return {operation.reply: {"schema": {} if operation.reply == JSON else {"type": "string"}}}
    content: dict[str, Any] = {JSON: {"schema": {"$ref": _REF.format(name=operation.reply.__name__)}}}
    if operation.streams:
        content[EVENTS] = {"schema": {"type": "string"}}
    return content


def _error(status: int) -> dict[str, Any]:
    schema = {"$ref": _REF.format(name=shapes.ErrorReply.__name__)}
    return {"description": _SAID[status], "content": {JSON: {"schema": schema}}}


def _body_name(operation: Operation) -> str:
    return operation.body[-1].__name__ + ("Body" if len(operation.body) > 1 else "")


def _merged(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    """One schema for all that is read from one body."""
    if len(operation.body) == 1 and not operation.needs:
        return dict(schemas[operation.body[0].__name__])
    parts = [schemas[kind.__name__] for kind in operation.body]
    properties = {name: schema for part in parts for name, schema in part["properties"].items()}
    for name in operation.needs:
        properties[name] = {key: value for key, value in properties[name].items() if key != "default"}
    required = [*(name for part in parts for name in part["required"]), *operation.needs]
    return {"type": "object", "properties": properties, "required": sorted(set(required))}


if __name__ == "__main__":
    sys.stdout.write(document().decode())
