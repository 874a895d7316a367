"""A prompt as it is written: the text so far, whose turn it is, and what calls in it have given."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import Struct

from shoal.errors import InvalidOutput, UsageError
from shoal.prompting import llm
from shoal.prompting.llm.asking import Prompt
from shoal.runtime import scope
from shoal.runtime.outlet import outlet
from shoal.runtime.program import Program
from shoal.runtime.types import Message

ROLES = ("system", "user", "assistant", "tool")
_LONGEST = 10_000_000  # characters of one prompt


class Rendered(Struct, frozen=True):
    """A prompt that has been written: its whole text, hidden sections left out, and its named outputs.

    `messages` are its turns where it has roles, else one of the user's. `result["name"]` is an output.
    """

    text: str
    outputs: dict[str, Any]
    messages: tuple[Message, ...]

    def __getitem__(self, name: str) -> Any:
        return self.outputs[name]

    def __str__(self) -> str:
        return self.text


class Mocks(Struct, frozen=True):
    """What calls give in a dry run: a value by the call's name, `reply` for every other."""

    values: Mapping[str, Any]
    reply: str = ""


class _Part:
    """What is written in one turn. Its pieces are joined when they are read: many cost no more than their length."""

    __slots__ = ("_pieces", "role")

    def __init__(self, role: str | None, text: str) -> None:
        self.role = role
        self._pieces = [text]

    def write(self, text: str) -> None:
        self._pieces.append(text)

    @property
    def text(self) -> str:
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0]


