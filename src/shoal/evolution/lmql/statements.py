"""An LMQL query as statements: prompt strings, conditions and loops, with the line each stands on."""

import io
import re
import tokenize
import warnings
from ast import literal_eval
from collections.abc import Iterator, Sequence

from msgspec import Struct

from shoal.errors import UsageError

_DECODER = re.compile(r"\{decoder_options\}|(?:argmax|sample|beam|beam_sample|beam_var|var|best_k)\s*(?:\(.*\))?")
_CLAUSE = re.compile(r"(from|where|distribution)\b\s*(.*)", re.DOTALL)
_BLOCK = re.compile(r"(if|elif|for)\b\s*(.*?):\s*(?:#.*)?", re.DOTALL)
_STRING = re.compile(r"[rRuU]?['\"]")


class NotConverted(UsageError):
    """A query uses what templates have no words for; the message names line and construct."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")


class Text(Struct, frozen=True):
    """A prompt string, and the `where` behind it. `plain` is an expression of strings instead."""

    line: int
    value: str = ""
    where: str = ""
    plain: str = ""


class Branch(Struct, frozen=True):
    """`if`, `elif`, `else` or `for`, with what stands under it."""

    line: int
    keyword: str
    head: str
    body: "tuple[Statement, ...]"


Statement = Text | Branch


class Query(Struct, frozen=True):
    """A query's statements, and the constraints that stand at its end for all of it."""

    body: tuple[Statement, ...]
    where: str = ""
    where_line: int = 0


class _Line(Struct, frozen=True):
    number: int
    indent: int
    text: str


def statements(query: str) -> Query:
    """The query read; NotConverted for what is no prompt, condition or loop."""
    lines = list(_logical_lines(query))
    if lines and _DECODER.fullmatch(lines[0].text):
        lines = lines[1:]
    end = next((i for i, line in enumerate(lines) if _opens_clauses(line, lines)), len(lines))
    where, where_line = _clauses(lines[end:])
    body, rest = _block(lines[:end], lines[0].indent if lines else 0)
    if rest:
        raise NotConverted(rest[0].number, "its indentation fits no block")
    return Query(tuple(body), where, where_line)


def _opens_clauses(line: _Line, lines: Sequence[_Line]) -> bool:
    return bool(_CLAUSE.fullmatch(line.text)) and line.indent <= lines[0].indent


def _clauses(lines: Sequence[_Line]) -> tuple[str, int]:
    """The text of the `where` clause; the model that `from` names is no part of a template."""
    parts: dict[str, list[str]] = {}
    where_line, current = 0, ""
    for line in lines:
        clause = _CLAUSE.fullmatch(line.text)
        if clause:
            current = clause[1]
            if current == "distribution":
                raise NotConverted(line.number, "a distribution clause; write the options as `VARIABLE in [...]`")
            if current == "where":
                where_line = line.number
        parts.setdefault(current, []).append(clause[2] if clause else line.text)
    return " ".join(parts.get("where", ())).strip(), where_line


def _logical_lines(query: str) -> Iterator[_Line]:
    """Lines, joined where a string or a bracket goes on; blank ones and comments left out."""
    lines = query.expandtabs(4).splitlines()
    number = 0
    while number < len(lines):
        start, text = number, lines[number]
        number += 1
        if not text.strip() or text.strip().startswith("#"):
            continue
        while not _whole(text.strip()):
            if number == len(lines):
                raise NotConverted(start + 1, "a string or a bracket that is not closed")
            text += "\n" + lines[number]
            number += 1
        yield _Line(start + 1, len(text) - len(text.lstrip()), text.strip())


def _whole(text: str) -> bool:
    try:
        _tokens(text)
    except tokenize.TokenError as error:
        return "EOF" not in str(error) and "unterminated triple" not in str(error)
    except (SyntaxError, IndentationError):
        pass
    return True


def _tokens(text: str) -> list[tokenize.TokenInfo]:
    return list(tokenize.generate_tokens(io.StringIO(text).readline))


def _block(lines: Sequence[_Line], indent: int) -> tuple[list[Statement], Sequence[_Line]]:
    body: list[Statement] = []
    while lines and lines[0].indent == indent:
        line, lines = lines[0], lines[1:]
        head = "else" if re.fullmatch(r"else\s*:\s*(?:#.*)?", line.text) else ""
        branch = _BLOCK.fullmatch(line.text)
        if not head and not branch:
            if line.text.endswith(":") and not _STRING.match(line.text):
                raise NotConverted(line.number, f"the block {line.text[:60]!r}; only if and for are converted")
            body.append(_text(line))
            continue
        inner = lines[0].indent if lines else 0
        if inner <= indent:
            raise NotConverted(line.number, "a block without a body")
        under, lines = _block(lines, inner)
        keyword, head = (branch[1], branch[2]) if branch else ("else", "")
        body.append(Branch(line.number, keyword, head, tuple(under)))
    if lines and lines[0].indent > indent:
        raise NotConverted(lines[0].number, "its indentation fits no block")
    return body, lines


def _text(line: _Line) -> Text:
    if not _STRING.match(line.text):
        return Text(line.number, plain=line.text)
    end, value = _literal(line)
    rest = line.text[end:].strip()
    clause = _CLAUSE.fullmatch(rest)
    if clause and clause[1] == "where":
        return Text(line.number, value, clause[2].strip())
    if clause:
        raise NotConverted(line.number, f"a {clause[1]} clause behind a string")
    if rest and not rest.startswith("#"):
        return Text(line.number, plain=line.text)
    return Text(line.number, value)


def _literal(line: _Line) -> tuple[int, str]:
    """Where the string that opens a line ends, and its value."""
    try:
        first = next(token for token in _each(line.text) if token.type == tokenize.STRING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python has no meaning for: they stand as they are
            value = literal_eval(first.string)
    except (StopIteration, tokenize.TokenError, SyntaxError, ValueError):
        raise NotConverted(line.number, "a string that cannot be read") from None
    row, column = first.end
    before = line.text.split("\n")[: row - 1]
    return sum(len(part) + 1 for part in before) + column, value


def _each(text: str) -> Iterator[tokenize.TokenInfo]:
    """Tokens as far as the text is Python: what follows a string need not be."""
    yield from tokenize.generate_tokens(io.StringIO(text).readline)
