"""The transformers engine's batches by length, for models and devices that continuous batching does not do."""

import threading
from typing import Any

from shoal.backends.hf_model import LoadedModel
from shoal.backends.hf_sampler import Sampler
from shoal.backends.hf_sequence import Call, Sequence, advance, engine_error

_SEQUENCES = {"cuda": 128}
_SEQUENCES_ELSEWHERE = 32
_NEAR = 64  # tokens: prompts may differ by so much, or by a factor of two
_PATIENCE = 30.0  # seconds for a step to end: a thread that is left in PyTorch would bring the whole process down


class Bucketed:
    """Batches of prompts of like length, by the library's `generate`, in a thread of its own.

    A batch begins with the oldest sequence and takes others of like length, oldest first. Draws of one prompt share
    its prefill. Sequences that are over leave a batch when no more than half of it is under way; new ones wait for its
    end.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._sampler = Sampler(model.vocabulary, model.defaults, model.name)
        kind = model.device.partition(":")[0]
        self._most = model.options.max_sequences or _SEQUENCES.get(kind, _SEQUENCES_ELSEWHERE)
        self._waiting: list[Sequence] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="shoal-transformers-batches", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, call: Call) -> None:
        """Add the call's sequences, after all that were added before."""
        with self._changed:
            self._waiting += call.sequences
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
            length = len(self._waiting[0].prompt)
            low, high = min(length // 2, length - _NEAR), max(length * 2, length + _NEAR)
            rows = [row for row in self._waiting if low <= len(row.prompt) <= high][: self._most]
            taken = {id(row) for row in rows}
            self._waiting = [row for row in self._waiting if id(row) not in taken]
            return rows

    def _run(self, rows: list[Sequence]) -> None:
        import torch

        ids, mask = padded([row.prompt for row in rows], self._model.device)
        with torch.inference_mode():
            cache = self._shared_prefill(rows, ids, mask)
            while rows:
                ids = self._generate(rows, ids, mask, cache)
                kept = [i for i, row in enumerate(rows) if not row.done]
                where = torch.tensor(kept, dtype=torch.long, device=ids.device)
                rows, ids = [rows[i] for i in kept], ids[where]
                if rows:
                    new = ids.shape[1] - mask.shape[1]
                    mask = torch.cat([mask[where], mask.new_ones((len(rows), new))], dim=1)
                    cache.batch_select_indices(where)

    def _shared_prefill(self, rows: list[Sequence], ids: Any, mask: Any) -> Any:
        """What the model keeps of the prompts but for their last tokens; equal prompts are read once."""
        import torch
        from transformers import DynamicCache

        cache = DynamicCache(config=self._model.model.config)
        places: dict[tuple[int, ...], int] = {}
        unique = [places.setdefault(tuple(row.prompt), len(places)) for row in rows]
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

        enough = len(rows) // 2

        def choose(_: Any, scores: Any) -> Any:
            under_way = [row for row in rows if not row.done]
            only = self._sampler.step(rows, scores)
            advance(under_way, self._model.name)
            return only

        def over(input_ids: Any, _: Any, **__: Any) -> Any:
            end = self._closed or sum(not row.done for row in rows) <= enough
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


def padded(prompts: list[list[int]], device: str) -> tuple[Any, Any]:
    """Token ids and attention mask, [prompts, longest], padded on the left."""
    import torch

    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
