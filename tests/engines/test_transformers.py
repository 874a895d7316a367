"""Models of Hugging Face transformers keep the contract of every engine, batched continuously or by length."""

import asyncio
import datetime
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.backends.contract import SHAPES, STORY, begun, draw, of, total
from tests.backends.tools_contract import ToolsContract, asked, calls
from tests.engines.weights import tiny_llama, tiny_lora
from tests.scripting import run

from shoal.backends import BaseModel
from shoal.backends.hf import TransformersBackend
from shoal.backends.hf.replies import reader
from shoal.errors import BadRequest, EngineError, ModelError, UsageError
from shoal.runtime.backend import Draws
from shoal.runtime.model import sample
from shoal.runtime.types import Completion, Delta, Json, Message, Request
from shoal.techniques.opening import open_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("xgrammar")

WAYS = ("continuous", "bucketed")
ENDLESS = Json.of({"ignore_eos": True})
SEA = Request(prompt="the sea is deep and").with_params(max_tokens=6, extra=ENDLESS)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small models on a machine that others use too."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module", params=WAYS)
def engine(request: pytest.FixtureRequest, taught: Path) -> Iterator[TransformersBackend]:
    backend = TransformersBackend(str(taught), {"batching": request.param, "device": "cpu"})
    yield backend
    run(backend.aclose())


@pytest.fixture(scope="module", params=WAYS)
def random_engine(request: pytest.FixtureRequest, tiny: Path) -> Iterator[TransformersBackend]:
    backend = TransformersBackend(str(tiny), {"batching": request.param, "device": "cpu"})
    yield backend
    run(backend.aclose())


