"""What every engine of our own keeps, on a real model."""

import asyncio
import json
from collections.abc import Sequence

import pytest
from tests.scripting import run

from shoal.backends import BaseModel
from shoal.errors import ContextLengthExceeded, ModelError
from shoal.runtime.backend import Backend, Draws
from shoal.runtime.concurrency import gather
from shoal.runtime.model import sample, stream
from shoal.runtime.types import Completion, Delta, Request

of = Request.of
STORY = "Tell me a story about the sea."


def draw(backend: Backend, request: Request, n: int = 1) -> Sequence[Completion]:
    """Draws asked of the backend itself."""
    (outcome,) = run(backend.generate([Draws(request, n, tuple((i,) for i in range(n)) if n > 1 else ())]))
    if isinstance(outcome, ModelError):
        raise outcome
    return outcome


class EngineContract:
    """Subclass it with a `backend` fixture."""

    @pytest.fixture
    def model(self, backend: Backend) -> BaseModel:
        return BaseModel(backend)

    def test_a_chat_and_a_bare_prompt(self, model: BaseModel) -> None:
        chat = run(model(of("What is the capital of France?", system="Be brief.", max_tokens=24, temperature=0.0)))
        assert "Paris" in chat.text
        bare = Request(prompt="The capital of France is").with_params(max_tokens=4, temperature=0.0)
        answer = run(model(bare))
        assert "Paris" in answer.text
        assert answer.usage.prompt_tokens == 5

    def test_draws_differ(self, model: BaseModel) -> None:
        drawn = run(sample(model, of(STORY, max_tokens=16), 4))
        assert len({completion.text for completion in drawn}) == 4
        assert all(completion.usage.calls == 1 for completion in drawn)

    def test_draws_of_one_seed_differ(self, model: BaseModel) -> None:
        drawn = run(sample(model, of(STORY, max_tokens=12, seed=7), 3))
        assert len({completion.text for completion in drawn}) == 3

    def test_length_and_stop_are_told_apart(self, model: BaseModel) -> None:
        cut = run(model(of("Tell me a long story.", max_tokens=5)))
        assert (cut.finish_reason, cut.usage.completion_tokens) == ("length", 5)
        ended = run(model(of("What is the capital of France?", system="Be brief.", temperature=0.0)))
        assert ended.finish_reason == "stop"

    def test_nothing_from_a_stop_string_on_is_in_the_text(self, model: BaseModel) -> None:
        count = Request(prompt="1, 2, 3, 4, 5, 6,").with_params(max_tokens=20, temperature=0.0)
        stopped = run(model(count.with_params(stop=("8", "zzz"))))
        assert (stopped.text, stopped.finish_reason) == (" 7, ", "stop")
        assert run(model(count.with_params(stop=("zzz",)))).finish_reason == "length"

    def test_a_stop_string_may_begin_within_a_token(self, model: BaseModel) -> None:
        france = Request(prompt="The capital of France is").with_params(max_tokens=8, temperature=0.0)
        stopped = run(model(france.with_params(stop=("ris",), logprobs=True)))
        assert (stopped.text, stopped.finish_reason) == (" Pa", "stop")
        assert stopped.logprobs is not None

    def test_log_probabilities(self, model: BaseModel) -> None:
        completion = run(model(of("Hi", max_tokens=4, logprobs=True, extra={"ignore_eos": True})))
        assert completion.logprobs is not None
        assert len(completion.logprobs) == 4
        assert all(token.logprob <= 0 for token in completion.logprobs)
        assert "".join(token.token for token in completion.logprobs) == completion.text

    def test_choices(self, model: BaseModel) -> None:
        answers = ('oui "là"', "no\\n")
        drawn = run(gather(*(model(of(f"{i}: yes or no?", choices=answers)) for i in range(3))))
        assert {completion.text for completion in drawn} <= set(answers)

    def test_a_schema_and_a_grammar(self, model: BaseModel) -> None:
        number = {
            "type": "object",
            "properties": {"n": {"enum": [1, 2]}},
            "required": ["n"],
            "additionalProperties": False,
        }
        reply = run(model(of("Reply with a number as JSON.", json_schema=number, max_tokens=200, temperature=0.0)))
        assert json.loads(reply.text)["n"] in (1, 2)
        assert run(model(of("Say it", grammar='root ::= "sh" word\nword ::= "oal"'))).text == "shoal"

    def test_streaming_gives_the_same_text(self, model: BaseModel) -> None:
        async def main(request: Request) -> Completion:
            *deltas, last = [piece async for piece in stream(model, request)]
            assert isinstance(last, Completion)
            texts = [delta.text for delta in deltas if isinstance(delta, Delta)]
            assert "".join(texts) == last.text
            assert len(texts) > 2
            return last

        last = run(main(of(STORY, max_tokens=20, extra={"ignore_eos": True})))
        assert last.usage.completion_tokens == 20
        count = Request(prompt="1, 2, 3, 4, 5, 6,").with_params(max_tokens=40, temperature=0.0, stop=("10, 11",))
        assert run(main(count)).text == " 7, 8, 9, "
        smiles = run(main(of("Say it", grammar='root ::= "🐟 né 🐠 日本"')))
        assert smiles.text == "🐟 né 🐠 日本"

    def test_a_cancelled_call_leaves_the_engine_to_others(self, backend: Backend) -> None:
        async def main() -> None:
            endless = of("Tell me a very long story.", max_tokens=3000, extra={"ignore_eos": True})
            pieces = backend.stream(endless)
            assert isinstance(await anext(pieces), Delta)
            await pieces.aclose()  # type: ignore[attr-defined]
            waiting = asyncio.ensure_future(backend.generate([Draws(endless)]))
            await backend.generate([Draws(of("Hi", max_tokens=2))])
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            async with asyncio.timeout(20):
                await gather(*(backend.generate([Draws(of(f"{i}?", max_tokens=2))]) for i in range(4)))

        run(main())

    def test_an_error_is_one_callers(self, model: BaseModel) -> None:
        async def main() -> None:
            others = [asyncio.ensure_future(model(of(f"{i}. {STORY}", max_tokens=24))) for i in range(3)]
            for wrong in (of("x", grammar="root ::= nowhere"), of("x", json_schema={"type": "objekt"})):
                with pytest.raises(ModelError):
                    await model(wrong)
            assert all(other.text for other in await asyncio.gather(*others))
            assert (await model(of("Hi", max_tokens=2))).text

        run(main())

    def test_a_prompt_that_is_too_long_is_named(self, model: BaseModel) -> None:
        with pytest.raises(ContextLengthExceeded):
            run(model(of("word " * 9000, max_tokens=4)))

    def test_one_event_loop_after_another(self, model: BaseModel) -> None:
        for _ in range(2):
            assert run(model(of("Hi", max_tokens=2))).text
