"""The environment Jinja templates run in: sandboxed, bounded, with the tags for sections and roles."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from jinja2 import StrictUndefined, Template, nodes
from jinja2.compiler import CodeGenerator, Frame, MacroRef
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shoal.prompting.composing.writing import shown

_LONGEST_VALUE = 1_000_000  # characters, items or bits of what an operator in a template builds
_MOST_TURNS = 100_000  # of loops and macros in one rendering

# In a context; no template can write a name with blanks.
BLOCKS = "blocks that are open"
TURNS = "turns that are left"


class _BlockTags(Extension):
    """`{% section name, hidden %}...{% endsection %}` and `{% role user %}...{% endrole %}`.

    They begin and end in place, so that calls within them see the text within them.
    """

    tags = {"section", "role"}  # noqa: RUF012 - Jinja's own way to say so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        tag = next(parser.stream)
        word = parser.stream.expect("name").value if parser.stream.current.type == "name" else ""
        hidden = word == "hidden" and tag.value == "section"
        if word and not hidden and parser.stream.skip_if("comma"):
            option = parser.stream.expect("name")
            hidden = option.value == "hidden"
            if not hidden or tag.value == "role":
                parser.fail(f"unknown option {option.value!r} of {tag.value}", option.lineno)
        if tag.value == "role" and not word:
            parser.fail("a role needs a name", tag.lineno)
        name = "" if word == "hidden" and tag.value == "section" else word
        body = parser.parse_statements((f"name:end{tag.value}",), drop_needle=True)
        values = [nodes.Const(value, lineno=tag.lineno) for value in (tag.value, name, hidden)]
        begin = self._call("begin", values, tag.lineno)
        return [begin, *body, self._call("end", [], tag.lineno)]

    def _call(self, name: str, values: Sequence[nodes.Expr], line: int) -> nodes.ExprStmt:
        method = self.call_method(name, [nodes.ContextReference(), *values], lineno=line)
        return nodes.ExprStmt(method, lineno=line)

    def begin(self, context: Context, kind: str, name: str, hidden: bool) -> None:
        context[BLOCKS].begin(kind, name, hidden)

    def end(self, context: Context) -> None:
        context[BLOCKS].end()


class _Bounded(CodeGenerator):
    """Jinja's code, with `~` as a method of the environment, so that its length can be seen to, and turns counted."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802 - Jinja names it
        if node.test is not None:
            node.test = nodes.And(_turn(node), node.test)
        node.body.insert(0, nodes.ExprStmt(_turn(node), lineno=node.lineno))
        super().visit_For(node, frame)

    def macro_body(self, node: nodes.Macro | nodes.CallBlock, frame: Frame) -> tuple[Frame, MacroRef]:
        node.body.insert(0, nodes.ExprStmt(_turn(node), lineno=node.lineno))
        return super().macro_body(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - Jinja names it
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


def _turn(node: nodes.Node) -> nodes.Call:
    """The expression that counts a turn."""
    method = nodes.EnvironmentAttribute("turn", lineno=node.lineno)
    return nodes.Call(method, [nodes.ContextReference()], [], None, None, lineno=node.lineno)


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which no operator or method builds a value without bound, and every loop comes to an end."""

    code_generator_class = _Bounded
    intercepted_binops = frozenset(("+", "*", "**", "%"))
    _WIDE = frozenset(("center", "ljust", "rjust", "zfill", "expandtabs", "replace", "join", "translate", "to_bytes"))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str | bytes):
            raise SecurityError("a text cannot be formatted with % in a template; join the parts with ~")
        if operator != "%" and _product(operator, left, right) > _LONGEST_VALUE:
            raise SecurityError(f"{operator} would build more than {_LONGEST_VALUE:,}")
        return super().call_binop(context, operator, left, right)

    def turn(self, context: Context) -> bool:
        return bool(context[TURNS]())

    def joined(self, parts: tuple[Any, ...]) -> str:
        return _within("~", "".join(map(str, parts)))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is not None:
            raise SecurityError("a text cannot be formatted in a template; join the parts with ~")
        return None

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str | bytes | int) and attr in self._WIDE:
            return False
        return super().is_safe_attribute(obj, attr, value)


def _product(operator: str, left: Any, right: Any) -> int:
    """How large what `*` or `**` would build is: in bits of a number, or in items."""
    if operator == "+":
        return len(left) + len(right) if isinstance(left, Sequence) and isinstance(right, Sequence) else 0
    for items, count in ((left, right), (right, left)):
        if isinstance(items, Sequence) and isinstance(count, int):
            return len(items) * count
    if not isinstance(left, int) or not isinstance(right, int):
        return 0
    bits = abs(left).bit_length()
    return bits * right if operator == "**" else bits + abs(right).bit_length()


class Ranges:
    """`range` for one rendering, which all its loops share."""

    def __init__(self) -> None:
        self._left = _LONGEST_VALUE

    def __call__(self, *bounds: int) -> range:
        steps = range(*bounds)
        self._left -= len(steps)
        if self._left < 0:
            raise SecurityError(f"the ranges of one rendering have more than {_LONGEST_VALUE:,} steps")
        return steps


class Turns:
    """Counts the turns of loops and calls of macros in one rendering; always true."""

    def __init__(self) -> None:
        self._left = _MOST_TURNS

    def __call__(self) -> bool:
        self._left -= 1
        if self._left < 0:
            raise SecurityError(f"the loops and macros of one rendering take more than {_MOST_TURNS:,} turns")
        return True


def _within(what: str, text: str) -> str:
    if len(text) > _LONGEST_VALUE:
        raise SecurityError(f"{what} would build more than {_LONGEST_VALUE:,}")
    return text


def _replace(value: Any, old: str, new: str, count: int | None = None) -> str:
    text, old, new = str(value), str(old), str(new)
    if (text.count(old) + 1) * len(new) + len(text) > _LONGEST_VALUE:
        raise SecurityError(f"replace would build more than {_LONGEST_VALUE:,}")
    return text.replace(old, new, -1 if count is None else count)


def _join(values: Iterable[Any], between: str = "", attribute: str | None = None) -> str:
    parts = [str(value if attribute is None else environment.getitem(value, attribute)) for value in values]
    if sum(map(len, parts)) + len(parts) * len(between) > _LONGEST_VALUE:
        raise SecurityError(f"join would build more than {_LONGEST_VALUE:,}")
    return str(between).join(parts)


def misplaced_block(text: str) -> int:
    """The line of a block that collects its text first and has a section or role in it; 0 where there is none."""
    collecting = (nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock)
    for block in environment.parse(text).find_all(collecting):
        if block.find(nodes.ExtensionAttribute) is not None:
            return block.lineno
    return 0


def _made() -> _Environment:
    environment = _Environment(
        enable_async=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        extensions=["jinja2.ext.do", _BlockTags],
    )
    environment.finalize = shown
    for name in ("center", "indent", "format", "wordwrap", "pprint", "xmlattr", "urlize", "batch", "slice"):
        environment.filters.pop(name)  # they pad without bound, or make HTML
    environment.filters |= {"replace": _replace, "join": _join, "tojson": shown}
    kept = ("dict", "namespace", "joiner", "cycler")
    environment.globals = {name: environment.globals[name] for name in kept}
    return environment


environment = _made()


async def texts(template: Template, context: Context) -> AsyncIterator[tuple[int, str]]:
    """The template's text, piece by piece, numbered: what a call sees has been taken from here before."""
    i = 0
    async for text in _rendered(template, context):
        yield i, text
        i += 1


def _rendered(template: Template, context: Context) -> AsyncIterator[str]:
    return template.root_render_func(context)  # type: ignore[return-value] # asynchronous in this environment