class TestTransformers(ToolsContract):
    @pytest.fixture
    def backend(self, engine: TransformersBackend) -> TransformersBackend:
        return engine

    @pytest.mark.parametrize("kind", [kind for kind in SHAPES if kind is not datetime.date])
    def test_schemas_of_python_types(self, model: BaseModel, kind: Any) -> None:
        super().test_schemas_of_python_types(model, kind)

    def test_a_date_has_its_form(self, model: BaseModel) -> None:
        # A model that knows no dates writes the 31st of February: grammars know no calendar.
        schema = msgspec.json.schema(datetime.date)
        text = run(model(of("Give a short example as JSON.", json_schema=schema, max_tokens=40))).text
        assert re.fullmatch(r'"\d{4}-\d\d-\d\d"', text)

    def test_draws_of_one_prompt_are_one_call(self, model: BaseModel) -> None:
        drawn = run(sample(model, of("Name a fish.", max_tokens=4), 5))
        assert model.scheduler.wire_requests == 1
        assert [c.usage.prompt_tokens > 0 for c in drawn] == [True, False, False, False, False]

    def test_greedy_draws_are_one(self, backend: TransformersBackend) -> None:
        drawn = draw(backend, of(STORY, temperature=0.0, max_tokens=6), 3)
        assert len({c.text for c in drawn}) == 1
        assert [(c.usage.calls, c.usage.cached_calls) for c in drawn] == [(1, 0), (0, 1), (0, 1)]

    def test_each_of_several_constrained_draws_keeps_the_constraint(self, backend: TransformersBackend) -> None:
        texts = [c.text for c in draw(backend, of(STORY, regex="[a-c]{5}"), 4)]
        assert all(len(text) == 5 and set(text) <= set("abc") for text in texts)

    def test_draws_that_stop_end_each_by_itself(self, backend: TransformersBackend) -> None:
        for completion in draw(backend, of(STORY, stop=["sh"], max_tokens=12), 6):
            assert "sh" not in completion.text
            assert completion.finish_reason == "stop" or completion.usage.completion_tokens == 12

    def test_a_seed_gives_its_text_alone_and_in_company(self, backend: TransformersBackend) -> None:
        async def text(request: Request) -> str:
            (outcome,) = await backend.generate([Draws(request)])
            assert isinstance(outcome, list)
            return outcome[0].text

        async def together() -> list[str]:
            others = [text(of(f"{i}. {STORY}", max_tokens=8 + i)) for i in range(6)]
            return await asyncio.gather(*(text(seeded) for seeded in asked), *others)

        asked = [of(STORY, max_tokens=16, seed=seed) for seed in range(4)]
        alone = [run(text(request)) for request in asked]
        assert len(set(alone)) == 4
        assert run(together())[:4] == alone

    def test_draws_of_a_seed_are_those_that_were_named(self, backend: TransformersBackend) -> None:
        request = of(STORY, max_tokens=12, seed=11)
        fused = [c.text for c in draw(backend, request, 3)]
        assert fused == [draw(backend, request.draw(i))[0].text for i in range(3)]

    def test_penalties_and_least_tokens(self, model: BaseModel) -> None:
        count = Request(prompt="1, 2, 3, 4, 5, 6,").with_params(max_tokens=8, temperature=0.0)
        commas = run(model(count)).text.count(",")
        for penalty in ({"frequency_penalty": 100.0}, {"presence_penalty": 100.0}):
            assert run(model(count.with_params(**penalty))).text.count(",") <= 1 < commas
        short = of("What is the capital of France?", temperature=0.0, max_tokens=20)
        longer = run(model(short.with_params(extra=Json.of({"min_tokens": 15}))))
        assert longer.usage.completion_tokens >= 15 > run(model(short)).usage.completion_tokens

    def test_what_it_cannot_do_is_a_bad_request(self, model: BaseModel) -> None:
        for wrong, why in (
            (of("x", extra={"beams": 4}), "knows no beams"),
            (of("x", extra={"min_tokens": "x"}), r"Expected `int`, got `str` - at `\$.min_tokens`"),
            (of("x", extra={"repetition_penalty": 0}), r"Expected `float` > 0.0 - at `\$.repetition_penalty`"),
            (of("x", extra={"ignore_eos": "no"}), r"Expected `bool`, got `str`"),
            (of("x", regex="(" * 5000 + "a" + ")" * 5000), "regex: too deeply nested"),
            (Request(prompt=""), "empty prompt"),
            (of("x", regex="((("), "regex"),
            (Request((Message("user", Json.of([{"type": "image_url"}])),)), "text only"),
        ):
            with pytest.raises(BadRequest, match=why):
                run(model(wrong))

    def test_what_one_call_says_wrong_fails_no_other(self, model: BaseModel) -> None:
        async def main() -> None:
            other = asyncio.ensure_future(model(of(STORY, max_tokens=60, extra={"ignore_eos": True})))
            for wrong in ("x", [1], -1.0):
                with pytest.raises(BadRequest):
                    await model(of("x", extra={"repetition_penalty": wrong}, max_tokens=4))
            assert (await other).usage.completion_tokens == 60

        run(main())

    def test_several_beginnings_of_whitespace_are_kept(self, model: BaseModel) -> None:
        question = of("What is the capital of France?", max_tokens=1)
        counts = [run(model.count_tokens(begun(question, text))) for text in ("The", "The ", "The  ")]
        assert counts == sorted(set(counts))

    def test_a_score_may_be_cut_or_refused(self, model: BaseModel) -> None:
        france = Request(prompt="The capital of France is").with_params(logprobs=True, choices=(" Paris, France",))
        cut = run(model(france.with_params(max_tokens=2)))
        assert (cut.text, cut.finish_reason, cut.usage.completion_tokens) == (" Paris,", "length", 2)
        nothing = run(model(france.with_params(choices=("",))))
        assert (nothing.text, nothing.logprobs) == ("", ())
        with pytest.raises(BadRequest, match="not what its tokens spell"):
            run(model(france.with_params(choices=("Paris<|im_end|>",))))


