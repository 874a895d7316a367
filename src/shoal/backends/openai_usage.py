"""What a wire request cost, divided exactly among its draws."""

from collections.abc import Sequence

import msgspec
from msgspec import Raw, Struct, structs

from shoal.runtime.backend import Draws
from shoal.runtime.limits import estimated_tokens
from shoal.runtime.types import Completion, Request, Usage

_MOST = 100_000_000  # more tokens than a request can have: the number is wrong

_ABSENT = Raw()


class WireUsage(Struct):
    prompt_tokens: int
    completion_tokens: int


_decode = msgspec.json.Decoder(WireUsage).decode


def share_usage(
    batch: Sequence[Draws], calls: Sequence[list[Completion]], raw: Raw, model: str, id_: str | None = None
) -> list[list[Completion]]:
    """The completions with usage, model and id: prompt tokens on each prompt's first draw, and sums that are exact.

    A wire request of several prompts reports one sum, divided in proportion to their lengths. Where the server reports
    nothing, or nonsense, tokens are estimated at four characters each.
    """
    usage = reported(raw)
    if usage is None:
        return [
            [_with(c, _estimate(d.request, c, first=c is call[0]), model, id_) for c in call]
            for d, call in zip(batch, calls, strict=True)
        ]
    if len(batch) == 1 and len(calls[0]) == 1:
        return [[_with(calls[0][0], Usage(usage.prompt_tokens, usage.completion_tokens, 1), model, id_)]]
    prompts = divide(usage.prompt_tokens, [prompt_chars(draws.request) for draws in batch])
    flat = [completion for call in calls for completion in call]
    tokens = iter(divide(usage.completion_tokens, _weights(flat)))
    return [
        [_with(c, Usage(0 if j else prompt, next(tokens), 1), model, id_) for j, c in enumerate(call)]
        for prompt, call in zip(prompts, calls, strict=True)
    ]


def reported(raw: Raw) -> WireUsage | None:
    """The usage a server reports, or None where it is absent or cannot be."""
    try:
        usage = _decode(raw)
    except (ValueError, RecursionError):
        return None
    sane = 0 <= usage.prompt_tokens <= _MOST and 0 <= usage.completion_tokens <= _MOST
    return usage if sane else None


def present(raw: Raw) -> bool:
    """Whether a field came, and is not null."""
    return raw != _ABSENT and bytes(raw) != b"null"


def divide(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts proportional to `weights`; the parts nearest to one more get what is left over."""
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(weights), len(weights)
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: -(total * weights[i] % whole))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def _weights(completions: Sequence[Completion]) -> list[int]:
    if all(completion.logprobs for completion in completions):
        return [len(completion.logprobs or ()) for completion in completions]
    return [_chars(completion) for completion in completions]


def _chars(completion: Completion) -> int:
    called = sum(len(call.text) for call in completion.tool_calls)
    return len(completion.text) + len(completion.reasoning or "") + called


def prompt_chars(request: Request) -> int:
    return len(request.prompt or "") + sum(len(message.text) for message in request.messages)


def _estimate(request: Request, completion: Completion, *, first: bool) -> Usage:
    prompt = estimated_tokens(prompt_chars(request)) if first else 0
    tokens = len(completion.logprobs) if completion.logprobs else estimated_tokens(_chars(completion))
    return Usage(prompt, tokens, 1, estimated=True)


def _with(completion: Completion, usage: Usage, model: str, id_: str | None) -> Completion:
    return structs.replace(completion, usage=usage, model=model, id=id_)
