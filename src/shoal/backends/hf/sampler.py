"""One token for every sequence of a step: each by its own parameters, constraint and random numbers.

It plugs into transformers as a logits processor: what it chose comes back as the only token left, so that whatever
picks tokens there picks these.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shoal.backends.hf.sequence import Sequence as Row
from shoal.backends.hf.sequence import Vocabulary
from shoal.errors import EngineError
from shoal.runtime.types import SamplingParams

Warp = Callable[[Any, Any], Any]
_DEFAULTS = ("temperature", "top_p", "top_k", "min_p")


class Sampler:
    """Chooses tokens. `defaults` are the model's own temperature and the like, for requests that leave them open."""

    def __init__(self, vocabulary: Vocabulary, defaults: dict[str, Any], name: str) -> None:
        import torch

        self._torch = torch
        self._ends = sorted(vocabulary.ends)
        self._defaults = {key: value for key, value in defaults.items() if key in _DEFAULTS and value is not None}
        self._penalty = defaults.get("repetition_penalty")
        self._name = name
        self._warps: dict[tuple[Any, ...], Warp | None] = {}

    def step(self, rows: Sequence[Row], scores: Any) -> Any:
        """Choose for all rows and give each its token; `scores` is [rows, vocabulary], and so is what is returned."""
        torch = self._torch
        live = [i for i, row in enumerate(rows) if not row.done]
        raw = scores.float()
        with torch.inference_mode():
            shaped = self._shaped(rows, live, raw)
            chosen = torch.zeros(len(rows), dtype=torch.long, device=raw.device)
            for warp, group in self._groups(rows, live).items():
                part = shaped if len(group) == len(rows) else shaped[group]
                where = torch.tensor(group, device=raw.device)
                chosen[where] = self._choose(part, warp, [rows[i] for i in group])
            tokens = chosen.tolist()
            known = self._logprobs(rows, live, raw, chosen)
        for i in live:
            if not rows[i].done:
                self._give(rows[i], tokens[i], *known.get(i, (0.0, ())))
        only = torch.full_like(scores, float("-inf"))
        return only.scatter_(1, chosen[:, None], 0.0)

    def _give(self, row: Row, token: int, logprob: float, top: Sequence[tuple[int, float]]) -> None:
        try:
            row.take(token, logprob, top)
        except Exception as error:  # noqa: BLE001 - what one sequence cannot do is no other's concern
            row.fail(EngineError(f"{type(error).__name__}: {error}", endpoint=self._name))

    # Before the choice

    def _shaped(self, rows: Sequence[Row], live: Iterable[int], raw: Any) -> Any:
        """The scores under each row's constraint and penalties; a copy where there are any."""
        special = [i for i in live if self._is_special(rows[i])]
        if not special:
            return raw
        shaped = raw.clone()
        for i in special:
            row = rows[i]
            self._penalize(row, shaped[i])
            if not row.may_end and row.matcher is None:
                shaped[i, self._ends] = float("-inf")
        self._constrain(rows, special, shaped)
        return shaped

    def _is_special(self, row: Row) -> bool:
        params = row.params
        penalty = params.presence_penalty or params.frequency_penalty or row.repetition_penalty or self._penalty
        return bool(penalty) or row.matcher is not None or not row.may_end

    def _penalize(self, row: Row, scores: Any) -> None:
        torch, params = self._torch, row.params
        if penalty := row.repetition_penalty or self._penalty:
            seen = torch.tensor(sorted({*row.prompt, *row.draft.ids}), device=scores.device)
            before = scores[seen]
            scores[seen] = torch.where(before < 0, before * penalty, before / penalty)
        if row.draft.ids and (params.presence_penalty or params.frequency_penalty):
            ids = torch.tensor(row.draft.ids, device=scores.device)
            drawn, counts = torch.unique(ids, return_counts=True)
            scores[drawn] -= (params.presence_penalty or 0.0) + (params.frequency_penalty or 0.0) * counts

    def _constrain(self, rows: Sequence[Row], special: Iterable[int], scores: Any) -> None:
        bound = [i for i in special if rows[i].matcher is not None]
        if not bound:
            return
        import xgrammar

        mask = xgrammar.allocate_token_bitmask(len(rows), scores.shape[1])
        for i in bound:
            rows[i].matcher.fill_next_token_bitmask(mask, i)
        xgrammar.apply_token_bitmask_inplace(scores, mask.to(scores.device), indices=bound)

    # The choice

    def _groups(self, rows: Sequence[Row], live: Iterable[int]) -> dict[tuple[Any, ...], list[int]]:
        """Rows by how they sample."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for i in live:
            groups.setdefault(self._key(rows[i].params), []).append(i)
        return groups

    def _key(self, params: SamplingParams) -> tuple[Any, ...]:
        given = ((getattr(params, name), self._defaults.get(name)) for name in _DEFAULTS)
        return tuple(default if value is None else value for value, default in given)

    def _choose(self, scores: Any, key: tuple[Any, ...], rows: Sequence[Row]) -> Any:
        """A token a row, by inverting the cumulative distribution at the row's next random number.

        One number a token, drawn on the CPU: the same seed means the same numbers on every device.
        """
        torch = self._torch
        if key[0] == 0:
            return scores.argmax(dim=-1)
        if (warp := self._warp(key)) is not None:
            scores = warp(None, scores)
        mass = scores.softmax(dim=-1).cumsum(dim=-1)
        total = mass[:, -1:].contiguous()
        uniform = torch.tensor([[row.uniform()] for row in rows], dtype=mass.dtype).to(mass.device)
        found = torch.searchsorted(mass, uniform * total, right=True)
        last = torch.searchsorted(mass, total)  # the last token that has any probability
        for row, whole in zip(rows, torch.isfinite(total[:, 0]).tolist(), strict=True):
            if not whole:
                message = 'the model gave no probabilities (NaN); try options = { dtype = "float32" }'
                row.fail(EngineError(message, endpoint=self._name))
        return torch.minimum(found, last).clamp(max=scores.shape[1] - 1)[:, 0]

    def _warp(self, key: tuple[Any, ...]) -> Warp | None:
        if key not in self._warps:
            self._warps[key] = _warp(*key)
        return self._warps[key]

    # After the choice

    def _logprobs(
        self, rows: Sequence[Row], live: Iterable[int], raw: Any, chosen: Any
    ) -> dict[int, tuple[float, list[tuple[int, float]]]]:
        """For rows that want them: the token's log-probability before temperature and the like, and the likeliest."""
        wanted = [i for i in live if rows[i].params.logprobs]
        if not wanted:
            return {}
        logs = raw[wanted].log_softmax(dim=-1)
        own = logs.gather(1, chosen[wanted][:, None])[:, 0].tolist()
        tops = likeliest(logs, [rows[i].params.top_logprobs for i in wanted])
        return {i: (value, top) for i, value, top in zip(wanted, own, tops, strict=True)}


def likeliest(logs: Any, counts: Sequence[int]) -> list[list[tuple[int, float]]]:
    """For each row of log-probabilities, so many of the likeliest tokens with theirs, best first."""
    most = max(counts, default=0)
    if not most:
        return [[] for _ in counts]
    values, tokens = logs.topk(min(most, logs.shape[-1]), dim=-1)
    pairs = zip(tokens.tolist(), values.tolist(), counts, strict=True)
    return [list(zip(row, value, strict=True))[:count] for row, value, count in pairs]


def _warp(temperature: float | None, top_p: float | None, top_k: int | None, min_p: float | None) -> Warp | None:
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    warps: list[Warp] = []
    if temperature not in (None, 1.0):
        warps.append(TemperatureLogitsWarper(float(temperature)))
    if top_k is not None and top_k > 0:
        warps.append(TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1:
        warps.append(TopPLogitsWarper(top_p))
    if min_p:
        warps.append(MinPLogitsWarper(min_p))
    return LogitsProcessorList(warps) if warps else None
