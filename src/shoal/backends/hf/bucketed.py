"""The transformers engine's batches by length, for models and devices that continuous batching does not do."""

import threading
from typing import Any

from shoal.backends.hf.model import LoadedModel
from shoal.backends.hf.sampler import Sampler
from shoal.backends.hf.sequence import Call, Sequence, advance, engine_error

_SEQUENCES = {"cuda": 128}
_SEQUENCES_ELSEWHERE = 32
_NEAR = 64  # tokens: prompts may differ by so much, or by a factor of two
_PATIENCE = 30.0  # seconds for a step to end: a thread that is left in PyTorch would bring the whole process down


class Bucketed:
    """Batches of prompts of like length, by the library's `generate`, in a thread of its own.

    A batch begins with the oldest sequence and takes others of like length, oldest first. Draws of one prompt share
    its prefill. Sequences that are over leave when no more than half of a batch is under way; then, or when as many
    that are new wait as are under way, those join: the others' tokens are read again with the new prompts.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._sampler = Sampler(model.vocabulary, model.defaults, model.name)
        kind = model.device.partition(":")[0]
        self._most = model.options.max_sequences or _SEQUENCES.get(kind, _SEQUENCES_ELSEWHERE)
        self._waiting: list[Sequence] = []
        self._changed = threading.Condition()
        self._arrivals = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="shoal-transformers-batches", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, call: Call) -> None:
        """Add the call's sequences, after all that were added before."""
        with self._changed:
            self._waiting += call.sequences
            self._arrivals += 1
            self._changed.notify()

    def cancel(self, call: Call) -> None:
        """Let the call's sequences end with the step under way. From any thread."""
        call.drop()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)

    # In its thread

    def _work(self) -> None:
        while (rows := self._next()) is not None:
            try:
                self._run(rows)
            except Exception as error:  # noqa: BLE001 - what befalls a batch is told to those in it
                for row in rows:
                    if not row.done:
                        row.fail(engine_error(str(error) or type(error).__name__, self._model.name))
                advance(rows, self._model.name)
        self._end()

    def _end(self) -> None:
        left = [row for row in self._waiting if not row.done]
        for row in left:
            row.fail(engine_error("the engine was closed", self._model.name))
        advance(left, self._model.name)

    def _next(self) -> list[Sequence] | None:
        """The oldest sequence and those that go with it; None when the engine is closed."""
        with self._changed:
            while True:
                self._waiting = [row for row in self._waiting if not row.done]
                if self._closed:
                    return None
                if self._waiting:
                    break
                self._changed.wait()
            rows = self._fitting(self._waiting[0])[: self._most]
            taken = {id(row) for row in rows}
            self._waiting = [row for row in self._waiting if id(row) not in taken]
            return rows

    def _fitting(self, first: Sequence) -> list[Sequence]:
        """Those that wait and are of like length, oldest first."""
        length = len(_tokens(first))
        low, high = min(length // 2, length - _NEAR), max(length * 2, length + _NEAR)
        return [row for row in self._waiting if not row.done and low <= len(_tokens(row)) <= high]

    def _run(self, rows: list[Sequence]) -> None:
        import torch

        ids, mask = padded([_tokens(row) for row in rows], self._model.device)
        with torch.inference_mode():
            cache = self._shared_prefill(rows, ids, mask)
            while rows:
                ids = self._generate(rows, ids, mask, cache)
                kept = [i for i, row in enumerate(rows) if not row.done]
                where = torch.tensor(kept, dtype=torch.long, device=ids.device)
                rows, ids = [rows[i] for i in kept], ids[where]
                if rows and self._join(rows):
                    return
                if rows:
                    new = ids.shape[1] - mask.shape[1]
                    mask = torch.cat([mask[where], mask.new_ones((len(rows), new))], dim=1)
                    cache.batch_select_indices(where)

    def _join(self, rows: list[Sequence]) -> bool:
        """Put sequences under way back before those that wait, if any go with them."""
        with self._changed:
            joined = bool(self._fitting(rows[0]))
            if joined:
                self._waiting = rows + self._waiting
            return joined

    def _shared_prefill(self, rows: list[Sequence], ids: Any, mask: Any) -> Any:
        """What the model keeps of the prompts but for their last tokens; equal prompts are read once."""
        import torch
        from transformers import DynamicCache

        cache = DynamicCache(config=self._model.model.config)
        places: dict[tuple[int, ...], int] = {}
        unique = [places.setdefault(tuple(_tokens(row)), len(places)) for row in rows]
        if len(places) == len(rows) or ids.shape[1] < 2:
            return cache
        first = torch.tensor([unique.index(place) for place in range(len(places))], device=ids.device)
        mask_before = mask[first, :-1]
        self._model.model(
            input_ids=ids[first, :-1],
            attention_mask=mask_before,
            position_ids=(mask_before.cumsum(-1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            **self._model.last_scores(1),
        )
        cache.batch_select_indices(torch.tensor(unique, device=ids.device))
        return cache

    def _generate(self, rows: list[Sequence], ids: Any, mask: Any, cache: Any) -> Any:
        """Go on until no more than half of the rows are under way; all tokens, [rows, length]."""
        import torch
        from transformers import GenerationConfig

        enough, seen = len(rows) // 2, self._arrivals

        def choose(_: Any, scores: Any) -> Any:
            under_way = [row for row in rows if not row.done]
            only = self._sampler.step(rows, scores)
            advance(under_way, self._model.name)
            return only

        def over(input_ids: Any, _: Any, **__: Any) -> Any:
            nonlocal seen
            live = [row for row in rows if not row.done]
            end = self._closed or len(live) <= enough
            if not end and seen != self._arrivals and len(live) < self._most:
                seen = self._arrivals
                with self._changed:
                    end = len(self._fitting(live[0])) >= len(live)
            return torch.full((len(rows),), end, dtype=torch.bool, device=input_ids.device)

        config = GenerationConfig(
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            max_new_tokens=max(row.limit - len(row.draft.ids) for row in rows),
        )
        generated = self._model.model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            generation_config=config,
            logits_processor=[choose],
            stopping_criteria=[over],
        )
        if self._closed:
            for row in rows:
                if not row.done:
                    row.fail(engine_error("the engine was closed", self._model.name))
            advance(rows, self._model.name)
        return generated


def _tokens(row: Sequence) -> list[int]:
    return row.prompt + row.draft.ids


def padded(prompts: list[list[int]], device: str) -> tuple[Any, Any]:
    """Token ids and attention mask, [prompts, longest], padded on the left."""
    import torch

    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