class TestAgainstTheModelItself:
    """What the engine reports is what a plain forward pass of the model gives."""

    @pytest.fixture
    def plain(self, tiny: Path) -> Any:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        return AutoModelForCausalLM.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)

    def logs(self, plain: Any, prompt: str, ids: list[int]) -> Any:
        """Log-probabilities at each place of `ids` after the prompt, [tokens, vocabulary]."""
        model, tokenizer = plain
        before = tokenizer(prompt).input_ids
        with torch.no_grad():
            scores = model(torch.tensor([before + ids])).logits[0, len(before) - 1 : -1]
        return scores.log_softmax(-1)

    def test_greedy_tokens_and_their_log_probabilities(self, random_engine: TransformersBackend, plain: Any) -> None:
        prompt = "the fish swim"
        asked = Request(prompt=prompt).with_params(
            temperature=0.0, max_tokens=20, logprobs=True, top_logprobs=3, extra=ENDLESS
        )
        (completion,) = draw(random_engine, asked)
        model, tokenizer = plain
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        greedy = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
        drawn = greedy[0, ids.shape[1] :].tolist()
        logs = self.logs(plain, prompt, drawn)
        assert completion.logprobs is not None
        assert [t.logprob for t in completion.logprobs] == pytest.approx(logs.max(-1).values.tolist(), abs=1e-3)
        for token, row in zip(completion.logprobs, logs, strict=True):
            assert [value for _, value in token.top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)

    def test_a_score_is_the_sum_over_a_forward_pass(self, random_engine: TransformersBackend, plain: Any) -> None:
        for prompt, choice in (("the sea", " is deep"), ("one shoal of many", " fish in the sea")):
            asked = Request(prompt=prompt).with_params(logprobs=True, choices=(choice,))
            (completion,) = draw(random_engine, asked)
            ids = plain[1](choice).input_ids
            logs = self.logs(plain, prompt, ids)
            expected = sum(row[token].item() for row, token in zip(logs, ids, strict=True))
            assert total(completion) == pytest.approx(expected, abs=1e-3)

    def test_draws_are_distributed_as_the_model_says(self, random_engine: TransformersBackend, plain: Any) -> None:
        asked = Request(prompt="the sea").with_params(max_tokens=1, logprobs=True, seed=1, top_p=0.5, temperature=0.8)
        drawn = [c for i in range(8) for c in draw(random_engine, asked.draw(i), 64)]
        logs = (self.logs(plain, "the sea", [0])[0] / 0.8).softmax(-1)
        order = logs.argsort(descending=True)
        kept = order[: int((logs[order].cumsum(0) < 0.5).sum()) + 1]
        allowed = {float(value) for value in self.logs(plain, "the sea", [0])[0][kept]}
        seen = [completion.logprobs[0].logprob for completion in drawn if completion.logprobs]
        assert all(any(abs(value - one) < 1e-3 for one in allowed) for value in seen)
        likeliest = max(allowed)
        share = sum(abs(value - likeliest) < 1e-3 for value in seen) / len(drawn)
        expected = float(logs[kept[0]] / logs[kept].sum())
        assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / len(drawn)) ** 0.5)


