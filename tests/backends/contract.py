"""What every engine of our own keeps, on a real model."""

import asyncio
import datetime
import enum
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import msgspec
import pytest
from msgspec import structs
from tests.scripting import run

from shoal.backends import BaseModel
from shoal.errors import BadRequest, ContextLengthExceeded, ModelError
from shoal.runtime.backend import Backend, Draws
from shoal.runtime.concurrency import gather
from shoal.runtime.model import sample, stream
from shoal.runtime.types import Completion, Delta, Message, Request

of = Request.of
STORY = "Tell me a story about the sea."


def draw(backend: Backend, request: Request, n: int = 1) -> Sequence[Completion]:
    """Draws asked of the backend itself."""
    (outcome,) = run(backend.generate([Draws(request, n, tuple((i,) for i in range(n)) if n > 1 else ())]))
    if isinstance(outcome, ModelError):
        raise outcome
    return outcome


def begun(request: Request, reply: str) -> Request:
    return structs.replace(request, messages=(*request.messages, Message("assistant", reply)))


def total(completion: Completion) -> float:
    assert completion.logprobs is not None
    return sum(token.logprob for token in completion.logprobs)


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


@dataclass
class Fish:
    name: Literal["cod", "eel"]
    size: Size


@dataclass
class Shoal:
    leader: Fish
    fish: list[Fish]
    depth: int | None


class Catch(TypedDict):
    count: int
    salted: NotRequired[bool]


# A small model may write strings, numbers, maps and white space without an end.
OPEN_ENDED = (dict[str, int], int | str, Shoal, tuple[Size, bool])
SHAPES = (Fish, Size, Literal["a", 3], Catch, Fish | None, datetime.date, *OPEN_ENDED)


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
        cut = run(model(of("Tell me a long story.", max_tokens=5, extra={"ignore_eos": True})))
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
        completion = run(model(of("Hi", max_tokens=4, temperature=0.0, logprobs=True, extra={"ignore_eos": True})))
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
            others = [
                asyncio.ensure_future(model(of(f"{i}. {STORY}", max_tokens=24, temperature=0.0))) for i in range(3)
            ]
            for wrong in (of("x", grammar="root ::= nowhere"), of("x", json_schema={"type": "objekt"})):
                with pytest.raises(ModelError):
                    await model(wrong)
            assert all(other.text for other in await asyncio.gather(*others))
            assert (await model(of("Hi", max_tokens=2, temperature=0.0))).text

        run(main())

    def test_a_prompt_that_is_too_long_is_named(self, model: BaseModel) -> None:
        with pytest.raises(ContextLengthExceeded):
            run(model(of("word " * 9000, max_tokens=4)))

    def test_one_event_loop_after_another(self, model: BaseModel) -> None:
        for _ in range(2):
            assert run(model(of("Hi", max_tokens=2, temperature=0.0))).text

    def test_a_reply_begun_by_the_caller_is_continued(self, model: BaseModel) -> None:
        question = of("What is the capital of France?", max_tokens=8, temperature=0.0)
        continued = run(model(begun(question, "The capital city is")))
        assert continued.text.startswith(" Paris")
        assert run(model(begun(question, ""))).text == run(model(question)).text
        only = begun(question, "The capital city is").with_params(choices=(" Lyon", " Rome"))
        assert run(model(only)).text in (" Lyon", " Rome")

    def test_prompts_are_counted_as_the_model_sees_them(self, model: BaseModel) -> None:
        question = of("What is the capital of France?", system="Be brief. 🐟", max_tokens=1)
        for request in (question, begun(question, "The capital"), Request(prompt="The capital of France is")):
            one = request.with_params(max_tokens=1)
            assert run(model.count_tokens(one)) == run(model(one)).usage.prompt_tokens
        assert run(model.count_tokens("Hi")) > 2

    def test_one_choice_is_scored_as_the_free_model_would_draw_it(self, model: BaseModel) -> None:
        question = of("What is the capital of France?", max_tokens=8, temperature=0.0, logprobs=True)
        free = run(model(question))
        forced = run(model(question.with_params(choices=(free.text,), max_tokens=None)))
        assert forced.text == free.text
        assert forced.logprobs is not None
        assert free.logprobs is not None
        assert [token.token for token in forced.logprobs] == [token.token for token in free.logprobs]
        # What is read in one pass is rounded otherwise than what is decoded.
        assert total(forced) == pytest.approx(total(free), abs=0.5)

    def test_scores_are_of_the_tokenizers_own_tokens_and_sum_to_less_than_one(self, model: BaseModel) -> None:
        france = Request(prompt="The capital of France is").with_params(logprobs=True)
        cities = (" Paris", " Lyon", " Nice", " the", " a", " in", " not")
        scored = run(gather(*(model(france.with_params(choices=(city,))) for city in cities)))
        assert [completion.text for completion in scored] == list(cities)
        assert [len(completion.logprobs or ()) for completion in scored] == [1] * len(cities)
        assert 0.7 < sum(math.exp(total(completion)) for completion in scored) <= 1
        by_rule = total(run(model(france.with_params(choices=(" Lyon, France",)))))
        after = Request(prompt="The capital of France is Lyon").with_params(logprobs=True, choices=(", France",))
        assert by_rule == pytest.approx(total(scored[1]) + total(run(model(after))), abs=0.3)

    def test_a_score_is_the_same_in_company_and_at_any_temperature(self, model: BaseModel) -> None:
        one = of("Is the sea salty?", logprobs=True, choices=("Yes, it is.",))
        alone = run(model(one))
        others = [of(f"{i}. {STORY}", logprobs=True, choices=(f"{i} fish",)) for i in range(12)]
        together = run(gather(*(model(request) for request in (*others, one.with_params(temperature=0.0)))))
        assert total(together[-1]) == pytest.approx(total(alone), abs=0.2)
        assert [completion.text for completion in together[:-1]] == [f"{i} fish" for i in range(12)]
        drawn = run(sample(model, one, 2))
        assert [completion.text for completion in drawn] == ["Yes, it is."] * 2

    @pytest.mark.parametrize("kind", SHAPES)
    def test_schemas_of_python_types(self, model: BaseModel, kind: Any) -> None:
        schema = msgspec.json.schema(kind)
        request = of("Give a short example as JSON.", json_schema=schema, max_tokens=400, seed=1, temperature=0.0)
        completion = run(model(request))
        if completion.finish_reason == "stop":
            msgspec.json.decode(completion.text, type=kind)
        else:
            assert kind in OPEN_ENDED

    def test_properties_come_in_the_schemas_order(self, model: BaseModel) -> None:
        kind = {"type": "object", "properties": {name: {"enum": [1]} for name in "ba"}, "required": ["b", "a"]}
        text = run(model(of("x", json_schema=kind, max_tokens=60, temperature=0.0))).text
        assert text.lstrip("{ \n\t").startswith('"b"')

    def test_a_schema_that_no_grammar_keeps_is_refused(self, model: BaseModel) -> None:
        for kind in ({"type": "integer", "multipleOf": 7}, {"type": "string", "pattern": "^a+$", "maxLength": 3}):
            with pytest.raises(BadRequest, match="cannot keep"):
                run(model(of("x", json_schema={"type": "object", "properties": {"x": kind}})))
