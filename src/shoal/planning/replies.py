"""What stand-ins say: replies that techniques can read, once brief and of one mind, once long and all different."""

from collections.abc import Callable
from typing import Any

import msgspec

from shoal.runtime.limits import USUAL_COMPLETION
from shoal.runtime.types import Completion, Request, SamplingParams, TokenLogprob

Replies = Callable[[Request], Completion]
_LONGEST = 4096  # tokens of a reply that is written out
_DEEPEST = 16  # of values within values that a schema asks for
_FILLING = "and "  # about one token, of four characters


def longest(params: SamplingParams) -> int:
    """Tokens of the longest reply; where nothing limits it, of a usual one."""
    limit = params.max_tokens or USUAL_COMPLETION
    return min(limit, max(map(len, params.choices))) if params.choices else limit  # no token is below a character


def brief(request: Request) -> Completion:
    """A short reply; the answer is always the same."""
    return _reply(request, "1. Look.\n2. Think.\nScore: 9\nThe answer is 42.")


def long(request: Request) -> Completion:
    """A reply as long as it may be (up to 4,096 tokens); each draw has an answer of its own."""
    answer = sum((i + 1) * (number + 1) for i, number in enumerate(request.sample)) % 997
    said = f"1. Look at {answer}.\n2. Think.\nScore: {answer % 10}\nThe answer is {answer}."
    spare = min(longest(request.params), _LONGEST) - len(said) // len(_FILLING)
    return _reply(request, f"{_FILLING * spare}\n{said}" if spare > 0 else said)


def _reply(request: Request, text: str) -> Completion:
    params = request.params
    if params.choices:
        text = params.choices[sum(request.sample) % len(params.choices)]
    elif params.json_schema is not None:
        schema = params.json_schema.value()
        text = msgspec.json.encode(_instance(schema, schema, 0)).decode()
    logprobs = (TokenLogprob(text, -1.0, ((text, -1.0),) if params.top_logprobs else ()),) if params.logprobs else None
    return Completion(text, logprobs=logprobs)


def _instance(schema: Any, whole: Any, depth: int) -> Any:
    """A small value of a JSON schema, as far as its usual keywords go."""
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return None
    if "$ref" in schema:
        found = whole
        for name in str(schema["$ref"]).removeprefix("#/").split("/"):
            found = found.get(name, {}) if isinstance(found, dict) else {}
        return _instance(found, whole, depth + 1)
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    if schema.get("enum"):
        return schema["enum"][0]
    for keyword in ("anyOf", "oneOf", "allOf"):
        if schema.get(keyword):
            return _instance(schema[keyword][0], whole, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return _of_kind(kind[0] if isinstance(kind, list) else kind, schema, whole, depth)


def _of_kind(kind: str, schema: dict[str, Any], whole: Any, depth: int) -> Any:
    if kind == "object":
        return {name: _instance(one, whole, depth + 1) for name, one in schema.get("properties", {}).items()}
    if kind == "array":
        return [_instance(schema.get("items", {}), whole, depth + 1)] * max(1, schema.get("minItems", 1))
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    return {"boolean": True, "null": None}.get(kind, "and" * max(1, schema.get("minLength", 1)))