class TestTheBatch:
    def test_the_oldest_are_admitted_first(self, taught: Path) -> None:
        async def main(backend: TransformersBackend) -> list[int]:
            ended: list[int] = []

            async def one(i: int) -> None:
                await backend.generate([Draws(Request(prompt=f"{i} the sea").with_params(max_tokens=6, seed=i))])
                ended.append(i)

            await one(0)  # the model is there
            await asyncio.gather(*map(one, range(1, 9)))
            return ended

        for way in WAYS:
            backend = TransformersBackend(str(taught), {"batching": way, "device": "cpu", "max_sequences": 1})
            assert run(main(backend)) == list(range(9))
            run(backend.aclose())

    def test_a_cancelled_sequence_leaves_within_a_step_or_two(self, random_engine: TransformersBackend) -> None:
        async def main() -> None:
            endless = Request(prompt="the sea").with_params(max_tokens=400, extra=ENDLESS)
            waiting = [asyncio.ensure_future(random_engine.generate([Draws(endless, 4)])) for _ in range(3)]
            pieces = random_engine.stream(endless)
            assert isinstance(await anext(pieces), Delta)
            await pieces.aclose()  # type: ignore[attr-defined]
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            engine = random_engine._engine
            assert engine is not None
            batching: Any = engine._batching
            async with asyncio.timeout(20):
                (outcome,) = await random_engine.generate([Draws(endless.with_params(max_tokens=2))])
            assert isinstance(outcome, list)
            assert not getattr(batching, "_running", None)
            assert not getattr(batching, "_waiting", None)

        run(main())

    def test_a_new_call_does_not_wait_for_a_long_one(self, random_engine: TransformersBackend) -> None:
        async def main() -> None:
            endless = Request(prompt="the sea").with_params(max_tokens=450, extra=ENDLESS, seed=2)
            pieces = random_engine.stream(endless)
            assert isinstance(await anext(pieces), Delta)
            rest = asyncio.ensure_future(collect(pieces))
            (outcome,) = await random_engine.generate([Draws(SEA)])
            assert isinstance(outcome, list)
            assert not rest.done()
            last = (await rest)[-1]
            assert isinstance(last, Completion)
            (alone,) = await random_engine.generate([Draws(endless)])
            assert isinstance(alone, list)
            assert alone[0].text == last.text

        async def collect(pieces: AsyncIterator[Delta | Completion]) -> list[Delta | Completion]:
            return [piece async for piece in pieces]

        run(main())

    def test_the_event_loop_stays_free_while_the_engine_works(self, engine: TransformersBackend) -> None:
        async def main() -> float:
            busy = asyncio.ensure_future(engine.generate([Draws(of(STORY, max_tokens=200, extra=ENDLESS), 8)]))
            worst = 0.0
            while not busy.done():
                begun_at = time.perf_counter()
                await asyncio.sleep(0)
                worst = max(worst, time.perf_counter() - begun_at)
            assert isinstance((await busy)[0], list)
            return worst

        assert run(main()) < 1.0

    def test_a_closed_engine_tells_those_who_wait_and_loads_again(self, tiny: Path) -> None:
        async def main(backend: TransformersBackend) -> None:
            endless = Request(prompt="the sea").with_params(max_tokens=400, extra=ENDLESS)
            assert isinstance((await backend.generate([Draws(SEA)]))[0], list)
            waiting = asyncio.ensure_future(backend.generate([Draws(endless)]))
            await asyncio.sleep(0)
            await backend.aclose()
            (outcome,) = await waiting
            assert isinstance(outcome, EngineError | list)
            assert isinstance((await backend.generate([Draws(SEA)]))[0], list)
            await backend.aclose()

        for way in WAYS:
            run(main(TransformersBackend(str(tiny), {"batching": way, "device": "cpu"})))

    def test_a_failing_forward_pass_fails_its_batch_alone(self, tiny: Path) -> None:
        async def main(backend: TransformersBackend) -> None:
            assert isinstance((await backend.generate([Draws(SEA)]))[0], list)
            assert backend._engine is not None
            model = backend._engine._batching._model.model  # type: ignore[union-attr]
            forward = model.model.forward

            def broken(*_: Any, **__: Any) -> None:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

            model.model.forward = broken
            (outcome,) = await backend.generate([Draws(SEA, 2)])
            assert isinstance(outcome, EngineError)
            assert "lower max_sequences" in str(outcome)
            model.model.forward = forward
            async with asyncio.timeout(20):
                assert isinstance((await backend.generate([Draws(SEA, 2)]))[0], list)
            await backend.aclose()

        for way in WAYS:
            run(main(TransformersBackend(str(tiny), {"batching": way, "device": "cpu"})))

    def test_sequences_that_do_not_fit_together_wait_for_each_other(self, tiny: Path) -> None:
        options = {"batching": "continuous", "device": "cpu", "cache_gb": 1e-6}  # as little as one context needs
        backend = TransformersBackend(str(tiny), options)
        asked = Request(prompt="the sea").with_params(max_tokens=120, extra=ENDLESS)
        drawn = draw(backend, asked, 12)
        assert [c.usage.completion_tokens for c in drawn] == [120] * 12
        run(backend.aclose())


