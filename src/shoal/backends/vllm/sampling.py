"""Requests in vLLM's terms and its outputs in ours; imported in vLLM's process alone."""

from collections.abc import Iterator, Sequence
from typing import Any

from shoal.backends.chat_template import TEMPLATE_EXTRA
from shoal.backends.openai_wire import wire_seed
from shoal.backends.tools import TOOL_EXTRAS
from shoal.backends.vllm.replies import Reader, constraint
from shoal.errors import BadRequest, EngineError
from shoal.runtime.types import Completion, Request, SamplingParams, TokenLogprob, Usage

_NAMES = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "max_tokens")
_EXTRAS = frozenset({"repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "bad_words", "logit_bias"})
_ELSEWHERE = TOOL_EXTRAS | {TEMPLATE_EXTRA}  # read where the prompt is written, and where the reply is


def sampling(request: Request, n: int, defaults: dict[str, Any], *, stream: bool, reader: Reader | None = None) -> Any:
    """vLLM's SamplingParams for n draws; `defaults` are the model's own for what the request leaves open."""
    from vllm import SamplingParams as Theirs
    from vllm.sampling_params import RequestOutputKind

    params = request.params
    given = {"max_tokens": None, **defaults}
    given |= {name: value for name in _NAMES if (value := getattr(params, name)) is not None}
    given |= _extras(params)
    return Theirs.from_optional(
        n=n,
        seed=wire_seed(request),
        stop=list(params.stop),
        logprobs=params.top_logprobs if params.logprobs or params.top_logprobs else None,
        structured_outputs=constraint(params) if reader is None else reader.constraint,
        skip_special_tokens=reader is None or reader.skip_special_tokens,
        # Text that nobody reads before it is whole costs a third of the throughput to hand over in pieces.
        output_kind=RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY,
        **given,
    )


def scoring() -> Any:
    """Draw nothing to speak of; give the log-probability of each token of the prompt."""
    from vllm import SamplingParams as Theirs
    from vllm.sampling_params import RequestOutputKind

    return Theirs(
        max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
    )


def _extras(params: SamplingParams) -> dict[str, Any]:
    extra: dict[str, Any] = params.extra.value() if params.extra else {}
    if unknown := sorted(extra.keys() - _EXTRAS - _ELSEWHERE):
        known = ", ".join(sorted(_EXTRAS | _ELSEWHERE))
        raise BadRequest(f"the engine knows no {', '.join(unknown)}; of extras it takes {known}")
    return {name: value for name, value in extra.items() if name in _EXTRAS}


class Draft:
    """A draw as it comes, in one piece or in many."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self.ids: list[int] = []
        self._logprobs: list[Any] = []

    def extend(self, output: Any) -> str:
        """Take in the next piece; its text."""
        self._text.append(output.text)
        self.ids += output.token_ids
        self._logprobs += output.logprobs or ()
        self._end = output
        text: str = output.text
        return text

    def completion(self, prompt_tokens: int, params: SamplingParams) -> Completion:
        """The finished draw."""
        if self._end.finish_reason not in ("stop", "length"):
            raise EngineError(f"the engine gave a draw up ({self._end.finish_reason})")
        text = "".join(self._text)
        return Completion(
            text,
            self._end.finish_reason,
            Usage(prompt_tokens, len(self.ids), calls=1),
            logprobs=self._named(text, params.top_logprobs) if params.logprobs else None,
        )

    def _named(self, text: str, top: int) -> tuple[TokenLogprob, ...]:
        """The tokens of the text: neither the one that ends the turn nor what belongs to a stop string alone."""
        named = [_token(token, at, top) for token, at in zip(self.ids, self._logprobs, strict=True)]
        reason = self._end.stop_reason
        if isinstance(reason, str):
            return tuple(_within(named, len(text)))
        if self._end.finish_reason == "stop" and (reason is None or not text.endswith(named[-1].token)):
            named.pop()
        return tuple(named)


def _within(named: Sequence[TokenLogprob], length: int) -> Iterator[TokenLogprob]:
    """The tokens that begin in the first `length` characters."""
    place = 0
    for token in named:
        if place >= length:
            return
        yield token
        place += len(token.token)


def _token(token: int, position: Any, top: int) -> TokenLogprob:
    likeliest = sorted((found for found in position.values() if found.rank <= top), key=lambda found: found.rank)
    found = position[token]
    return TokenLogprob(_spelt(found), found.logprob, tuple((_spelt(each), each.logprob) for each in likeliest))


def _spelt(found: Any) -> str:
    return found.decoded_token or ""


def completions(output: Any, params: SamplingParams, reader: Reader | None = None) -> list[Completion]:
    """All draws of a finished request; the prompt is paid for once, with the first."""
    drawn = []
    for i, each in enumerate(sorted(output.outputs, key=lambda one: one.index)):
        draft = Draft()
        draft.extend(each)
        drawn.append(draft.completion(0 if i else len(output.prompt_token_ids), params))
        if reader is not None:
            drawn[-1] = reader.whole(drawn[-1], draft.ids)
    return drawn


def scored(output: Any, option: Sequence[int], request: Request, tokenizer: Any) -> Completion:
    """The choice as if it had been drawn: its tokens are the last of the prompt."""
    kept = option[: request.params.max_tokens]
    positions = output.prompt_logprobs[-len(option) :][: len(kept)]
    named = tuple(
        TokenLogprob(tokenizer.decode([token]), position[token].logprob)
        for token, position in zip(kept, positions, strict=True)
    )
    (choice,) = request.params.choices
    whole = len(kept) == len(option)
    text = choice if whole else tokenizer.decode(kept)
    prompt = len(output.prompt_token_ids) - len(option)
    return Completion(text, "stop" if whole else "length", Usage(prompt, len(kept), calls=1), logprobs=named)
