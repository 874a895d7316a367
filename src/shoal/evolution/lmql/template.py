"""An LMQL query rewritten as a template with calls inside."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from shoal.evolution.lmql.constraints import Constraint, constraints
from shoal.evolution.lmql.expressions import constant, jinja, parsed
from shoal.evolution.lmql.statements import Branch, NotConverted, Statement, Text, statements

_PIECE = re.compile(r"\[\[|\]\]|\{\{|\}\}|\[([^\[\]]*)\]|\{([^{}]*)\}")
_HOLE = re.compile(r"([A-Za-z_]\w*)(?:\s*:\s*(int))?")
# What marks turns for Llama 2; `[\INST]` is a slip that folders of the time have.
_MARK = re.compile(r"<s>|</s>|\[[/\\]?INST\]|<</?SYS>>")


class Names(Struct, frozen=True):
    """What a query's names are in a template.

    `inputs` are its arguments, each an expression; `outputs` the variables it writes, by their new names; `role` has
    the sampling parameters for a variable, `last` those for the answer. `other` is what every other argument is, with
    a gap for its name; None refuses it.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    role: str
    last: str
    other: str | None = None


class Converted(Struct, frozen=True):
    """A template, and what a reader of it should know."""

    template: str
    notes: tuple[str, ...] = ()


def converted(query: str, arguments: Sequence[str], names: Names) -> Converted:
    """The query as a template; NotConverted, which names the line, for what templates have no words for."""
    read = statements(query)
    known = dict(names.inputs)
    for name in arguments:
        if name not in known:
            if names.other is None:
                raise NotConverted(1, f"the argument {name!r} is nothing that this query is given here")
            known[name] = names.other.format(name)
    notes: list[str] = []
    bounds = constraints(read.where, read.where_line, notes)
    writer = _Writer(known, names, bounds, set(_read(read.body)), notes)
    template = "".join(writer.block(read.body)) + writer.end()
    if not writer.written:
        raise NotConverted(1, "no [VARIABLE] is written")
    unwritten = sorted(bounds.keys() - writer.written)
    notes += [f"line {read.where_line}: nothing writes {variable}, which is constrained" for variable in unwritten]
    return Converted(template, tuple(notes))


