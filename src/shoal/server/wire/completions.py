"""The text completions API on the wire: what a body means, and completions as its replies. Pure functions."""

import secrets
import time
from typing import Annotated, Any

import msgspec
from msgspec import Meta, structs

from shoal.runtime.types import Completion, Delta, Request, TokenLogprob
from shoal.server.optillm import OPTIONS
from shoal.server.refusals import Refusal, invalid, read_as
from shoal.server.settings import Preset
from shoal.server.wire.chat_input import Common, Fields, Sampling, extra_of, params_of
from shoal.server.wire.chat_output import DONE, Told, error_event, event

_encode = msgspec.json.Encoder().encode


class Text(Sampling):
    """The body of POST /v1/completions, as far as models and techniques here understand it."""

    prompt: str | list[Any] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: Annotated[int, Meta(ge=1)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


_READ = frozenset((*Common.__struct_fields__, *Text.__struct_fields__, "extra_body", *OPTIONS))


def text_of(body: bytes, n: int) -> Text:
    """The body; refused where it asks for what cannot be done with texts here."""
    text: Text = read_as(body, Text)
    if text.suffix:
        raise invalid("suffix: no text can be put in before another here", "suffix")
    if text.best_of is not None and text.best_of != n:
        raise invalid("best_of: use a technique instead, such as best_of_n(n=4)@MODEL", "best_of")
    if text.echo and text.logprobs is not None:
        raise invalid("echo: a prompt's own logprobs are not to be had here", "echo")
    return text


def text_requests(
    text: Text, fields: Fields, preset: Preset | None, *, to_server: bool, known: frozenset[str]
) -> list[Request]:
    """One Request a prompt."""
    params = params_of(text, preset, extra_of(fields, _READ | known, to_server=to_server))
    if text.logprobs is not None:
        params = structs.replace(params, logprobs=True, top_logprobs=text.logprobs)
    return [Request(prompt=prompt, params=params) for prompt in _prompts(text.prompt)]


def _prompts(prompt: str | list[Any] | None) -> list[str]:
    prompts = [prompt] if isinstance(prompt, str) else prompt or []
    if not prompts:
        raise invalid("prompt: a text, or a list of texts, is needed", "prompt")
    for one in prompts:
        if not isinstance(one, str):
            raise invalid("prompt: only texts can be continued here, not lists of token numbers", "prompt")
    return prompts


class TextReply:
    """The parts of one reply. `echoes` are the prompts, choice by choice, where they stand before their texts."""

    def __init__(self, model: str, echoes: list[str], *, with_usage: bool = False) -> None:
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._echoes = echoes
        self._with_usage = with_usage
        self._begun: set[int] = set()

    def whole(self, completions: list[Completion], usage: dict[str, Any], told: Told) -> bytes:
        choices = [_choice(i, self._echo(i) + completion.text, completion) for i, completion in enumerate(completions)]
        return _encode({**self._head, "choices": choices, "usage": usage, "shoal": told})

    def part(self, index: int, part: Delta | Completion, told: Told | None) -> bytes:
        """A part of choice `index`; of the last, which says why it ended, `told` is told."""
        text = part.text if isinstance(part, Delta) else ""
        if index not in self._begun:
            self._begun.add(index)
            text = self._echo(index) + text
        if isinstance(part, Delta):
            return event({**self._head, "choices": [_choice(index, text, None)]}) if text else b""
        return event({**self._head, "choices": [_choice(index, text, part)], "shoal": told})

    def end(self, usage: dict[str, Any]) -> bytes:
        last = event({**self._head, "choices": [], "usage": usage}) if self._with_usage else b""
        return last + DONE

    def failed(self, refusal: Refusal) -> bytes:
        return error_event(refusal)

    def _echo(self, index: int) -> str:
        return self._echoes[index] if self._echoes else ""


def _choice(index: int, text: str, ended: Completion | None) -> dict[str, Any]:
    logprobs = _logprobs(ended.logprobs) if ended is not None and ended.logprobs is not None else None
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": ended.finish_reason if ended is not None else None,
    }


def _logprobs(tokens: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    """Parallel lists; offsets are in characters from the beginning of the answer."""
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token.token)
    tops = [dict(((token.token, token.logprob), *token.top)) for token in tokens]
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": tops if any(token.top for token in tokens) else None,
        "text_offset": offsets,
    }
