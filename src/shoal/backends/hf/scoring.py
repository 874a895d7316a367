"""How likely given replies are: the log-probabilities of their tokens, read off in one pass and never generated."""

from typing import Any

from shoal.backends.hf.bucketed import padded
from shoal.backends.hf.model import LoadedModel
from shoal.backends.hf.sampler import likeliest
from shoal.backends.hf.sequence import Call, engine_error
from shoal.errors import ContextLengthExceeded

_TOKENS = 4096  # of prompts and replies in one pass


class Scored:
    """A call with the tokens of its prompt and of the reply to score; its one sequence takes what is read."""

    def __init__(self, call: Call, option: list[int]) -> None:
        self.call = call
        self.option = option
        self.prompt = call.sequences[0].prompt

    @property
    def size(self) -> int:
        return len(self.prompt) + len(self.option)


def scored(model: LoadedModel, call: Call) -> Scored:
    """Prepare to score the only choice of a call. Raises BadRequest where it cannot be."""
    call.sequences = model.sequences(call, constrained=False)
    one = Scored(call, model.option(call))
    if one.size > model.context:
        message = f"{one.size} tokens of prompt and choice do not fit the context of {model.context}"
        raise ContextLengthExceeded(message, endpoint=model.name)
    return one


def score(model: LoadedModel, waiting: list[Scored]) -> None:
    """Score all that wait, several in one pass, and tell their callers."""
    waiting = [one for one in waiting if not one.call.dropped]
    while waiting:
        taken = _first_pass(waiting)
        waiting = waiting[len(taken) :]
        try:
            _read(model, taken)
        except Exception as error:  # noqa: BLE001 - what befalls a pass is told to those in it
            for one in taken:
                one.call.post(engine_error(str(error) or type(error).__name__, model.name))


def _first_pass(waiting: list[Scored]) -> list[Scored]:
    longest = taken = 0
    for one in waiting:
        longest = max(longest, one.size)
        if taken and longest * (taken + 1) > _TOKENS:
            break
        taken += 1
    return waiting[:taken]


def _read(model: LoadedModel, batch: list[Scored]) -> None:
    import torch

    ids, mask = padded([one.prompt + one.option for one in batch], model.device)
    most = max(len(one.option) for one in batch)
    with torch.inference_mode():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        scores = model.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, **model.last_scores(most + 1)
        ).logits[:, -(most + 1) :]
        for one, rows in zip(batch, scores, strict=True):
            # The last row is of what would follow the reply.
            _give(one, rows[most - len(one.option) : most].float().log_softmax(-1))
            one.call.advanced(model.name)


def _give(one: Scored, logs: Any) -> None:
    import torch

    (sequence,) = one.call.sequences
    own = logs.gather(1, torch.tensor(one.option, device=logs.device)[:, None])[:, 0].tolist() if one.option else []
    tops = likeliest(logs, [sequence.params.top_logprobs] * len(one.option))
    given = one.call.request.params.max_tokens
    for token, value, top in list(zip(one.option, own, tops, strict=True))[:given]:
        sequence.read(token, value, top)
    sequence.finish("stop" if given is None or len(one.option) <= given else "length")