class _Writer:
    def __init__(
        self, known: dict[str, str], names: Names, bounds: dict[str, Constraint], reread: set[str], notes: list[str]
    ) -> None:
        self.known = known
        self.names = names
        self.bounds = bounds
        self.notes = notes
        self.written: set[str] = set()
        self.reread = reread
        self._turn = ""
        self._over = False  # the assistant's turn began in a branch, and ended with it

    def block(self, body: Sequence[Statement]) -> Iterator[str]:
        for i, statement in enumerate(body):
            if isinstance(statement, Text):
                yield from self._text(statement)
            elif statement.keyword == "for":
                yield from self._loop(statement)
            else:
                following = body[i + 1] if i + 1 < len(body) else None
                yield from self._branch(statement)
                if not isinstance(following, Branch) or following.keyword not in ("elif", "else"):
                    yield "{% endif %}"

    def end(self) -> str:
        """What closes the turn that is open."""
        turn, self._turn = self._turn, ""
        return "{% endrole %}" if turn else ""

    def _branch(self, branch: Branch) -> Iterator[str]:
        outside = self._turn
        if branch.keyword == "if":
            yield f"{{% if {self._expression(branch.head, branch.line)} %}}"
        elif branch.keyword == "elif":
            yield f"{{% elif {self._expression(branch.head, branch.line)} %}}"
        else:
            yield "{% else %}"
        yield from self._inside(branch, outside)

    def _inside(self, branch: Branch, outside: str) -> Iterator[str]:
        over, self._over = self._over, False
        yield from self.block(branch.body)
        if self._turn != outside:
            if outside:
                raise NotConverted(branch.line, "a turn of the conversation that ends in a branch")
            over = True
            yield self.end()
        self._over = over

    def _loop(self, loop: Branch) -> Iterator[str]:
        head = re.fullmatch(r"(\w+)(?:\s*,\s*(\w+))?\s+in\s+(.+)", loop.head, re.DOTALL)
        if head is None:
            raise NotConverted(loop.line, f"the loop {loop.head!r}")
        first, second, over = head[1], head[2], parsed(head[3], loop.line)
        before = dict(self.known)
        match over:
            case ast.Call(func=ast.Name(id="enumerate"), args=[values]) if second:
                self.known |= {first: "loop.index0", second: second}
                yield f"{{% for {second} in {jinja(values, before, loop.line)} %}}"
            case ast.Call(func=ast.Name(id="range"), args=[count]) if not second:
                self.known |= {first: first}
                yield f"{{% for {first} in range({jinja(count, before, loop.line)}) %}}"
            case _ if not second:
                self.known |= {first: first}
                yield f"{{% for {first} in {jinja(over, before, loop.line)} %}}"
            case _:
                raise NotConverted(loop.line, f"the loop {loop.head!r}")
        yield from self._inside(loop, self._turn)
        yield "{% endfor %}"
        self.known = before

    def _expression(self, text: str, line: int) -> str:
        return jinja(parsed(text, line), self.known, line)

    # Text

    def _text(self, text: Text) -> Iterator[str]:
        if text.plain:
            yield from self._plain(text)
            return
        bounds = constraints(text.where, text.line, self.notes)
        for piece in _pieces(text.value):
            if piece.kind == "text":
                yield from self._literal(piece.text, text.line)
                continue
            if self._over:
                raise NotConverted(text.line, "a prompt behind a branch in which the assistant's turn began")
            if piece.kind == "hole":
                yield self._hole(piece.text, bounds, text.line)
            else:
                yield f"{{{{ {self._expression(piece.text, text.line)} }}}}"
        for variable in sorted(bounds.keys() - self.written):
            self.notes.append(f"line {text.line}: {variable} is constrained, and nothing has written it there")

    def _plain(self, text: Text) -> Iterator[str]:
        tree = parsed(text.plain, text.line)
        if not isinstance(tree, ast.BinOp | ast.Name):
            raise NotConverted(text.line, f"{text.plain[:60]!r} is no prompt: statements are not converted")
        self.notes.append(f"line {text.line}: an expression of strings, which LMQL never showed the model; it does now")
        yield f"{{{{ {jinja(tree, self.known, text.line)} }}}}"

    def _literal(self, text: str, line: int) -> Iterator[str]:
        """Text as it is; what marks turns for Llama 2 opens and closes them."""
        at = 0
        for mark in _MARK.finditer(text):
            yield from self._as_it_is(text[at : mark.start()], line)
            at = mark.end()
            yield from self._marked(mark[0])
        yield from self._as_it_is(text[at:], line)

    def _as_it_is(self, text: str, line: int) -> Iterator[str]:
        if self._over and text.strip():
            raise NotConverted(line, "a prompt behind a branch in which the assistant's turn began")
        if text:
            yield f"{{{{ {constant(text)} }}}}" if "{" in text else text

    def _marked(self, mark: str) -> Iterator[str]:
        turn = "system" if mark == "<<SYS>>" else "assistant" if mark in ("[/INST]", "[\\INST]") else ""
        yield self.end()
        if turn:
            self._turn = turn
            yield f"{{% role {turn} %}}"

    def _hole(self, hole: str, bounds: Mapping[str, Constraint], line: int) -> str:
        found = _HOLE.fullmatch(hole.strip())
        if found is None:
            raise NotConverted(line, f"[{hole}]: only [NAME] and [NAME: int] are converted")
        variable = found[1]
        bound = self.bounds.get(variable, Constraint()) | bounds.get(variable, Constraint())
        if found[2]:
            bound |= Constraint(regex="[0-9]+")
        self.written.add(variable)
        call = self._call(self.names.outputs.get(variable, variable.lower()), bound)
        if variable not in self.reread:
            return f"{{{{ {call} }}}}"
        self.known[variable] = f"{variable.lower()}_written"
        return f"{{% set {self.known[variable]} = {call} %}}{{{{ {self.known[variable]} }}}}"

    def _call(self, name: str, bound: Constraint) -> str:
        role = self.names.last if name == "answer" else self.names.role
        if bound.options:
            return f"select({_listed(bound.options)}, name={constant(name)}, **{role})"
        given = [f"max_tokens={bound.max_tokens}"] if bound.max_tokens else []
        given += [f"stop={_listed(bound.stop)}"] if bound.stop else []
        given += [f"regex={constant(bound.regex)}"] if bound.regex else []
        params = f"dict({', '.join((role, *given))})" if given else role
        return f"generate_text(name={constant(name)}, **{params})"


class _Piece(Struct, frozen=True):
    kind: str  # text, hole or expression
    text: str


def _pieces(text: str) -> list[_Piece]:
    """A prompt string's literal text, its [HOLES] and its {expressions}."""
    pieces: list[_Piece] = []
    literal, at = "", 0
    for found in _PIECE.finditer(text):
        literal, at = literal + text[at : found.start()], found.end()
        if found[1] is None and found[2] is None:
            literal += found[0][0]
            continue
        pieces += [_Piece("text", literal)] if literal else []
        pieces.append(_Piece("expression", found[2]) if found[1] is None else _Piece("hole", found[1]))
        literal = ""
    literal += text[at:]
    return [*pieces, _Piece("text", literal)] if literal else pieces


def _read(body: Sequence[Statement]) -> Iterator[str]:
    """The names that expressions read."""
    for statement in body:
        if isinstance(statement, Branch):
            yield from re.findall(r"\w+", statement.head)
            yield from _read(statement.body)
        else:
            expressions = [piece.text for piece in _pieces(statement.value) if piece.kind == "expression"]
            yield from re.findall(r"\w+", " ".join((statement.plain, *expressions)))


def _listed(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(constant, texts))}]"
