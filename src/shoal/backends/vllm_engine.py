"""vLLM's asynchronous engine, asked in our terms; imported in vLLM's process alone."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from itertools import count
from typing import Any

from shoal.backends.engine_wire import Draw
from shoal.backends.vllm_options import Setup
from shoal.backends.vllm_prompts import choice_tokens, tokens
from shoal.backends.vllm_sampling import Draft, completions, sampling, scored, scoring
from shoal.errors import BadRequest, ContextLengthExceeded, EngineError
from shoal.runtime.backend import scores
from shoal.runtime.types import Completion, Request, Usage


class EngineDied(Exception):
    """The engine will not answer any call any more."""


class VllmEngine:
    """The engine, loaded. Raises whatever vLLM does where a model does not load."""

    def __init__(self, setup: Setup) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        options = {
            "enable_prefix_caching": True,
            "scheduling_policy": "priority",  # oldest program first, in its queue as in ours
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            **setup.options,
            "model": setup.model,
            "enable_lora": bool(setup.adapters),
        }
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**options), usage_context=UsageContext.LLM_CLASS)
        self._by_age = options["scheduling_policy"] == "priority"
        self._tokenizer = self._engine.get_tokenizer()
        self._context: int = self._engine.model_config.max_model_len
        self._defaults: dict[str, Any] = self._engine.model_config.get_diff_sampling_param()
        self._adapters = _adapters(setup)
        self._ids = count(1)
        self._reader = ThreadPoolExecutor(1, "tokenizer")  # which is not made for several threads

    async def draw(self, asked: Draw) -> list[Completion]:
        """All draws of one request, when the last is whole. Cancelling takes them out of the batch."""
        request = asked.request
        if scores(request):
            return [await self._score(asked)]
        ids = await self._prompt(request)
        params = self._sampling(asked)
        return completions(await self._whole(ids, params, asked), request.params)

    async def stream(self, asked: Draw) -> AsyncIterator[str | Completion]:
        """The text of one draw as it comes, then the whole of it."""
        ids = await self._prompt(asked.request)
        params = self._sampling(asked)
        draft = Draft()
        async with aclosing(self._generate(ids, params, asked)) as outputs:
            async for output in outputs:
                if text := draft.extend(output.outputs[0]):
                    yield text
        yield draft.completion(len(ids), asked.request.params)

    async def count(self, request: Request) -> int:
        return len(await self._read(tokens, request))

    async def _score(self, asked: Draw) -> Completion:
        request = asked.request
        option = await self._read(choice_tokens, request)
        ids = await self._prompt(request, len(option))
        if not option:
            return Completion("", "stop", Usage(len(ids), 0, calls=1), logprobs=())
        output = await self._whole([*ids, *option], scoring(), asked)
        return scored(output, option, request, self._tokenizer)

    async def _read(self, by: Any, request: Request) -> list[int]:
        ids: list[int] = await asyncio.get_running_loop().run_in_executor(self._reader, by, self._tokenizer, request)
        return ids

    async def _prompt(self, request: Request, option: int = 0) -> list[int]:
        """The tokens of the prompt, if they and the reply fit the context."""
        ids = await self._read(tokens, request)
        if not ids:
            raise BadRequest("an empty prompt cannot be continued")
        reply = option + 1 if option else request.params.max_tokens or 1
        if len(ids) + reply > self._context:
            raise ContextLengthExceeded(
                f"{len(ids)} tokens of prompt and {reply} of reply do not fit the context of {self._context}"
            )
        return ids

    def _sampling(self, asked: Draw) -> Any:
        from vllm.exceptions import VLLMClientError

        try:
            return sampling(asked.request, asked.n, self._defaults, stream=asked.stream)
        except (VLLMClientError, ValueError, TypeError) as error:
            raise BadRequest(_line(error)) from None

    async def _whole(self, ids: list[int], params: Any, asked: Draw) -> Any:
        async for output in self._generate(ids, params, asked):
            if output.finished:
                return output
        raise EngineError("the engine gave no whole answer")

    async def _generate(self, ids: list[int], params: Any, asked: Draw) -> AsyncGenerator[Any, None]:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        name = str(next(self._ids))
        lora = self._adapters.get(asked.adapter)
        priority = asked.age if self._by_age else 0
        outputs = self._engine.generate(tokens_input(ids), params, name, lora_request=lora, priority=priority)
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    yield output
        except EngineDeadError:
            raise EngineDied from None
        except EngineGenerateError as error:
            raise _refusal(error.__cause__ or error) from None
        except (VLLMClientError, ValueError) as error:
            raise BadRequest(_line(error)) from None

    def close(self) -> None:
        """Let the GPU go."""
        self._engine.shutdown()


def _refusal(error: BaseException) -> BadRequest | EngineError:
    """What vLLM raised for a single request: a value that it does not take is the caller's."""
    return BadRequest(_line(error)) if isinstance(error, ValueError) else EngineError(_line(error))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def _adapters(setup: Setup) -> dict[str, Any]:
    from vllm.lora.request import LoRARequest

    return {name: LoRARequest(name, i, path) for i, (name, path) in enumerate(setup.adapters.items(), 1)}
