"""The few Python expressions that LMQL queries use, as Jinja writes them."""

import ast
import json
import warnings
from collections.abc import Callable, Mapping

from shoal.errors import did_you_mean
from shoal.evolution.lmql.statements import NotConverted

_COMPARED = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.In: "in",
    ast.NotIn: "not in",
}  # fmt: skip


def parsed(text: str, line: int) -> ast.expr:
    """An expression's tree; NotConverted where it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise NotConverted(line, f"{text.strip()[:60]!r} is no expression: statements are not converted") from None


def jinja(tree: ast.expr, names: Mapping[str, str], line: int) -> str:
    """The expression in Jinja's words. `names` are the names it may use, each with what it is there."""

    def of(node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            if node.id not in names:
                near = did_you_mean(node.id, names)
                raise NotConverted(line, f"{node.id} is none of the query's arguments; {near}")
            return names[node.id]
        text = _value(node, of) or _operation(node, of)
        if text is None:
            raise NotConverted(line, f"{_named(node)} is not converted: {ast.unparse(node)[:60]!r}")
        return text

    return of(tree)


def _value(node: ast.expr, of: Callable[[ast.expr], str]) -> str | None:
    match node:
        case ast.Constant(value=str() | int() | float() | bool() | None as value):
            return constant(value)
        case ast.Subscript(value=value, slice=ast.Constant(value=int()) as index):
            return f"{of(value)}[{of(index)}]"
        case ast.Call(func=ast.Name(id="str"), args=[one], keywords=[]):
            return f"({of(one)})|string"
        case ast.Call(func=ast.Name(id="len"), args=[one], keywords=[]):
            return f"({of(one)})|length"
    return None


def _operation(node: ast.expr, of: Callable[[ast.expr], str]) -> str | None:
    match node:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            sign = "-" if isinstance(op, ast.Sub) else "+" if _number(node) else "~"
            return f"({of(left)} {sign} {of(right)})"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return f"(not {of(operand)})"
        case ast.BoolOp(op=op, values=values):
            return f"({(' and ' if isinstance(op, ast.And) else ' or ').join(map(of, values))})"
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return f"({of(body)} if {of(test)} else {of(orelse)})"
        case ast.Compare(left=left, ops=[op], comparators=[other]):
            return _compared(of(left), op, other, of)
    return None


def constant(value: str | float | bool | None) -> str:
    """A plain value as a template writes it."""
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _compared(left: str, op: ast.cmpop, other: ast.expr, of: Callable[[ast.expr], str]) -> str:
    if isinstance(op, ast.Is | ast.IsNot) and isinstance(other, ast.Constant) and other.value is None:
        return f"({'not ' if isinstance(op, ast.Is) else ''}{left})"  # what is not given is empty here
    word = _COMPARED.get(type(op))
    if word is None:
        word = "==" if isinstance(op, ast.Is) else "!="
    return f"({left} {word} {of(other)})"


def _number(node: ast.expr) -> bool:
    """Whether an expression is a number, as far as it says so itself."""
    match node:
        case ast.Constant():
            return isinstance(node.value, int | float)
        case ast.BinOp():
            return _number(node.left) or _number(node.right) or isinstance(node.op, ast.Sub)
        case ast.Call(func=ast.Name(id="len")):
            return True
    return False


def _named(node: ast.expr) -> str:
    names: dict[type[ast.expr], str] = {
        ast.Call: "a function call",
        ast.Attribute: "an attribute",
        ast.JoinedStr: "a formatted string",
        ast.Await: "await",
        ast.Lambda: "a lambda",
        ast.ListComp: "a comprehension",
    }
    return names.get(type(node), f"this ({type(node).__name__})")
