"""The environment Jinja templates run in: sandboxed, bounded, with the tags for sections and roles."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from jinja2 import StrictUndefined, Template, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shoal.prompting.composing.writing import shown

_LONGEST_VALUE = 1_000_000  # characters, items or bits of what an operator in a template builds


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
        begin = self._call("_begin", values, tag.lineno)
        return [begin, *body, self._call("_end", [], tag.lineno)]

    def _call(self, name: str, values: Sequence[nodes.Expr], line: int) -> nodes.ExprStmt:
        called = nodes.Call(nodes.Name(name, "load", lineno=line), list(values), [], None, None, lineno=line)
        return nodes.ExprStmt(called, lineno=line)


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which no operator or method builds a value without bound."""

    intercepted_binops = frozenset(("*", "**", "%"))
    _WIDE = frozenset(("center", "ljust", "rjust", "zfill", "expandtabs"))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str | bytes):
            raise SecurityError("a text cannot be formatted with % in a template; join the parts with ~")
        if operator != "%" and _product(operator, left, right) > _LONGEST_VALUE:
            raise SecurityError(f"{operator} would build more than {_LONGEST_VALUE:,}")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is not None:
            raise SecurityError("a text cannot be formatted in a template; join the parts with ~")
        return None

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str | bytes) and attr in self._WIDE:
            return False
        return super().is_safe_attribute(obj, attr, value)


def _product(operator: str, left: Any, right: Any) -> int:
    """How large what `*` or `**` would build is: in bits of a number, or in items."""
    for items, count in ((left, right), (right, left)):
        if isinstance(items, Sequence) and isinstance(count, int):
            return len(items) * count
    if not isinstance(left, int) or not isinstance(right, int):
        return 0
    bits = abs(left).bit_length()
    return bits * right if operator == "**" else bits + abs(right).bit_length()


def _made() -> _Environment:
    environment = _Environment(
        enable_async=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        extensions=["jinja2.ext.do", _BlockTags],
    )
    environment.extend()
    environment.finalize = shown
    for name in ("center", "indent", "format", "wordwrap", "pprint", "xmlattr", "urlize"):
        environment.filters.pop(name)  # they pad without bound, or make HTML
    environment.globals = {
        name: environment.globals[name] for name in ("range", "dict", "namespace", "joiner", "cycler")
    }
    return environment


environment = _made()


def texts(template: Template, context: Context) -> AsyncIterator[str]:
    """The template's text, piece by piece: what a call sees has been taken from here before."""
    return template.root_render_func(context)  # type: ignore[return-value] # asynchronous in this environment
