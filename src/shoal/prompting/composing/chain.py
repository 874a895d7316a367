"""Prompts put together with `+`: "What is it? " + c.generate_text() + " Why? " + c.generate_text()."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from shoal.prompting.composing.jinja import JinjaPrompt
from shoal.prompting.composing.writing import Mocks, Rendered, Writing, shown
from shoal.prompting.template import Template
from shoal.runtime.program import Program

Step = Callable[[Writing], Awaitable[None]]


class Composable(Program[Rendered]):
    """A Program that writes a prompt out, step by step; each call sees the text before it."""

    __slots__ = ("steps",)

    def __init__(self, *steps: Step) -> None:
        super().__init__(self._write, name="prompt")
        self.steps = steps

    async def _write(self, mocks: Mocks | None = None) -> Rendered:
        writing = Writing(mocks)
        await self.write(writing)
        return writing.rendered()

    async def write(self, writing: Writing) -> None:
        """Write this out behind what `writing` holds."""
        for step in self.steps:
            await step(writing)

    def dry_run(self, *, mocks: Mapping[str, Any] | None = None, reply: str = "") -> Program[Rendered]:
        """The same without a call: each gives `mocks[its name]`, or `reply`."""
        return Program(self._write, (Mocks(mocks or {}, reply),), name="prompt")

    def __add__(self, other: "Composable | str") -> "Composable":
        return Composable(*self.steps, *_steps(other)) if isinstance(other, Composable | str) else NotImplemented

    def __radd__(self, other: "Composable | str") -> "Composable":
        return Composable(*_steps(other), *self.steps) if isinstance(other, Composable | str) else NotImplemented


def _steps(part: Composable | str) -> tuple[Step, ...]:
    return part.steps if isinstance(part, Composable) else text(part).steps


def text(value: str) -> Composable:
    """Text as it is."""

    async def step(writing: Writing) -> None:
        writing.write(value)

    return Composable(step)


def _call(method: str, *args: Any, **options: Any) -> Composable:
    async def step(writing: Writing) -> None:
        writing.streams = method in ("generate_text", "instruct", "chat")
        value = await getattr(writing, method)(*args, **options)
        writing.streams = False
        writing.write(shown(value))

    return Composable(step)


def generate_text(*, name: str = "", **params: Any) -> Composable:
    """The model's continuation of the text so far."""
    return _call("generate_text", name=name, **params)


def generate_object(cls: Any, *, name: str = "", **params: Any) -> Composable:
    """A value of a type, written as JSON; the output `name` is the value itself."""
    return _call("generate_object", cls, name=name, **params)


def select(options: Sequence[str], *, name: str = "", **params: Any) -> Composable:
    """One of the options."""
    return _call("select", options, name=name, **params)


def choose(options: Sequence[str], *, top_k: int = 1, name: str = "", **params: Any) -> Composable:
    """The likeliest option, or the `top_k` likeliest."""
    return _call("choose", options, top_k=top_k, name=name, **params)


def instruct(*, assistant_prefix: str = "", name: str = "", **params: Any) -> Composable:
    """The answer to the text so far as an instruction."""
    return _call("instruct", assistant_prefix=assistant_prefix, name=name, **params)


def chat(*, name: str = "", **params: Any) -> Composable:
    """The assistant's next turn after the turns so far."""
    return _call("chat", name=name, **params)


def store(name: str) -> Composable:
    """Keep what the call before gave as the output `name`."""

    async def step(writing: Writing) -> None:
        writing.store(name, writing.last)

    return Composable(step)


def f(template: str, **values: Any) -> Composable:
    """Text with gaps `{name}`, filled with values or with outputs kept so far."""
    form = Template(template)

    async def step(writing: Writing) -> None:
        known = {**writing.outputs, **values}
        writing.write(form.fill({name: shown(value) for name, value in known.items() if name in form.names}))

    return Composable(step)


def j(template: str, **inputs: Any) -> Composable:
    """A Jinja template with calls inside (see JinjaPrompt); it sees the text before it, and outputs kept so far."""
    form = JinjaPrompt(template)

    async def step(writing: Writing) -> None:
        await form.write(writing, inputs)

    return Composable(step)


def section(body: Composable | str, name: str = "", *, hidden: bool = False) -> Composable:
    """What `body` writes is the output `name`; hidden, it is out of the prompt when it is written."""

    async def step(writing: Writing) -> None:
        with writing.section(name, hidden=hidden):
            for inner in _steps(body):
                await inner(writing)

    return Composable(step)


def role(role: str, body: Composable | str) -> Composable:
    """What `body` writes is a turn of `role`."""

    async def step(writing: Writing) -> None:
        with writing.role(role):
            for inner in _steps(body):
                await inner(writing)

    return Composable(step)
