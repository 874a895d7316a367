"""vLLM keeps the contract of every engine; no process of its outlives ours."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.backends.contract import STORY, draw, of
from tests.backends.tools_contract import ToolsContract
from tests.scripting import run

from shoal.backends import BaseModel
from shoal.backends.engines import Loading
from shoal.backends.vllm import VllmBackend
from shoal.errors import BadRequest, EngineError, UsageError
from shoal.runtime.backend import Draws
from shoal.runtime.model import sample
from shoal.runtime.types import Completion, Delta, Json, Message, Request
from shoal.techniques.opening import open_model

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed: `make engines` runs these where it is", allow_module_level=True)

pytestmark = pytest.mark.timeout(900)  # vLLM takes its time to start
AT_ONCE = 8  # sequences decoded together
OPTIONS: dict[str, Any] = {
    "enforce_eager": True,
    "max_num_seqs": AT_ONCE,
    # A tiny model finds no end of white space.
    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
}
ENDLESS = of(STORY, max_tokens=4000, extra={"ignore_eos": True})


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """As little memory and as few processes and threads as vLLM can do with: these are most of what a start costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def opened(model: Path, adapter: str = "") -> VllmBackend:
    lora = model.parent / "lora"
    name = "vllm/m:bent" if adapter else "vllm/m"
    return VllmBackend(Loading(str(model), OPTIONS, lora if adapter else None, name, {"bent": lora}))


@pytest.fixture(scope="module")
def engine(taught: Path) -> Iterator[VllmBackend]:
    backend = opened(taught)
    yield backend
    run(backend.aclose())


async def text(backend: VllmBackend, request: Request, n: int = 1, age: int = 0) -> str:
    (outcome,) = await backend.generate([Draws(request, n, tuple((i,) for i in range(n)), age)])
    assert isinstance(outcome, list), outcome
    return outcome[0].text


async def pieces(stream: AsyncIterator[Delta | Completion], count: int) -> None:
    for _ in range(count):
        assert isinstance(await anext(stream), Delta)


