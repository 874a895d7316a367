"""The transformers engine's continuous batching: sequences join and leave the batch at every step."""

import dataclasses
import itertools
import threading
import time
from typing import Any, ClassVar

from shoal.backends.hf.model import LoadedModel
from shoal.backends.hf.sampler import Sampler
from shoal.backends.hf.sequence import Call, Sequence, advance, engine_error
from shoal.errors import EngineError, ModelError
from shoal.runtime.types import SamplingParams

_SEQUENCES = {"cuda": 256}
_SEQUENCES_ELSEWHERE = 64
_PREFILL = 512  # prompt tokens a step, beside one of each sequence, where there is no GPU
_PAGE = 32  # tokens; the prefix cache shares whole pages
_CACHE_GB = 1.0  # where there is no GPU: the library would take most of the machine's memory
_GPU_SHARE = 0.8
_ONE_AT_A_TIME = 0.5  # seconds to wait for the library's outputs before a look at whether it still runs
_A_MOMENT = 0.002  # seconds
_PATIENCE = 30.0  # seconds for a step to end: a thread that is left in PyTorch would bring the whole process down


class Continuous:
    """Sequences in the library's own loop, which runs in a thread of its own.

    Draws of one prompt share its prefill: the library forks them when all but its last token is read. Equal beginnings
    of different prompts are read once while the cache keeps them.
    """

    def __init__(self, model: LoadedModel) -> None:
        from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor

        self._model = model
        kind = model.device.partition(":")[0]
        self._most = model.options.max_sequences or _SEQUENCES.get(kind, _SEQUENCES_ELSEWHERE)
        self._sampler = Sampler(model.vocabulary, model.defaults, model.name)
        self._rows: list[Sequence] = []  # of the step under way
        self._running: dict[str, Sequence] = {}
        self._ids = itertools.count()
        self._manager: Any = None
        self._listener: threading.Thread | None = None

        class Choosing(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
            """The sampler in the library's terms. It learns which rows a step has just before that step."""

            supported_kwargs: ClassVar[dict[str, type]] = {}
            ignored_kwargs: ClassVar[tuple[str, ...]] = ()

            def fill_defaults(_, int32_tensor: Any) -> None:  # noqa: N805 - `self` is the batch
                int32_tensor.zero_()

            def prepare_tensor_args(_, requests: Any) -> Any:  # noqa: N805
                self._rows = [self._running.get(one.state.request_id, self._over) for one in requests]
                return self._no_arguments

            def __call__(_, scores: Any, __: Any) -> Any:  # noqa: N805
                return self._step(scores)

        import torch

        self._no_arguments = torch.zeros(0, dtype=torch.int32)
        self._choosing = Choosing()
        self._over = Sequence(
            model.vocabulary, SamplingParams(max_tokens=1), [], 0
        )  # stands for rows that nobody waits for
        self._over.done = True

    def start(self) -> None:
        """Run the library's loop. Raises where it does not do this model."""
        from transformers import LogitsProcessorList
        from transformers.generation.continuous_batching.cb_logits_processors import (
            ContinuousBatchingLogitsProcessorList,
        )

        manager = self._model.model.init_continuous_batching(
            generation_config=self._generation_config(), continuous_batching_config=self._batching_config()
        )
        manager.logit_processor = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([self._choosing]))
        manager.logit_processor.tensors_required = 1
        manager.start()  # its thread is as much a daemon as the one that starts it
        self._manager = manager
        self._listener = threading.Thread(target=self._listen, args=(manager,), daemon=True)
        self._listener.start()

    def prove(self) -> None:
        """Draw one token. Raises EngineError where the library fails at it."""
        one = Sequence(self._model.vocabulary, SamplingParams(temperature=0.0, max_tokens=1), [0, 0], 0)
        self._add([one])
        while not one.done:
            time.sleep(_A_MOMENT)
        if one.error is not None:
            raise one.error

    def _generation_config(self) -> Any:
        from transformers import GenerationConfig

        ends = sorted(self._model.vocabulary.ends)
        return GenerationConfig(do_sample=False, eos_token_id=ends or -1, pad_token_id=0, max_new_tokens=1)

    def _batching_config(self) -> Any:
        from transformers import ContinuousBatchingConfig

        model, options = self._model, self._model.options
        known = {field.name for field in dataclasses.fields(ContinuousBatchingConfig)}
        paged = "page_size" if "page_size" in known else "block_size"
        wanted: dict[str, Any] = {
            "max_requests_per_batch": self._most,
            "auto_switch_to_flash": False,  # it would fetch and run a kernel from the hub
            "use_cuda_graph": False,  # choosing tokens needs the host
            "use_async_batching": False,
            paged: _PAGE,
        }
        if model.device.startswith("cuda") and options.cache_gb is None:
            wanted["max_memory_percent"] = _GPU_SHARE
        else:
            wanted |= {"num_blocks": self._blocks(options.cache_gb or _CACHE_GB), "max_batch_tokens": _PREFILL}
        return ContinuousBatchingConfig(**{name: value for name, value in wanted.items() if name in known})

    def _blocks(self, gigabytes: float) -> int:
        """Pages that so much memory holds: at least one sequence as long as the context, at most all of them."""
        config = self._model.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        a_token = 2 * config.num_hidden_layers * heads * size * self._model.model.dtype.itemsize
        a_sequence = 2 + -(-self._model.context * 5 // (4 * _PAGE))  # the library keeps some free
        return max(a_sequence, min(int(gigabytes * 2**30 / (a_token * _PAGE)), self._most * a_sequence))

    # In the engine's thread

    def submit(self, call: Call) -> None:
        """Add the call's sequences, after all that were added before."""
        if self._manager is None or not self._manager.is_running():
            self.close()
            self.start()
        drawn = call.sequences
        together = len(drawn) > 1 and len(drawn[0].prompt) > 1  # all but the last token of a prompt are shared
        for group in [drawn] if together else [[one] for one in drawn]:
            self._add(group)

    def _add(self, group: list[Sequence]) -> None:
        first, *others = group
        first.name = f"shoal{next(self._ids)}"
        for i, other in enumerate(others):
            other.name = f"{first.name}__child#{i}"  # what the library calls the draws that it forks
        self._running.update({sequence.name: sequence for sequence in group})
        self._manager.num_return_sequences = len(group)
        free = first.ignore_end and first.matcher is None
        taken = self._manager.add_request(
            first.prompt, request_id=first.name, max_new_tokens=first.limit, eos_token_id=-1 if free else None
        )
        if taken is None:
            self._fail_all(EngineError("the batch has ended", endpoint=self._model.name))

    def cancel(self, call: Call) -> None:
        """Take the call's sequences out before the next step. From any thread."""
        call.drop()
        for sequence in call.sequences:
            self._let_go(sequence)

    def _let_go(self, sequence: Sequence) -> None:
        if self._running.pop(sequence.name, None) is not None and (manager := self._manager) is not None:
            manager.cancel_request(sequence.name)

    # In the library's thread

    def _step(self, scores: Any) -> Any:
        rows = self._rows + [self._over] * (scores.shape[0] - len(self._rows))  # the library may pad a step
        under_way = [row for row in rows if not row.done]
        only = self._sampler.step(rows, scores)
        for row in under_way:
            if row.done:
                self._let_go(row)
        advance(under_way, self._model.name)
        return only

    # Beside it

    def _listen(self, manager: Any) -> None:
        """Hear of what the library could not do; what it did is known from each step."""
        while manager.is_running():
            output = manager.get_result(timeout=_ONE_AT_A_TIME)
            if output is not None and output.error:
                sequence = self._running.pop(output.request_id, None)
                if sequence is not None:
                    sequence.fail(engine_error(output.error, self._model.name))
                    advance([sequence], self._model.name)
        if manager is self._manager:
            fatal = manager.background_thread_status.fatal_error
            self._fail_all(engine_error(str(fatal or "the batch has ended"), self._model.name))

    def _fail_all(self, error: ModelError) -> None:
        running, self._running = list(self._running.values()), {}
        for sequence in running:
            sequence.fail(error)
        advance(running, self._model.name)

    def close(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.stop(block=True, timeout=_PATIENCE, hard_stop=True)
        self._fail_all(EngineError("the engine was closed", endpoint=self._model.name))