class Writing:
    """A prompt being written. Each call is put to the model with exactly the text written before it."""

    def __init__(self, mocks: Mocks | None = None) -> None:
        self.outputs: dict[str, Any] = {}
        self.last: Any = ""
        self._parts: list[_Part] = []
        self._mocks = mocks
        self._role: str | None = None
        self._hidden = False
        self.streams = False  # whether what a call gives is written as it comes
        self._streamed = False
        self._size = 0

    def write(self, text: str) -> None:
        if not text:
            return
        self.count(text)
        if self._parts and self._parts[-1].role == self._role:
            self._parts[-1].write(text)
        else:
            self._parts.append(_Part(self._role, text))
        around = outlet.get()
        if around is not None and not self._hidden and not self._streamed:
            around.text(text)
        self._streamed = False

    def count(self, text: str) -> None:
        """UsageError where the prompt is too long with a text more."""
        self._size += len(text)
        if self._size > _LONGEST:
            raise UsageError(f"a prompt of more than {_LONGEST:,} characters")

    @property
    def text(self) -> str:
        return "".join(part.text for part in self._parts)

    def prompt(self) -> Prompt:
        """What a call is put to the model with: the text, or the turns where the prompt has roles."""
        if all(part.role is None for part in self._parts) and self._role is None:
            return self.text
        return self.messages()

    def messages(self) -> tuple[Message, ...]:
        """The turns so far; text outside every role is the user's."""
        turns: list[_Part] = []
        for part in self._parts:
            role = part.role or "user"
            if turns and turns[-1].role == role and part.role is None:
                turns[-1].write(part.text)
            elif part.text.strip():
                turns.append(_Part(role, part.text))
        return tuple(Message(part.role or "user", part.text.strip()) for part in turns)

    def rendered(self) -> Rendered:
        return Rendered(self.text, self.outputs, self.messages())

    # Blocks

    @contextmanager
    def section(self, name: str = "", *, hidden: bool = False) -> Iterator[None]:
        """What is written in the body is the output `name`; hidden, it is out of the prompt when it ends."""
        start, count, was_hidden = len(self.text), len(self._parts), self._hidden
        self._hidden = was_hidden or hidden
        yield
        self._hidden = was_hidden
        if name:
            self.store(name, self.text[start:])
        if hidden:
            self._cut(start, count)

    @contextmanager
    def role(self, role: str) -> Iterator[None]:
        """What is written in the body is a turn of `role`."""
        if role not in ROLES:
            raise UsageError(f"role {role!r} is none of {', '.join(ROLES)}")
        if self._role is not None:
            raise UsageError(f"role {role!r} within role {self._role!r}")
        self._role = role
        self._parts.append(_Part(role, ""))  # a turn of its own, also after one of the same role
        yield
        self._role = None

    def _cut(self, start: int, count: int) -> None:
        kept: list[_Part] = []
        for part in self._parts[:count]:  # a turn that was open stays, be it empty
            kept.append(_Part(part.role, part.text[: max(start, 0)]))
            start -= len(part.text)
        self._parts = kept

    def store(self, name: str, value: Any) -> Any:
        """Keep a value as the output `name`."""
        self.outputs[name] = value
        return value

    # Calls

    async def generate_text(self, *, name: str = "", **params: Any) -> str:
        text: str = await self._call(name, llm.generate_text(self.prompt(), **params))
        return text

    async def generate_texts(self, n: int, *, name: str = "", **params: Any) -> list[str]:
        texts: list[str] = await self._call(name, llm.generate_texts(self.prompt(), n, **params), many=True)
        return texts

    async def generate_object(self, cls: Any, *, name: str = "", **params: Any) -> Any:
        return await self._call(name, llm.generate_object(self.prompt(), _type(cls), **params))

    async def select(self, options: Sequence[str], *, name: str = "", **params: Any) -> str:
        option: str = await self._call(name, llm.select(self.prompt(), list(options), **params))
        return option

    async def choose(self, options: Sequence[str], *, top_k: int = 1, name: str = "", **params: Any) -> Any:
        """The likeliest option, or the list of the `top_k` likeliest."""
        ranked = await self._call(name, llm.rank(self.prompt(), list(options), top_k=top_k, **params), many=True)
        chosen = [getattr(scored, "option", scored) for scored in ranked]
        return self._kept(name, chosen[0] if top_k == 1 else chosen)

    async def instruct(self, *, assistant_prefix: str = "", name: str = "", **params: Any) -> str:
        asked = llm.instruct(self.prompt(), assistant_prefix=assistant_prefix, **params)
        text: str = await self._call(name, asked)
        return text

    async def chat(self, *, name: str = "", **params: Any) -> str:
        text: str = await self._call(name, llm.chat(self.messages(), **params))
        return text

    async def _call(self, name: str, program: Program[Any], *, many: bool = False) -> Any:
        if self._mocks is not None:
            value = self._mocks.values.get(name, [self._mocks.reply] if many else self._mocks.reply)
            return self._kept(name, value)
        # A template may do anything with what a call gives, so that it streams when it is written.
        streams = self.streams and not self._hidden and not many
        with scope.setting(outlet, outlet.get() if streams else None):
            value = await program
        self._streamed = streams and outlet.get() is not None
        if isinstance(value, str):
            _check(value)
        return self._kept(name, value)

    def _kept(self, name: str, value: Any) -> Any:
        self.last = value
        return self.store(name, value) if name else value


def _check(reply: str) -> None:
    try:
        reply.encode()
    except UnicodeEncodeError:  # the model's fault, not the template's
        raise InvalidOutput("a reply holds half a surrogate pair") from None


_TYPES = {"int": int, "float": float, "bool": bool, "str": str, "list": list[Any], "dict": dict[str, Any]}


def _type(cls: Any) -> Any:
    """A type, or one of the plain ones by its name, as a template writes it."""
    if not isinstance(cls, str):
        return cls
    if cls not in _TYPES:
        raise UsageError(f"generate_object: {cls!r} is none of {', '.join(_TYPES)}; pass other types as inputs")
    return _TYPES[cls]


def shown(value: Any) -> str:
    """A value as it stands in a prompt: text as it is, everything else as JSON."""
    try:
        if isinstance(value, str):
            value.encode()
            return value
        return msgspec.json.encode(value, enc_hook=_plain).decode()
    except UnicodeEncodeError:
        raise UsageError("half a surrogate pair is nothing that JSON can hold") from None
    except (TypeError, ValueError) as error:
        raise UsageError(f"{type(value).__name__} is nothing that JSON can hold: {error}") from None


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):  # pydantic
        return value.model_dump(mode="json")
    raise TypeError(f"it holds {type(value).__name__}")