class TestVllm(ToolsContract):
    @pytest.fixture
    def backend(self, engine: VllmBackend) -> VllmBackend:
        return engine

    def test_draws_of_one_prompt_are_one_request_of_the_engine(self, model: BaseModel) -> None:
        drawn = run(sample(model, of("Name a fish.", max_tokens=4), 5))
        assert model.scheduler.wire_requests == 1
        assert [c.usage.prompt_tokens > 0 for c in drawn] == [True, False, False, False, False]
        assert len({c.text for c in drawn}) > 1

    def test_greedy_draws_are_one(self, backend: VllmBackend) -> None:
        drawn = draw(backend, of(STORY, temperature=0.0, max_tokens=6), 3)
        assert len({c.text for c in drawn}) == 1
        assert [(c.usage.calls, c.usage.cached_calls) for c in drawn] == [(1, 0), (0, 1), (0, 1)]

    def test_draws_that_stop_end_each_by_itself(self, backend: VllmBackend) -> None:
        for completion in draw(backend, of(STORY, stop=["a"], max_tokens=12), 6):
            assert "a" not in completion.text
            assert completion.finish_reason == "stop" or completion.usage.completion_tokens == 12

    def test_each_of_several_constrained_draws_keeps_the_constraint(self, backend: VllmBackend) -> None:
        texts = [c.text for c in draw(backend, of(STORY, regex="[a-c]{5}"), 4)]
        assert all(len(text) == 5 and set(text) <= set("abc") for text in texts)

    def test_a_seed_names_a_draw(self, model: BaseModel) -> None:
        one = of(STORY, max_tokens=12, seed=3)
        run(model(one))  # from here on the prompt is cached, which changes its rounding
        first, again, other = (run(model(request)).text for request in (one, one, one.with_params(seed=4)))
        assert first == again != other

    def test_alternatives(self, model: BaseModel) -> None:
        completion = run(model(of("Hi", max_tokens=2, logprobs=True, top_logprobs=3, extra={"ignore_eos": True})))
        assert completion.logprobs is not None
        for token in completion.logprobs:
            assert len(token.top) == 3
            assert [logprob for _, logprob in token.top] == sorted((x for _, x in token.top), reverse=True)
            assert token.logprob <= token.top[0][1]

    def test_cancelling_gives_the_engine_to_those_who_wait(self, backend: VllmBackend) -> None:
        async def main() -> None:
            full = asyncio.ensure_future(text(backend, ENDLESS, AT_ONCE - 1))
            async with aclosing(backend.stream(ENDLESS)) as stream:  # type: ignore[type-var]
                await pieces(stream, 1)
                waiting = asyncio.ensure_future(text(backend, of("Hi", max_tokens=2, temperature=0.0), age=9))
                await pieces(stream, 20)
                assert not waiting.done()
                full.cancel()
                async with asyncio.timeout(60):
                    assert await waiting
            with pytest.raises(asyncio.CancelledError):
                await full

        run(main())

    def test_the_oldest_program_goes_first(self, backend: VllmBackend) -> None:
        done: list[int] = []

        async def asked(age: int) -> None:
            await text(backend, of(f"{age}. {STORY}", max_tokens=8, extra={"ignore_eos": True}), AT_ONCE, age)
            done.append(age)

        async def main() -> None:
            full = asyncio.ensure_future(text(backend, ENDLESS, AT_ONCE - 1, 1))
            async with aclosing(backend.stream(ENDLESS)) as stream:  # type: ignore[type-var]
                await pieces(stream, 1)
                waiting = [asyncio.ensure_future(asked(age)) for age in (4, 2, 3)]
                await pieces(stream, 10)  # by now they stand in the engine's queue
                assert not done
                full.cancel()
            await asyncio.gather(*waiting)

        run(main())
        assert done == [2, 3, 4]

    def test_an_adapter_answers_by_its_name_on_the_same_engine(self, taught: Path, backend: VllmBackend) -> None:
        bent = opened(taught, "bent")
        plain = of(STORY, max_tokens=8, temperature=0.0)
        before, other, after = (draw(b, plain)[0] for b in (backend, bent, backend))
        assert before.text == after.text != other.text
        assert (before.model, other.model) == ("vllm/m", "vllm/m:bent")
        assert bent._engine is backend._engine
        assert bent.identity != backend.identity
        run(bent.aclose())
        assert draw(backend, plain)[0].text == before.text  # which still uses it

    def test_what_it_does_not_read_is_refused(self, model: BaseModel) -> None:
        image = Json.of([{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}])
        for wrong, why in (
            (of("x", extra={"best_of": 3}), "knows no best_of"),
            (Request(messages=(Message("user", image),)), "text only"),
            (of("x", extra={"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}), "is not the template's"),
            (of("x", choices=["Paris<|im_end|>"], logprobs=True), "not what its tokens spell"),
            (Request(prompt=""), "empty prompt"),
            (of("x", extra={"min_tokens": 9}, max_tokens=4), "min_tokens must be"),
            (of("x", extra={"bad_words": [3]}), "'int' object has no attribute"),
            (of("x", extra={"logit_bias": [1]}), "'list' object has no attribute"),
            (of("x", extra={"chat_template_kwargs": [1]}), "chat_template_kwargs is an object"),
        ):
            with pytest.raises(BadRequest, match=why):
                run(model(wrong))

    def test_what_the_caller_says_of_the_template_reaches_it(self, model: BaseModel) -> None:
        asked = of("Hi", max_tokens=2, temperature=0.0, extra={"chat_template_kwargs": {"enable_thinking": False}})
        assert run(model(asked)).text

    def test_when_its_engine_dies_calls_fail_and_the_next_one_starts_another(self, engine: VllmBackend) -> None:
        async def main() -> None:
            stream = engine.stream(ENDLESS)
            await pieces(stream, 1)
            process = engine._engine._engine._process
            assert process is not None
            os.kill(process.child.pid, signal.SIGKILL)
            with pytest.raises(EngineError, match="process ended"):
                async for _ in stream:
                    pass
            gone([pid for pid, _ in started(process.child.pid)])
            anew = asyncio.ensure_future(engine.generate([Draws(of("Hi"))]))
            while engine._engine._engine._process is process:
                await asyncio.sleep(0)
            anew.cancel()

        run(main())


def started(session: int) -> list[tuple[int, str]]:
    """The processes of a session, with their names."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, _, _, its_session = rest.split()[:4]
        if int(its_session) == session and state != "Z":
            found.append((int(folder.name), name.partition("(")[2]))
    return found


def gone(pids: list[int]) -> None:
    """Wait until the processes have ended."""
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        assert select.select([handle], [], [], 60)[0], f"process {pid} lives on"
        os.close(handle)


PROGRAM = """
import asyncio, sys
from pathlib import Path
from shoal.techniques.opening import open_model
from shoal.runtime.types import Request

async def main():
    backend = open_model("vllm/m", cache=None, config=Path("shoal.toml")).backend
    stream = backend.stream(Request.of("A story", max_tokens=400, extra={"ignore_eos": True}))
    await anext(stream)
    print(backend._engine._engine._process.child.pid, flush=True)
    if sys.stdin.readline() == "end\\n":
        return
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_no_process_outlives_one_that_is_killed(taught: Path) -> None:
    Path("shoal.toml").write_text(
        f'[engines.m]\nengine = "vllm"\nmodel = "{taught}"\noptions = {{ enforce_eager = true }}\n'
    )
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    pipe = subprocess.PIPE
    several = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}  # as it is where nobody says otherwise
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=several) as it:
        assert it.stdout is not None
        assert it.stderr is not None
        session = int(it.stdout.readline())
        running = started(session)
        it.kill()
        it.wait()
        assert any("EngineCor" in name for _, name in running)
        gone([pid for pid, _ in running])
        assert it.stderr.read() == it.stdout.read() == ""


def test_a_model_that_does_not_load_says_why(taught: Path) -> None:
    backend = VllmBackend(Loading(str(taught), {"max_model_len": 1 << 20}, None, "vllm/m"))
    with pytest.raises(EngineError, match=r"does not load: .*max_model_len") as caught:
        draw(backend, of("Hi"))
    assert "pydantic" not in str(caught.value)
    run(backend.aclose())


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"options": {"max_model_length": 3}}, "vLLM has no option 'max_model_length'; did you mean max_model_len"),
        ({"options": {"tool_call_parser": "hermez"}}, "vLLM has no tool_call_parser 'hermez'; did you mean hermes"),
        ({"options": {"reasoning_parser": "qwen"}}, "vLLM has no reasoning_parser 'qwen'; did you mean"),
        ({"options": {"model": "x"}}, "model is no option: a key of the table"),
        (
            {"options": {"max_num_seqs": "many"}},
            r"vllm/m options: Expected `int \| null`, got `str` - at `\$.max_num_seqs`",
        ),
        ({"options": {"max_num_seqs": -3}}, r"Expected `int` >= 1 - at `\$.max_num_seqs`"),
        ({"options": {"max_logprobs": "all"}}, r"Expected `int`, got `str` - at `\$.max_logprobs`"),
        ({"options": {"revision": 3}}, r"Expected `str \| null`, got `int` - at `\$.revision`"),
        ({"options": {"lora_target_modules": 3}}, r"Expected `array \| null`, got `int` - at `\$.lora_target_modules`"),
        ({"options": {"hf_token": "x"}}, "hf_token is no option"),
        ({"model": "."}, "is no model: there is no config.json"),
        ({"model": "shoal.toml"}, "is a file, not the directory of a model"),
        ({"model": "nobody/nothing"}, "run: hf download nobody/nothing"),
        ({"lora": {"a": "nowhere"}}, r"lora.a: nowhere is no LoRA adapter: adapter_config.json"),
    ],
)
def test_mistakes_are_named_before_anything_is_loaded(taught: Path, table: dict[str, Any], said: str) -> None:
    table = {"engine": "vllm", "model": str(taught), **table}
    lines = (f"{key} = {_toml(value)}" for key, value in table.items())
    Path("shoal.toml").write_text("[engines.m]\n" + "\n".join(lines))
    with pytest.raises(UsageError, match=said):
        open_model("vllm/m", cache=None)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(each)}' for key, each in value.items())} }}"
    return f'"{value}"' if isinstance(value, str) else str(value)
