"""Jinja templates with calls inside: `{{ generate_text(stop="\\n") }}` goes on from the text rendered so far.

A template may come from a file or a folder of somebody's: it runs in Jinja's sandbox, sees only what it is given, reads
no files, and can neither build texts nor go on without bound.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from shoal.errors import ShoalError, UsageError
from shoal.prompting.composing.writing import Mocks, Rendered, Writing
from shoal.runtime.program import Program

if TYPE_CHECKING:
    from jinja2.runtime import Context

_PIECES = 1000  # of text that are written in one turn of the event loop
CALLS = ("generate_text", "generate_texts", "generate_object", "select", "choose", "instruct", "chat", "store")


class JinjaPrompt:
    """`JinjaPrompt("Q: {{ question }}\\nA: {{ generate_text(name='answer') }}").render(question="Why?")` is a Program.

    In a template stand `generate_text`, `generate_texts`, `generate_object(cls)`, `select(options)`,
    `choose(options, top_k=1)`, `instruct(assistant_prefix=)` and `chat()`, which take what the built-ins of those names
    take, and `name=` to keep what they give as an output; `store(name, value)`; `{% section name, hidden %}` and
    `{% role user %}`, each with its end. What `{% set %}` sets at the top is an output too. Text within a macro, a
    `{% filter %}` or a `{% set %}` block is collected before it counts as rendered. A template streams call by call.

    Raises UsageError, with the line, for a template that is wrong; what goes wrong in a call is raised as it is, with
    the line as a note.
    """

    def __init__(self, text: str, *, name: str = "template") -> None:
        from jinja2 import TemplateSyntaxError

        from shoal.prompting.composing.environment import environment, misplaced_block

        self.text = text
        self.name = name
        try:
            if line := misplaced_block(text):
                raise TemplateSyntaxError("a section or role cannot stand in a macro, filter, call or set block", line)
            self._template = environment.from_string(text)
        except TemplateSyntaxError as error:
            raise UsageError(f"{name}, line {error.lineno}: {error.message}") from None

    def render(self, /, **inputs: Any) -> Program[Rendered]:
        """The program that writes the prompt out with these inputs."""
        return Program(self._render, (None,), inputs, name=self.name)

    def dry_run(
        self, /, *, mocks: Mapping[str, Any] | None = None, reply: str = "", **inputs: Any
    ) -> Program[Rendered]:
        """The same without a call: each gives `mocks[its name]`, or `reply`."""
        return Program(self._render, (Mocks(mocks or {}, reply),), inputs, name=self.name)

    async def _render(self, mocks: Mocks | None, /, **inputs: Any) -> Rendered:
        writing = Writing(mocks)
        await self.write(writing, inputs)
        return writing.rendered()

    async def write(self, writing: Writing, inputs: Mapping[str, Any]) -> None:
        """Write the template out behind what `writing` holds."""
        from jinja2 import TemplateError

        from shoal.prompting.composing.environment import BLOCKS, TURNS, Ranges, Turns, texts

        calls = {name: getattr(writing, name) for name in CALLS}
        blocks = _Blocks(writing)
        given = {**writing.outputs, **inputs}
        if taken := sorted(given.keys() & calls.keys()):
            raise UsageError(f"{self.name}: the input {taken[0]!r} has the name of a call")
        known = {"range": Ranges(), **given, **calls, BLOCKS: blocks, TURNS: Turns()}
        context = self._template.new_context(known)
        try:
            async for i, text in texts(self._template, context):
                writing.write(text)
                if i % _PIECES == 0:
                    await asyncio.sleep(0)  # so that a timeout can end a long loop
        except ShoalError as error:
            if line := self._line(error.__traceback__):
                error.add_note(f"in {self.name}, line {line}")
            raise
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise UsageError(f"{self.name}, line {self._line(error.__traceback__)}: {error}") from error
        except (RecursionError, MemoryError) as error:
            raise UsageError(f"{self.name}: {type(error).__name__}") from None
        finally:
            blocks.leave()
        self._keep_variables(writing, context)

    def _keep_variables(self, writing: Writing, context: "Context") -> None:
        for name in context.exported_vars:
            value = context.vars[name]
            if not callable(value) and not type(value).__module__.startswith("jinja2"):  # no macro, no namespace
                writing.outputs.setdefault(name, value)

    def _line(self, trace: TracebackType | None) -> int:
        line = 0
        while trace is not None:
            if trace.tb_frame.f_globals.get("__jinja_template__") is self._template or (
                trace.tb_frame.f_code.co_filename == "<template>"
            ):
                line = self._template.get_corresponding_lineno(trace.tb_lineno)
            trace = trace.tb_next
        return line


class _Blocks:
    """The sections and roles that are open in a template."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._open: list[AbstractContextManager[None]] = []

    def begin(self, kind: str, name: str, hidden: bool) -> None:
        writing = self._writing
        block = writing.role(name) if kind == "role" else writing.section(name, hidden=hidden)
        block.__enter__()
        self._open.append(block)

    def end(self) -> None:
        self._open.pop().__exit__(None, None, None)

    def leave(self) -> None:
        self._open.clear()