class TestTools:
    def test_a_template_that_shows_no_tools_is_refused(self, random_engine: TransformersBackend) -> None:
        for count in (draw, lambda backend, request: run(backend.count_tokens(request))):
            with pytest.raises(BadRequest, match=r"^transformers/.*: the model's chat template shows it no tools"):
                count(random_engine, asked("x"))
        assert draw(random_engine, asked("x", choice="none", max_tokens=2))[0].text
        call = Json.of({"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}})
        turns = (Message("user", "x"), Message("assistant", "y", tool_calls=(call,)), Message("user", "z"))
        with pytest.raises(BadRequest, match="passes over the calls"):
            draw(random_engine, Request(turns))

    def test_a_form_may_be_named(self, taught: Path) -> None:
        backend = TransformersBackend(str(taught), {"device": "cpu", "tool_call_parser": "llama3_json"})
        called = draw(backend, asked(STORY, choice="required", extra={"parallel_tool_calls": False}))[0]
        assert calls(called)[0][0] == "weather"
        assert "<tool_call>" in draw(backend, asked("Weather in Lyon?"))[0].text
        assert backend.identity != TransformersBackend(str(taught)).identity
        run(backend.aclose())

    def test_a_form_that_it_does_not_read_is_refused(self, taught: Path) -> None:
        tokenizer = self.tokenizer(taught)
        for template, why in (("{{ tools }}", "does not tell its form"), ("[TOOL_CALLS]", "writes mistral")):
            tokenizer.chat_template = template
            with pytest.raises(BadRequest, match=why):
                reader(asked("x"), [0], tokenizer, None)
        with pytest.raises(BadRequest, match="beside a constraint"):
            reader(asked("x", regex="a+"), [0], tokenizer, "hermes")

    def test_a_tokenizer_may_say_how_replies_are_read(self, taught: Path) -> None:
        tokenizer = self.tokenizer(taught)
        tokenizer.response_template = {
            "start_anchor": "<|im_start|>assistant\n",
            "fields": {
                "thinking": {"open": "(", "close": ")"},
                "content": {},
                "tool_calls": {
                    "open": "<tool_call>",
                    "close": "</tool_call>",
                    "content": "json",
                    "repeats": True,
                    "transform": {"type": "function", "function": "{content}"},
                },
            },
        }
        prompt = tokenizer("<|im_start|>assistant\n").input_ids
        called = '<tool_call>{"name": "weather", "arguments": {"city": "Lyon"}}</tool_call>'
        for stop in ((), ("zzz",)):
            read = reader(asked("x", stop=stop), prompt, tokenizer, None)
            assert read is not None
            assert read.sure("I") == ""
            for text, before, count in ((f"(deep)I look{called}", "I look", 1), ("It is rain", "It is rain", 0)):
                whole = read.whole(Completion(text), tokenizer(text).input_ids)
                assert (whole.text, len(calls(whole))) == (before, count)
            assert read.whole(Completion("(deep)I"), tokenizer("(deep)I").input_ids).reasoning == "deep"
            broken = "<tool_call>weather</tool_call>"
            assert read.whole(Completion(broken), tokenizer(broken).input_ids).text == broken
        with pytest.raises(BadRequest, match="none can be forced"):
            reader(asked("x", choice="required"), prompt, tokenizer, None)

    def tokenizer(self, folder: Path) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder)


class TestOpening:
    def test_a_directory_by_its_name(self, tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
        model = open_model(f"transformers/{tiny}", cache=None)
        completion = run(model(SEA))
        assert isinstance(completion, Completion)
        assert completion.usage.completion_tokens == 6
        assert capfd.readouterr() == ("", "")

    def test_what_is_no_model_is_named(self, tmp_path: Path) -> None:
        empty, pickled = tmp_path / "empty", tmp_path / "pickled"
        empty.mkdir()
        pickled.mkdir()
        (pickled / "config.json").write_text("{}")
        with pytest.raises(UsageError, match=r"no weights"):
            open_model(f"transformers/{pickled}", cache=None)
        (pickled / "pytorch_model.bin").write_bytes(b"")
        for path, why in (
            (empty, "no config.json"),
            (pickled, "can run code"),
            (tmp_path / "nowhere" / "at" / "all", "neither a directory nor a hub id"),
            ("nobody/nothing", "hf download nobody/nothing"),
        ):
            with pytest.raises(UsageError, match=why):
                open_model(f"transformers/{path}", cache=None)

    def test_weights_that_do_not_load_fail_every_call(self, tiny: Path, tmp_path: Path) -> None:
        for file in tiny.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "model.safetensors").write_bytes(b"not weights at all")
        model = open_model(f"transformers/{tmp_path}", cache=None)
        for _ in range(2):
            with pytest.raises(EngineError, match="does not load"):
                run(model(SEA))

    def test_a_message_that_goes_on_in_a_list_is_told_with_it(self, tiny: Path, tmp_path: Path) -> None:
        for file in tiny.iterdir():
            if not file.name.startswith("tokenizer"):
                (tmp_path / file.name).write_bytes(file.read_bytes())
        with pytest.raises(EngineError, match=r"does not load: .*tokenizer.*: \(1\) "):
            run(open_model(f"transformers/{tmp_path}", cache=None)(SEA))

    def test_options_are_the_tables_own(self, tiny: Path) -> None:
        for options, why in (({"dtyp": "float32"}, "did you mean dtype"), ({"batching": "fast"}, "continuous")):
            with pytest.raises(UsageError, match=why):
                TransformersBackend(str(tiny), options)

    def test_models_whose_answers_may_differ_have_different_identities(self, tiny: Path, tmp_path: Path) -> None:
        other = tiny_llama(tmp_path, seed=21)
        backends = [
            TransformersBackend(str(tiny)),
            TransformersBackend(str(other)),
            TransformersBackend(str(tiny), {"dtype": "bfloat16"}),
        ]
        assert len({backend.identity for backend in backends}) == 3
        assert TransformersBackend(str(tiny), {"max_sequences": 3}).identity == backends[0].identity

    @pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # PEFT's, of transformers
    def test_an_adapter_changes_answers(self, tiny: Path, tmp_path: Path) -> None:
        pytest.importorskip("peft")
        adapter = tiny_lora(tmp_path / "adapter", tiny)
        adapted = TransformersBackend(str(tiny), {"device": "cpu"}, adapter)
        base = TransformersBackend(str(tiny), {"device": "cpu"})
        assert adapted.identity != base.identity
        greedy = SEA.with_params(temperature=0.0, max_tokens=12)
        assert draw(adapted, greedy)[0].text != draw(base, greedy)[0].text
        for backend in (adapted, base):
            run(backend.aclose())

    def test_a_cpu_is_bucketed_and_what_does_not_load_says_so(self, tiny: Path) -> None:
        backend = TransformersBackend(str(tiny), {"device": "cpu"})
        assert draw(backend, SEA)[0].usage.completion_tokens == 6
        assert backend._engine is not None
        assert type(backend._engine._batching).__name__ == "Bucketed"
        run(backend.aclose())
        with pytest.raises(ModelError, match="does not load"):
            draw(TransformersBackend(str(tiny), {"attention": "no_such", "device": "cpu"}), SEA)
