"""Registries and built-ins: what a call does is decided where it runs."""

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from tests.scripting import scripted

import shoal
from shoal import llm
from shoal.errors import UsageError
from shoal.runtime import registry


def saying(text: str) -> shoal.Model:
    return scripted(lambda request: f"{text}:{request.text}")[0]


@shoal.program
async def ask() -> str:
    return await llm.generate_text("q")


def test_without_a_model_one_line_says_what_to_do() -> None:
    with shoal.Registry() as scope:
        scope._model = None
        with pytest.raises(UsageError, match="no model: name one"):
            shoal.run(ask())


def test_the_model_is_found_where_the_program_runs() -> None:
    with shoal.using(saying("in")):
        program = ask()
        assert shoal.run(program) == "in:q"
    assert shoal.run(program, model=saying("out")) == "out:q"


def test_register_holds_to_the_end_of_the_scope() -> None:
    with shoal.Registry():
        scripted(lambda request: "base")[0].register()
        assert shoal.run(ask()) == "base"
        with shoal.Registry():
            model = shoal.apply(shoal_best, saying("x"))
            model.register()
            assert shoal.run(ask()) == "technique of x:q"
        assert shoal.run(ask()) == "base"


async def shoal_best(model: shoal.Model, request: shoal.Request) -> shoal.Completion:
    """A technique."""
    return shoal.Completion(f"technique of {(await model(request)).text}")


def test_two_registries_side_by_side_in_one_parallel() -> None:
    with shoal.using(saying("one")):
        one = shoal.copy_registry()
    with shoal.using(saying("two")):
        two = shoal.copy_registry()
        llm.generate_text.configure(lambda prompt: "after the copy")
    programs = [shoal.with_registry(ask(), one), shoal.with_registry(ask(), two)] * 2
    assert shoal.run(shoal.parallel(*programs)) == ["one:q", "two:q"] * 2


def test_a_temporary_fake() -> None:
    async def fake(prompt: str) -> str:
        return f"fake {prompt}"

    with shoal.using(saying("real")):
        with shoal.Registry():
            llm.generate_text.configure(fake)
            assert shoal.run(ask()) == "fake q"
            assert shoal.run(llm.instruct("i", assistant_prefix="")) == "real:i"
        assert shoal.run(ask()) == "real:q"


def test_threads_begin_in_the_scope_they_are_started_in() -> None:
    said: list[str] = []

    def work() -> None:
        said.append(shoal.run(ask()))
        inner = threading.Thread(target=lambda: said.append(shoal.run(ask())))
        inner.start()
        inner.join()

    with shoal.using(saying("outer")):
        with shoal.using(saying("inner")):
            thread = threading.Thread(target=work)
            thread.start()
        thread.join()
        assert shoal.run(asyncio.to_thread(shoal.run, ask())) == "outer:q"
    assert said == ["inner:q", "inner:q"]
    plain = threading.Thread(target=lambda: said.append(type(registry.current()).__name__))
    plain.start()
    plain.join()
    assert said[-1] == "_Root"


def test_scopes_that_overlap_in_tasks_do_not_mix() -> None:
    shared = shoal.Registry()
    shared.register(saying("shared"))

    async def one(turns: int) -> str:
        with shared:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await ask()

    async def main() -> list[str]:
        return list(await asyncio.gather(one(3), one(1), one(2)))

    assert shoal.run(main()) == ["shared:q"] * 3


def test_defaults_stand_in_for_what_a_call_leaves_out_or_gives_as_none() -> None:
    model, backend = scripted(lambda request: "")
    with shoal.using(model):
        llm.generate_text.configure(temperature=0.3)
        llm.generate_text.configure(max_tokens=5)
        shoal.run(llm.generate_text("q", temperature=None))
        shoal.run(llm.generate_text("q", temperature=0.9, stop=["x"]))
    params = [(r.params.temperature, r.params.max_tokens, r.params.stop) for r in backend.requests]
    assert params == [(0.3, 5, ()), (0.9, 5, ("x",))]


def test_what_an_implementation_does_not_know_is_an_error() -> None:
    def fake(prompt: str, top_p: float = 1.0) -> str:
        return prompt

    with shoal.using(saying("x")):
        with pytest.raises(UsageError, match="no sampling parameter 'top_q'; did you mean top_p"):
            shoal.run(llm.generate_text("q", top_q=1))  # type: ignore[call-arg]
        llm.generate_text.configure(fake)
        assert shoal.run(llm.generate_text("q", top_p=0.5)) == "q"
        with pytest.raises(UsageError, match=r"generate_text: .*fake takes no 'top_k'; did you mean top_p"):
            shoal.run(llm.generate_text("q", top_k=3))
        with pytest.raises(UsageError, match="takes no 'temperature'"):
            llm.generate_text.configure(fake, temperature=1)


def test_any_callable_will_do() -> None:
    class Fake:
        def __call__(self, prompt: str, **params: Any) -> str:
            return f"{prompt} {params}"

    def two(mark: str, prompt: str) -> str:
        return prompt + mark

    with shoal.using(saying("x")):
        for implementation, said in ((Fake(), "q {'stop': 'x'}"), (lambda prompt, stop: prompt + stop, "qx")):
            llm.generate_text.configure(implementation)
            assert shoal.run(llm.generate_text("q", stop="x")) == said
        llm.generate_text.configure(partial(two, "!"))
        assert shoal.run(llm.generate_text("q")) == "q!"
        llm.generate_text.configure(lambda prompt: ask_inner())
        assert shoal.run(llm.generate_text("q")) == "inner"


@shoal.program
async def ask_inner() -> str:
    return "inner"


@shoal.builtin
async def shout(text: str, *, times: int = 1) -> str:
    """A built-in of the user's."""
    return text.upper() + "!" * times


def test_users_declare_built_ins_of_their_own() -> None:
    assert shoal.run(shout("a")) == "A!"
    assert shout.__doc__ == "A built-in of the user's."
    with shoal.Registry():
        shout.configure(times=3)
        assert shoal.run(shout("a")) == "A!!!"
        shout.configure(lambda text, times, end="": f"{text}{times}{end}", times=2)
        assert shoal.run(shout("a", end=".")) == "a2."  # type: ignore[call-arg]
        with pytest.raises(UsageError, match="shout takes at most 2 arguments, not 3"):
            shoal.run(shout("a", 1, 2))  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="shout takes no 'tims'; did you mean times"):
        shoal.run(shout("a", tims=2))  # type: ignore[call-arg]


def test_a_generator_that_is_left_does_not_leave_its_scope_behind() -> None:
    async def pieces() -> Any:
        with shoal.using(saying("inner")):
            yield 1
            yield 2

    async def main() -> type[registry.Registry]:
        with shoal.using(saying("outer")):
            async for _ in pieces():
                break
        return type(registry.current())

    assert shoal.run(main()) is registry._Root


def test_a_pools_thread_belongs_to_no_scope() -> None:
    with ThreadPoolExecutor(1) as pool:
        with shoal.using(saying("a")):
            assert pool.submit(lambda: type(registry.current())).result() is registry._Root
        with shoal.using(saying("b")):
            bound = contextvars.copy_context()
            assert pool.submit(bound.run, shoal.run, ask()).result() == "b:q"
