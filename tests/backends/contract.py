"""What every in-process engine keeps, on a real model."""

import asyncio
import json
import time

import pytest
from tests.scripting import run

from shoal.backends import BaseModel
from shoal.errors import ContextLengthExceeded, ModelError
from shoal.runtime.backend import Backend
from shoal.runtime.concurrency import gather
from shoal.runtime.model import sample, stream
from shoal.runtime.types import Completion, Delta, Request

of = Request.of


class EngineContract:
    """Subclass it with a `backend` fixture."""

    @pytest.fixture
    def model(self, backend: Backend) -> BaseModel:
        return BaseModel(backend)

    def test_a_chat_and_a_bare_prompt(self, model: BaseModel) -> None:
        assert run(model(of("What is 2 + 2?", max_tokens=8))).text
        bare = Request(prompt="The capital of France is").with_params(max_tokens=4, temperature=0.0)
        assert "Paris" in run(model(bare)).text

    def test_draws_differ_and_share_the_prompt(self, model: BaseModel) -> None:
        drawn = run(sample(model, of("Tell me a story about the sea.", max_tokens=16, temperature=1.0), 4))
        assert len({completion.text for completion in drawn}) > 1
        assert all(completion.usage.calls == 1 for completion in drawn)

    def test_length_and_stop_are_told_apart(self, model: BaseModel) -> None:
        cut = run(model(of("Tell me a long story.", max_tokens=5)))
        assert (cut.finish_reason, cut.usage.completion_tokens) == ("length", 5)
        one = Request(prompt="1, 2, 3, 4, 5, 6,").with_params(max_tokens=12, temperature=0.0, stop=("8",))
        stopped = run(model(one))
        assert stopped.finish_reason == "stop"
        assert "8" not in stopped.text
        assert "7" in stopped.text

    def test_log_probabilities(self, model: BaseModel) -> None:
        completion = run(model(of("Hi", max_tokens=4, logprobs=True)))
        assert completion.logprobs is not None
        assert len(completion.logprobs) == 4
        assert all(token.logprob <= 0 for token in completion.logprobs)
        assert "".join(token.token for token in completion.logprobs) == completion.text

    def test_constraints(self, model: BaseModel) -> None:
        assert run(model(of("Yes or no?", choices=["yes", "no"]))).text in ("yes", "no")
        number = {
            "type": "object",
            "properties": {"n": {"enum": [1, 2]}},
            "required": ["n"],
            "additionalProperties": False,
        }
        reply = run(model(of("Reply with a number as JSON.", json_schema=number, max_tokens=200, temperature=0.0)))
        assert json.loads(reply.text)["n"] in (1, 2)
        assert run(model(of("Say it", grammar='root ::= "shoal"'))).text == "shoal"

    def test_streaming_gives_the_same_text(self, model: BaseModel) -> None:
        async def main() -> None:
            request = of("Tell me about fish.", max_tokens=20)
            pieces = [piece async for piece in stream(model, request)]
            *deltas, last = pieces
            assert isinstance(last, Completion)
            assert "".join(d.text for d in deltas if isinstance(d, Delta)) == last.text
            assert len(deltas) > 2
            assert last.usage.completion_tokens == 20

        run(main())

    def test_a_cancelled_call_leaves_the_engine_to_others(self, model: BaseModel) -> None:
        async def main() -> None:
            long = asyncio.ensure_future(model(of("Tell me a very long story.", max_tokens=3000)))
            await model(of("Hi", max_tokens=2))
            long.cancel()
            with pytest.raises(asyncio.CancelledError):
                await long
            start = time.monotonic()
            await gather(*(model(of(f"{i}?", max_tokens=2)) for i in range(4)))
            assert time.monotonic() - start < 20

        run(main())

    def test_an_error_is_one_callers_and_the_next_call_works(self, model: BaseModel) -> None:
        async def main() -> None:
            with pytest.raises(ModelError):
                await model(of("x", grammar="root ::= nowhere"))
            assert (await model(of("Hi", max_tokens=2))).text

        run(main())

    def test_a_prompt_that_is_too_long_is_named(self, model: BaseModel) -> None:
        with pytest.raises(ContextLengthExceeded):
            run(model(of("word " * 9000, max_tokens=4)))

    def test_one_event_loop_after_another(self, model: BaseModel) -> None:
        for _ in range(2):
            assert run(model(of("Hi", max_tokens=2))).text
