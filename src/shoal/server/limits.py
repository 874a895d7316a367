"""What a body may not say: where a request goes, and more than one request may cost."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw

from shoal.runtime.budget import Budget
from shoal.runtime.model import Applied
from shoal.runtime.types import Request
from shoal.server.refusals import Refusal, invalid
from shoal.server.settings import Settings
from shoal.techniques.opening import bases

# Where a request goes and with whose key is the operator's to say. Some servers behind this one take these fields from
# bodies, so they are refused and not passed on.
ROUTING = frozenset(
    (
        *("api_base", "api_key", "api_keys", "api_type", "api_version", "auth", "authorization", "azure_endpoint"),
        *("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "azure_ad_token", "base_model"),
        *("base_url", "basic_auth", "credentials", "custom_llm_provider", "custom_provider", "default_headers"),
        *("endpoint", "extra_headers", "fallbacks", "host", "headers", "http_client", "http_proxy", "https_proxy"),
        *(
            "model_list",
            "models",
            "organization",
            "proxies",
            "proxy",
            "proxy_url",
            "server_url",
            "token",
            "upstream",
            "url",
        ),
        *("route", "user_config", "vertex_credentials", "webhook", "webhook_url", "x-api-key"),
    )
)

_MOST = 1e15
_raw_items = msgspec.json.Decoder(list[Raw]).decode
_MOST_OPTION = 1000
_LONGEST_SCHEMA = 16_384  # what a grammar takes to make grows with the square of it, and all wait meanwhile
_LONGEST_PATTERNS = 128  # characters: with the third power of these


def refuse_routing(fields: Mapping[str, Raw]) -> None:
    """Refusal for a body that would say where its request goes. Its values are not repeated."""
    if ROUTING.isdisjoint(fields):
        return
    for name in sorted(ROUTING & fields.keys()):
        raise invalid(f"{name}: where a request goes, and with which key, is not the client's to say", name)


def refuse_dear(fields: Mapping[str, Raw], n: int, budget: Budget, settings: Settings) -> None:
    """Refusal for a body that passes through and asks for more than one request may."""
    drawn = _number(fields.get("best_of"))
    if drawn > settings.max_n:
        raise invalid(f"best_of={drawn}: at most {settings.max_n} answers to a request", "best_of")
    n = max(n, drawn)
    asked = n * _prompts(fields.get("prompt"))
    if budget.calls is not None and asked > budget.calls:
        raise _over(f"{asked} answers", f"{budget.calls} calls", "n" if asked == n else "prompt")
    refuse_long_conversation(_turns(fields.get("messages")), settings)
    for name in ("max_tokens", "max_completion_tokens"):
        most = _number(fields.get(name)) * n
        if budget.tokens is not None and most > budget.tokens:
            raise _over(f"{most} tokens", f"{budget.tokens}", name)


def refuse_long_conversation(messages: int, settings: Settings) -> None:
    """Refusal for more messages than a request may have."""
    if messages > settings.max_messages:
        raise invalid(f"messages: {messages} are more than the {settings.max_messages} allowed", "messages")


def refuse_extreme(model: object) -> None:
    """Refusal for a technique with a number so large that no request could use it up, whatever it may stand for."""
    stack = [model]
    while stack:
        item = stack.pop()
        options = item.options if isinstance(item, Applied) else item.keywords if isinstance(item, partial) else {}
        for name, value in options.items():
            if type(value) is int and value > _MOST_OPTION:
                raise invalid(f"{name}: numbers in a technique's options are at most {_MOST_OPTION}", "model")
        if isinstance(item, Applied):
            stack += (item.technique, item.model)
        stack += item if isinstance(item, list | tuple) else options.values()


def refuse_long_schema(request: Request, model: object) -> None:
    """Refusal for a schema that an engine of this process would make a grammar of for too long."""
    schema = request.params.json_schema
    if schema is None or all(base.relay is not None for base in bases(model)):
        return
    if len(schema.text) > _LONGEST_SCHEMA:
        message = f"the schema is longer than the {_LONGEST_SCHEMA} bytes that an engine in this process takes"
        raise invalid(message, "response_format")
    if _patterns(schema.value()) > _LONGEST_PATTERNS:
        most = f"{_LONGEST_PATTERNS} characters that an engine in this process takes"
        raise invalid(f"the schema's patterns are together longer than the {most}", "response_format")


def _patterns(schema: object) -> int:
    """How many characters the patterns in a schema have. Refusal for a number with more digits than numbers have."""
    found, stack = 0, [schema]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            pattern = part.get("pattern")
            found += len(pattern) if isinstance(pattern, str) else 0
            stack += part.values()
        elif isinstance(part, list):
            stack += part
        elif isinstance(part, int) and abs(part) > 2**63:  # a bound becomes a grammar of its digits
            raise invalid("a number in the schema has more than 64 bits", "response_format")
    return found


def _over(asked: str, allowed: str, param: str) -> Refusal:
    message = f"this may take {asked}, and a request may take {allowed}"
    return Refusal(400, message, kind="budget_exceeded", param=param, code="budget_exceeded")


def _number(raw: Raw | None) -> int:
    """A field where it is a number; what else it is, is for the model's server to refuse."""
    value = _decoded(raw)
    return int(min(value, _MOST)) if isinstance(value, int | float) and value > 0 else 0


def _decoded(raw: Raw | None) -> Any:
    try:
        return None if raw is None else msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return None


def _prompts(raw: Raw | None) -> int:
    """How many prompts a field holds: texts, or lists of tokens. One list of tokens is one."""
    value = _decoded(raw)
    return len(value) if isinstance(value, list) and value and not isinstance(value[0], int) else 1


def _turns(raw: Raw | None) -> int:
    try:
        return 0 if raw is None else len(_raw_items(raw))
    except (ValueError, RecursionError):
        return 0
