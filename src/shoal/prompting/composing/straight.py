"""Templates whose course is the same whatever one input is: written once, then filled in without Jinja.

A prompt put to thousands of questions is mostly the same each time. Where the question only stands in the text, and
what calls give does too, rendering the template once tells all the steps of writing it: text, turns and calls.
"""

from collections.abc import Collection, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from secrets import token_hex
from typing import Any

import msgspec

from shoal.prompting.composing.jinja import CALLS, JinjaPrompt
from shoal.prompting.composing.writing import Rendered, Writing, shown
from shoal.runtime.program import Program

_MARK = f"\ue000{token_hex(16)}\ue001"  # stands for what is filled in; in no text that comes from outside
_KEPT = 512  # courses
_encode = msgspec.json.Encoder(enc_hook=repr).encode

_Step = tuple[str, Any]


class StraightPrompt:
    """A template that is put to many values of one input, `name`, while others stay the same for many of them.

    `passing` are inputs that come with each value, and may be left out where the template does not name them. Where it
    does, or does anything with the input but write it, it is rendered anew each time: what is written is the same.
    """

    def __init__(self, prompt: JinjaPrompt, name: str, *, passing: Collection[str] = ()) -> None:
        self.prompt = prompt
        self.name = name
        self.straight = is_straight(prompt.text, name, passing)
        self._passing = frozenset(passing)
        self._courses: dict[bytes, list[_Step]] = {}

    def render(self, /, **inputs: Any) -> Program[Rendered]:
        """The program that writes the prompt out with these inputs."""
        if not self.straight:
            return self.prompt.render(**inputs)
        return Program(self._render, (), inputs, name=self.prompt.name)

    async def _render(self, /, **inputs: Any) -> Rendered:
        value = inputs.pop(self.name)
        same = {name: given for name, given in inputs.items() if name not in self._passing}
        key = _encode(same)
        course = self._courses.get(key)
        if course is None:
            while len(self._courses) >= _KEPT:
                del self._courses[next(iter(self._courses))]
            course = self._courses[key] = _at_once(self._course(same))
        return await _written(course, value)

    async def _course(self, inputs: Mapping[str, Any]) -> list[_Step]:
        recording = _Recording()
        await self.prompt.write(recording, {**inputs, self.name: _MARK})
        return list(_joined(recording.steps))


class _Recording(Writing):
    """Notes the steps of writing a prompt, and asks nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[_Step] = []

    def write(self, text: str) -> None:
        self.count(text)
        if text == _MARK:
            self.steps.append(("value", None))
        elif text == f"{_MARK}reply":
            self.steps.append(("reply", None))
        elif text:
            self.steps.append(("text", text))

    async def generate_text(self, *, name: str = "", **params: Any) -> str:
        self.steps.append(("call", {"name": name, **params}))
        return f"{_MARK}reply"

    @contextmanager
    def section(self, name: str = "", *, hidden: bool = False) -> Iterator[None]:
        self.steps.append(("begin", lambda writing: writing.section(name, hidden=hidden)))
        yield
        self.steps.append(("end", None))

    @contextmanager
    def role(self, role: str) -> Iterator[None]:
        self.steps.append(("begin", lambda writing: writing.role(role)))
        yield
        self.steps.append(("end", None))


def _joined(steps: Iterable[_Step]) -> Iterator[_Step]:
    """The steps, with texts that stand one behind the other as one."""
    for kind, group in groupby(steps, key=itemgetter(0)):
        if kind == "text":
            yield kind, "".join(text for _, text in group)
        else:
            yield from group


def _at_once(course: Coroutine[Any, Any, list[_Step]]) -> list[_Step]:
    """The result of what waits for nothing: no turn of the event loop is lost, by which calls would miss each other."""
    try:
        while True:
            course.send(None)
    except StopIteration as done:
        steps: list[_Step] = done.value
        return steps


async def _written(course: list[_Step], value: Any) -> Rendered:
    """A prompt written out by its steps."""
    writing, reply, blocks = Writing(), "", []
    for kind, what in course:
        if kind == "text":
            writing.write(what)
        elif kind == "value":
            writing.write(shown(value))
        elif kind == "call":
            reply = await writing.generate_text(**what)
        elif kind == "reply":
            writing.write(shown(reply))
        elif kind == "begin":
            blocks.append(what(writing))
            blocks[-1].__enter__()
        else:
            blocks.pop().__exit__(None, None, None)
    return writing.rendered()


def is_straight(text: str, name: str, passing: Collection[str] = ()) -> bool:
    """Whether a template only ever writes the input `name` and what `generate_text` gives, and takes nothing by chance.

    It names none of the inputs `passing`. A template that sets variables or has macros may do anything with them: it is
    not straight.
    """
    from jinja2 import nodes

    from shoal.prompting.composing.environment import environment

    tree = environment.parse(text)
    elsewhere = (nodes.Assign, nodes.AssignBlock, nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.Block)
    if any(isinstance(node, elsewhere) for node in tree.find_all(nodes.Stmt)):
        return False
    if any(node.name == "random" for node in tree.find_all(nodes.Filter)):
        return False
    written = {id(node) for output in tree.find_all(nodes.Output) for node in output.nodes}
    called = set()
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name in CALLS:
            if call.node.name != "generate_text" or id(call) not in written:
                return False
            called.add(id(call.node))
    names = [node for node in tree.find_all(nodes.Name) if id(node) not in called]
    named = {*CALLS, *passing}
    return all(node.name not in named and (node.name != name or id(node) in written) for node in names)
