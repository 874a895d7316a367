"""A program over rows: the columns of a row are its arguments, what it returns is the row's output."""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from shoal.batch.rows import Row
from shoal.errors import UsageError, did_you_mean
from shoal.prompting.composing.writing import Rendered, shown
from shoal.runtime.loading import fingerprint, load
from shoal.runtime.types import Completion

_TEMPLATES = (".jinja", ".jinja2", ".j2")


class Returned(Completion, frozen=True):
    """What a program returned, as a completion: `text` to be read and scored, `output` as it is."""

    output: Any = None


class RowFunction:
    """A program, a Jinja prompt or an async function, called with rows.

    `name` and `version` tell it from others, and from itself before a change.
    """

    def __init__(self, function: Any, *, name: str = "", version: str = "") -> None:
        render = getattr(function, "render", None)
        self._call: Callable[..., Awaitable[Any]] = function if render is None else render
        self.name = name or getattr(function, "name", "") or getattr(function, "__qualname__", repr(function))
        self.version = version or _source(function)
        if inspect.isclass(function):
            raise UsageError(f"{self.name} is a class; name a function or a program")
        self._parameters = inspect.signature(self._call).parameters
        for name, parameter in self._parameters.items():
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
                raise UsageError(f"{self.name} takes {name!r} by place alone; columns are given by name")
        self._takes_all = any(p.kind is p.VAR_KEYWORD for p in self._parameters.values())

    def check(self, columns: Iterable[str], where: str) -> None:
        """UsageError for an argument that no column gives."""
        columns = list(columns)
        for name in self.needs():
            if name not in columns:
                raise UsageError(f"{self.name} takes {name!r}; {where} has none: {did_you_mean(name, columns)}")

    def needs(self) -> list[str]:
        """The columns that a row must have: the arguments without a default."""
        given = self._parameters.items()
        return [name for name, p in given if p.default is p.empty and p.kind is not p.VAR_KEYWORD]

    def reads(self) -> list[str] | None:
        """The columns it is given where a row has them; None for all."""
        return None if self._takes_all else list(self._parameters)

    def row(self, item: Any) -> Row:
        """An item as a row: a dict as it is, a tuple by the order of the arguments, anything else as the first."""
        if isinstance(item, dict):
            return item
        values = item if isinstance(item, tuple) else (item,)
        names = [name for name, parameter in self._parameters.items() if parameter.kind is not parameter.VAR_KEYWORD]
        if len(values) > len(names):
            raise UsageError(f"{self.name} takes {len(names)} arguments; an item has {len(values)}")
        return dict(zip(names, values, strict=False))

    async def __call__(self, row: Row) -> Returned:
        """Run the program on a row; columns that it does not take are left out."""
        given = {name: value for name, value in row.items() if self._takes_all or name in self._parameters}
        return returned(await self._call(**given))


def load_program(spec: str) -> RowFunction:
    """The program `FILE.py:NAME` names, or a Jinja template in a file that ends in .jinja or .j2."""
    if spec.endswith(_TEMPLATES):
        from shoal.prompting.composing.jinja import JinjaPrompt

        try:
            text = Path(spec).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--program {spec}: {getattr(error, 'strerror', None) or error}") from None
        return RowFunction(JinjaPrompt(text, name=Path(spec).name), name=spec, version=text)
    function = load(spec, f"--program {spec}")
    return RowFunction(function, name=spec, version=fingerprint(spec))


def returned(result: Any) -> Returned:
    """What a program returned, as it stands in an output."""
    if isinstance(result, Rendered):
        read = result.outputs.get("answer", result.text)  # an output of that name is what is asked for
        output = {"text": result.text, "outputs": _plain(result.outputs)}
        return Returned(read if isinstance(read, str) else shown(read), "", output=output)
    if isinstance(result, Completion):
        return Returned(result.text, result.finish_reason, model=result.model, answer=result.answer, output=result.text)
    answer = str(result) if isinstance(result, int | float) and not isinstance(result, bool) else None
    return Returned("" if result is None else shown(result), "", answer=answer, output=_plain(result))


def _plain(value: Any) -> Any:
    text = shown(value)
    return text if isinstance(value, str) else msgspec.json.decode(text)


def _source(function: Any) -> str:
    try:
        return inspect.getsource(inspect.unwrap(function))
    except (OSError, TypeError):  # typed in at a prompt, or no function
        return getattr(function, "text", "")
