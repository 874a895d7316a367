"""vLLM's engine, asked in our terms; imported in vLLM's process alone."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from msgspec import Struct

from shoal.backends.engine_wire import Answer, Draw, Drawn, Piece, Refused
from shoal.backends.vllm.options import Setup
from shoal.backends.vllm.prompts import choice_tokens, tokens
from shoal.backends.vllm.replies import Parsers, Reader, one_line
from shoal.backends.vllm.sampling import Draft, completions, sampling, scored, scoring
from shoal.errors import BadRequest, ContextLengthExceeded, EngineError, ModelError
from shoal.runtime.backend import scores
from shoal.runtime.types import Completion, Delta, Request, Usage


class EngineDied(Exception):
    """The engine will not answer any call any more."""


class _Call(Struct):
    """A call under way: its prompt's tokens, of which the last are the option where there is one to score."""

    asked: Draw
    ids: list[int]
    option: list[int]
    draft: Draft
    reader: Reader | None = None


class VllmEngine:
    """The engine, loaded, for a single thread. Raises whatever vLLM does where a model does not load.

    It is vLLM's synchronous one, as its own offline call uses it: for draws in bulk the asynchronous one costs more
    than a small model.
    """

    def __init__(self, setup: Setup) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        options = {
            "enable_prefix_caching": True,
            "scheduling_policy": "priority",  # oldest program first, in its queue as in ours
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            **setup.engine_options,
            "model": setup.model,
            "enable_lora": bool(setup.adapters),
        }
        self._engine = LLMEngine.from_engine_args(EngineArgs(**options), usage_context=UsageContext.LLM_CLASS)
        self._by_age = options["scheduling_policy"] == "priority"
        self._tokenizer = deepcopy(self._engine.get_tokenizer())  # threads of the engine's use its own
        self._context: int = self._engine.model_config.max_model_len
        self._defaults: dict[str, Any] = self._engine.model_config.get_diff_sampling_param()
        self._parsers = Parsers(
            setup.tool_call_parser, setup.reasoning_parser, self._tokenizer, self._engine.model_config
        )
        self._adapters = _adapters(setup)
        self._calls: dict[str, _Call] = {}

    @property
    def busy(self) -> bool:
        """Whether a step would bring anything nearer to its end."""
        return bool(self._calls)

    def count(self, request: Request) -> int:
        return len(tokens(self._tokenizer, request))

    def add(self, asked: Draw) -> Answer | None:
        """Take a call into the batch; its answer, if it has one already. Raises ModelError where it is refused."""
        if scores(asked.request):
            return self._add_score(asked)
        ids = self._prompt(asked.request)
        self._begin(_Call(asked, ids, [], Draft(), self._parsers.reader(asked.request, ids)))
        return None

    def _add_score(self, asked: Draw) -> Answer | None:
        option = choice_tokens(self._tokenizer, asked.request)
        ids = self._prompt(asked.request, len(option))
        if not option:
            return Drawn(asked.id, [Completion("", "stop", Usage(len(ids), 0, calls=1), logprobs=())])
        self._begin(_Call(asked, [*ids, *option], option, Draft()))
        return None

    def _prompt(self, request: Request, option: int = 0) -> list[int]:
        """The tokens of the prompt, if they and the reply fit the context."""
        ids = tokens(self._tokenizer, request)
        if not ids:
            raise BadRequest("an empty prompt cannot be continued")
        reply = option + 1 if option else request.params.max_tokens or 1
        if len(ids) + reply > self._context:
            raise ContextLengthExceeded(
                f"{len(ids)} tokens of prompt and {reply} of reply do not fit the context of {self._context}"
            )
        return ids

    def _begin(self, call: _Call) -> None:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        asked = call.asked
        name = str(asked.id)
        try:
            params = scoring() if call.option else self._sampling(call)
            self._engine.add_request(
                name,
                tokens_input(call.ids),
                params,
                lora_request=self._adapters.get(asked.adapter),
                priority=asked.age if self._by_age else 0,
            )
        except EngineDeadError:
            raise EngineDied from None
        except (VLLMClientError, ValueError, TypeError, AttributeError) as error:  # it reads what it is given as it is
            self._engine.abort_request([name])  # some of its draws may have been taken in
            raise BadRequest(one_line(error, 500)) from None
        self._calls[name] = call

    def _sampling(self, call: _Call) -> Any:
        asked = call.asked
        return sampling(asked.request, asked.n, self._defaults, stream=asked.stream, reader=call.reader)

    def drop(self, id: int) -> None:
        """Take a call out of the batch, if it is still there."""
        if self._calls.pop(str(id), None) is not None:
            self._engine.abort_request([str(id)])

    def step(self) -> list[Answer]:
        """Bring all calls one token on; what that finished, and the text of those that stream."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            outputs = self._engine.step()
        except EngineDeadError:
            raise EngineDied from None
        return [answer for output in outputs for answer in self._answers(output)]

    def _answers(self, output: Any) -> Iterator[Answer]:
        call = self._calls.get(output.request_id)
        if call is None:  # dropped
            return
        asked = call.asked
        if asked.stream:
            shown = _piece(call, output.outputs[0])
            if shown.text or shown.reasoning:
                yield Piece(asked.id, shown.text, shown.reasoning)
        if output.finished:
            del self._calls[output.request_id]
            try:
                yield from self._end(call, output)
            except ModelError as error:
                yield refused(asked.id, error)

    def _end(self, call: _Call, output: Any) -> Iterator[Answer]:
        request, asked = call.asked.request, call.asked
        if call.option:
            yield Drawn(asked.id, [scored(output, call.option, request, self._tokenizer)])
        elif not asked.stream:
            yield Drawn(asked.id, completions(output, request.params, call.reader))
        else:
            whole = call.draft.completion(len(call.ids), request.params)
            if call.reader is not None:
                rest, whole = call.reader.after(call.reader.whole(whole, call.draft.ids))
                if rest.text or rest.reasoning:
                    yield Piece(asked.id, rest.text, rest.reasoning)
            yield Drawn(asked.id, [whole])

    def close(self) -> None:
        """Let the GPU go."""
        self._engine.engine_core.shutdown()


def _piece(call: _Call, output: Any) -> Delta:
    text = call.draft.extend(output)
    return Delta(text) if call.reader is None else call.reader.piece(text, output.token_ids)


def refused(id: int, error: Exception) -> Refused:
    if isinstance(error, ContextLengthExceeded):
        return Refused(id, "context", str(error))
    if isinstance(error, BadRequest):
        return Refused(id, "request", str(error))
    return Refused(id, "engine", str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}")


def _adapters(setup: Setup) -> dict[str, Any]:
    from vllm.lora.request import LoRARequest

    return {name: LoRARequest(name, i, path) for i, (name, path) in enumerate(setup.adapters.items(), 1)}
