"""The embedded model keeps the contract of every engine; its process is nobody's concern."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.backends.contract import STORY, EngineContract, draw, of
from tests.scripting import run

from shoal.backends import BaseModel
from shoal.backends.embedded import EmbeddedBackend
from shoal.backends.engine import Engine
from shoal.backends.engine_draft import Draft
from shoal.errors import BadRequest, ContextLengthExceeded, EngineError
from shoal.runtime.backend import Draws
from shoal.runtime.model import sample
from shoal.runtime.types import Json, Message, Request


@pytest.fixture(scope="session")
def engine() -> Iterator[EmbeddedBackend]:
    backend = EmbeddedBackend()
    yield backend
    run(backend.aclose())


class TestEmbedded(EngineContract):
    @pytest.fixture
    def backend(self, engine: EmbeddedBackend) -> EmbeddedBackend:
        return engine

    def test_draws_of_one_prompt_are_one_request_of_the_engine(self, model: BaseModel) -> None:
        drawn = run(sample(model, of("Name a fish.", max_tokens=4), 5))
        assert model.scheduler.wire_requests == 1
        assert [c.usage.prompt_tokens > 0 for c in drawn] == [True, False, False, False, False]

    def test_each_of_several_constrained_draws_keeps_the_constraint(self, backend: EmbeddedBackend) -> None:
        texts = [c.text for c in draw(backend, of(STORY, regex="[a-c]{5}"), 4)]
        assert all(len(text) == 5 and set(text) <= set("abc") for text in texts)

    def test_draws_that_stop_end_each_by_itself(self, backend: EmbeddedBackend) -> None:
        for completion in draw(backend, of(STORY, stop=["a"], max_tokens=12), 6):
            assert "a" not in completion.text
            assert completion.finish_reason == "stop" or completion.usage.completion_tokens == 12

    def test_greedy_draws_are_one(self, backend: EmbeddedBackend) -> None:
        drawn = draw(backend, of(STORY, temperature=0.0, max_tokens=6), 3)
        assert len({c.text for c in drawn}) == 1
        assert [(c.usage.calls, c.usage.cached_calls) for c in drawn] == [(1, 0), (0, 1), (0, 1)]

    def test_the_same_calls_together_give_the_same_texts(self, backend: EmbeddedBackend) -> None:
        asked = [Draws(of(f"{i}. {STORY}", max_tokens=8, seed=3)) for i in range(4)]
        first, second = (run(backend.generate(asked)) for _ in range(2))
        assert [o[0].text for o in first if isinstance(o, list)] == [o[0].text for o in second if isinstance(o, list)]

    def test_regex(self, model: BaseModel) -> None:
        text = run(model(of("A date?", regex=r"\d{4}-\d{2}-\d{2}", max_tokens=30))).text
        assert [len(part) for part in text.split("-")] == [4, 2, 2]
        for wrong in ("(((", "a(?=b)", r"(a)\1"):
            with pytest.raises(BadRequest):
                run(model(of("x", regex=wrong)))

    def test_a_score_may_be_cut_cancelled_or_refused(self, backend: EmbeddedBackend, model: BaseModel) -> None:
        france = Request(prompt="The capital of France is").with_params(logprobs=True, choices=(" Paris, France",))
        cut = run(model(france.with_params(max_tokens=2)))
        assert (cut.text, cut.finish_reason, cut.usage.completion_tokens) == (" Paris,", "length", 2)
        fish = run(model(france.with_params(choices=(" 🐟",))))
        assert (fish.text, len(fish.logprobs or ()) > 1) == (" 🐟", True)
        nothing = run(model(france.with_params(choices=("",))))
        assert (nothing.text, nothing.logprobs) == ("", ())
        with pytest.raises(BadRequest, match="not what its tokens spell"):
            run(model(france.with_params(choices=("Paris<|im_end|>",))))
        with pytest.raises(ContextLengthExceeded):
            run(model(france.with_params(choices=("word " * 9000,))))

        async def main() -> None:
            long = [Request(prompt="sea " * 3000).with_params(logprobs=True, choices=(f" {i}",)) for i in range(3)]
            waiting = [asyncio.ensure_future(model(request)) for request in long]
            assert (await model(of("Hi", max_tokens=2))).text
            for task in waiting:
                task.cancel()
            assert (await model(france)).text == " Paris, France"
            process = backend._engine._process
            assert process is not None
            assert not process.calls

        run(main())

    def test_what_it_does_not_read_is_refused(self, model: BaseModel) -> None:
        with pytest.raises(BadRequest, match="knows no best_of"):
            run(model(of("x", extra={"best_of": 3})))
        image = Json.of([{"type": "image_url", "image_url": {"url": "data:"}}])
        with pytest.raises(BadRequest, match="text only"):
            run(model(Request(messages=(Message("user", image),))))


def test_its_process_may_die() -> None:
    backend = EmbeddedBackend()

    async def main() -> None:
        pieces = backend.stream(of(STORY, max_tokens=2000, extra={"ignore_eos": True}))
        await anext(pieces)
        process = backend._engine._process
        assert process is not None
        os.kill(process.child.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="process ended"):
            async for _ in pieces:
                pass
        (outcome,) = await backend.generate([Draws(of("Hi", max_tokens=2))])
        assert isinstance(outcome, list)
        await backend.aclose()

    run(main())


def test_what_was_under_way_when_the_engine_died_is_asked_again() -> None:
    async def main() -> None:
        model = BaseModel(EmbeddedBackend())
        await model(of("Hi", max_tokens=1))
        process = model.backend._engine._process  # type: ignore[union-attr]
        assert process is not None
        long = {"max_tokens": 200, "extra": {"ignore_eos": True}}
        answers = [asyncio.ensure_future(model(of(f"{i}?", **long))) for i in range(3)]
        while len(process.calls) < 3:
            await asyncio.sleep(0)
        os.kill(process.child.pid, signal.SIGKILL)
        drawn = await asyncio.gather(*answers)
        assert [completion.usage.completion_tokens for completion in drawn] == [200] * 3
        await model.aclose()

    run(main())


def test_a_model_that_does_not_load_says_why() -> None:
    engine = Engine("/nowhere.gguf", "x")
    backend = EmbeddedBackend()
    backend._engine = engine
    with pytest.raises(EngineError, match=r"does not load: .*nowhere"):
        draw(backend, of("Hi"))
    run(backend.aclose())


def test_python_ends_though_a_call_is_under_way() -> None:
    program = (
        "import asyncio\n"
        "from shoal.backends.embedded import EmbeddedBackend\n"
        "from shoal.runtime.types import Request\n"
        "async def main():\n"
        "    pieces = EmbeddedBackend().stream(Request.of('A story', max_tokens=4000, extra={'ignore_eos': True}))\n"
        "    print((await anext(pieces)).text != '')\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_a_forgotten_backend_ends_its_process() -> None:
    engine = Engine("/nowhere.gguf", "x")
    child = engine._running().child
    del engine
    gc.collect()
    assert child.returncode is not None


def test_a_draft_shows_whole_characters_and_no_stop_string() -> None:
    pieces = [b"", "é".encode()[:1], "é".encode()[1:], b"a", b"ab", b"c"]
    draft = Draft(pieces, ["abc"])
    shown = []
    for token in (1, 2, 3, 4):
        draft.extend([token], [-1.0])
        shown.append(draft.new_text())
    assert shown == ["", "é", "", "a"]  # a, then aab: its end may begin abc
    draft.finish_reason = "stop"
    draft.extend([5, 0], [-1.0, -1.0])
    assert draft.new_text() == ""
    output = draft.output(logprobs=True)
    assert (output.text, output.finish_reason, output.tokens) == ("éa", "stop", 6)
    assert [token for token, _ in output.logprobs or []] == ["\ufffd", "\ufffd", "a"]
