"""Templates of a prompt batch, the arguments that fill them, and the check that both agree before anything is asked."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from shoal.batch.rows import Row
from shoal.batch.tables import items_of, plain
from shoal.errors import UsageError, did_you_mean
from shoal.prompting.messages import parse_messages
from shoal.prompting.template import Template
from shoal.runtime.types import Request

Args = Row | list[Row] | None  # None: the template is text as it stands


class Form(Protocol):
    """A template of either API. `kind` is the name its text has in a record."""

    kind: str
    raw: Any

    def slots(self, args: Args) -> list[tuple[frozenset[str], Row]]:
        """The names that arguments are for, beside these arguments."""
        ...

    def fill(self, args: Args) -> Any: ...

    def request(self, filled: Any) -> Request: ...


class PromptForm:
    """A prompt to continue, for the text-completions API."""

    kind = "prompt"

    def __init__(self, text: Any, where: str) -> None:
        if not isinstance(text, str):
            raise UsageError(f"{where}: expected text, found {type(text).__name__}")
        self.raw = text
        self._template = Template(text)

    def slots(self, args: Args) -> list[tuple[frozenset[str], Row]]:
        return [(self._template.names, args)] if isinstance(args, dict) else []

    def fill(self, args: Args) -> str:
        return self._template.fill(args) if isinstance(args, dict) else self.raw

    def request(self, filled: str) -> Request:
        return Request(prompt=filled)


class ChatForm:
    """A conversation: a list of {role, content}, or a text, which is one user turn."""

    kind = "messages"

    def __init__(self, messages: Any, where: str) -> None:
        try:
            parse_messages(messages)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
        self.raw: list[Row] = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        self._templates = [[Template(text) for text in _texts(message)] for message in self.raw]
        self._names = [frozenset[str]().union(*(t.names for t in each)) for each in self._templates]
        self._where = where

    def slots(self, args: Args) -> list[tuple[frozenset[str], Row]]:
        if args is None:
            return []
        if isinstance(args, dict):
            return [(frozenset[str]().union(*self._names), args)]
        if len(args) != len(self.raw):
            raise UsageError(
                f"{len(args)} messages_args for the {len(self.raw)} messages of {self._where}: give one each"
            )
        return list(zip(self._names, args, strict=True))

    def fill(self, args: Args) -> list[Row]:
        if args is None:
            return self.raw
        values = args if isinstance(args, list) else [args] * len(self.raw)
        return [_filled(m, each, v) for m, each, v in zip(self.raw, self._templates, values, strict=True)]

    def request(self, filled: list[Row]) -> Request:
        return Request(messages=parse_messages(filled))


def _texts(message: Row) -> list[str]:
    """The texts of a message: its content, or those of its content parts."""
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if _is_text(part)]


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


def _filled(message: Row, templates: Sequence[Template], values: Row) -> Row:
    texts = iter([template.fill(values) for template in templates])
    content = message.get("content")
    if isinstance(content, str):
        return message | {"content": next(texts)}
    if not content:
        return dict(message)
    return message | {"content": [part | {"text": next(texts)} if _is_text(part) else part for part in content]}


def prompt_forms(prompts: Any) -> list[Form]:
    """The templates of `complete`: one text, or texts."""
    texts = [prompts] if isinstance(prompts, str) else items_of(prompts, "prompts")
    return [PromptForm(text, f"prompts[{i}]") for i, text in enumerate(texts)]


def chat_forms(messages: Any) -> list[Form]:
    """The templates of `chat`: one conversation, or conversations."""
    if isinstance(messages, str):
        return [ChatForm(messages, "messages")]
    items = list(items_of(messages, "messages"))
    if items and all(isinstance(item, dict) for item in items):
        return [ChatForm(items, "messages")]
    return [ChatForm(item, f"messages[{i}]") for i, item in enumerate(items)]


def argument_sets(args: Any, what: str, *, per_message: bool = False) -> list[Args]:
    """What each template is filled with in turn: dicts and, `per_message`, lists of one dict a message."""
    if args is None:
        return [None]
    kinds = dict | list if per_message else dict
    sets = list(items_of(args, what))
    for i, item in enumerate(sets):
        if not isinstance(item, kinds) or (isinstance(item, list) and not all(isinstance(row, dict) for row in item)):
            expected = "a dict, or a list of one dict a message" if per_message else "a dict"
            raise UsageError(f"{what}[{i}]: expected {expected}, found {type(item).__name__}")
    return sets


def check_arguments(
    forms: Sequence[Form], sets: Iterable[Args], what: str, ignored: frozenset[str] = frozenset()
) -> None:
    """Raise UsageError naming an argument that a template names and a set lacks, or that no template names."""
    for i, args in enumerate(sets):
        used: list[set[str]] = []
        rows: list[Row] = []
        for form in forms:
            slots = form.slots(args)
            used = used or [set() for _ in slots]
            rows = [row for _, row in slots]
            for names, (wanted, row) in zip(used, slots, strict=True):
                _nothing_missing(wanted, row, f"{what}[{i}]", form)
                names |= wanted
        for names, row in zip(used, rows, strict=True):
            unused = next((name for name in row if name not in names | ignored), None)
            if unused is not None:
                raise UsageError(f"{what}[{i}]: no template uses {unused!r}; {did_you_mean(unused, names)}")


def _nothing_missing(wanted: frozenset[str], row: Mapping[str, Any], where: str, form: Form) -> None:
    missing = next((name for name in sorted(wanted) if name not in row), None)
    if missing is not None:
        advice = did_you_mean(missing, row)
        if form.kind == "messages":
            advice += "; a set is a dict, or a list of one dict a message"
        raise UsageError(f"{where} has no {missing!r}, which {_shown(form.raw)} names; {advice}")


def _shown(raw: Any) -> str:
    text = repr(plain(raw))
    return text if len(text) <= 60 else text[:57] + "..."
