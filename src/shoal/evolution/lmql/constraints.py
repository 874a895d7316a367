"""`where` clauses of LMQL as what our calls take: stop texts, lengths, options, patterns."""

import ast
from collections.abc import Iterator

from msgspec import Struct

from shoal.evolution.lmql.expressions import parsed
from shoal.evolution.lmql.statements import NotConverted


class Constraint(Struct, frozen=True):
    """What holds for one variable."""

    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    options: tuple[str, ...] = ()
    regex: str | None = None

    def __or__(self, other: "Constraint") -> "Constraint":
        lengths = [length for length in (self.max_tokens, other.max_tokens) if length is not None]
        return Constraint(
            tuple(dict.fromkeys((*self.stop, *other.stop))),
            min(lengths, default=None),
            other.options or self.options,
            other.regex or self.regex,
        )


def constraints(where: str, line: int, notes: list[str]) -> dict[str, Constraint]:
    """By variable. What holds only nearly is noted; NotConverted for what cannot be said."""
    found: dict[str, Constraint] = {}
    for node in _conjuncts(parsed(where, line)) if where else ():
        variable, constraint = _constraint(node, line, notes)
        found[variable] = found.get(variable, Constraint()) | constraint
    return found


def _conjuncts(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for value in node.values:
            yield from _conjuncts(value)
    else:
        yield node


def _constraint(node: ast.expr, line: int, notes: list[str]) -> tuple[str, Constraint]:
    refusal = NotConverted(line, f"the constraint {ast.unparse(node)[:80]!r} is not converted")
    match node:
        case ast.Call(func=ast.Name(id=name), args=[ast.Name(id=variable), ast.Constant(value=str() as text)]):
            return variable, _called(name.upper(), text, variable, line, notes, refusal)
        case ast.Call(func=ast.Name(id="INT" | "int"), args=[ast.Name(id=variable)]):
            return variable, Constraint(regex="[0-9]+")
        case ast.Compare(left=ast.Name(id=variable), ops=[ast.In()], comparators=[options]):
            return variable, Constraint(options=_options(options, refusal))
        case ast.Compare(left=ast.Constant(value=str() as text), ops=[ast.NotIn()], comparators=[ast.Name(id=name)]):
            return name, _without(text, name, line, notes)
        case ast.UnaryOp(
            op=ast.Not(),
            operand=ast.Compare(
                left=ast.Constant(value=str() as text), ops=[ast.In()], comparators=[ast.Name(id=variable)]
            ),
        ):
            return variable, _without(text, variable, line, notes)
        case ast.Compare(
            left=ast.Call(func=ast.Name(id="len"), args=[ast.Call(func=ast.Name(id=tokens), args=[ast.Name(id=name)])]),
            ops=[ast.Lt() | ast.LtE() as op],
            comparators=[ast.Constant(value=int() as most)],
        ) if tokens.upper() == "TOKENS":
            return name, _at_most(most - isinstance(op, ast.Lt), refusal)
    raise refusal


def _called(name: str, text: str, variable: str, line: int, notes: list[str], refusal: NotConverted) -> Constraint:
    if name == "STOPS_BEFORE" and text:
        return Constraint(stop=(text,))
    if name == "STOPS_AT" and text:
        if text.strip():
            notes.append(f"line {line}: {variable} ends before {text!r}; LMQL kept it at the end")
        return Constraint(stop=(text,))
    if name == "REGEX" and text:
        return Constraint(regex=text)
    raise refusal


def _without(text: str, variable: str, line: int, notes: list[str]) -> Constraint:
    notes.append(f"line {line}: {variable} ends before {text!r}; LMQL would have it go on without")
    return Constraint(stop=(text,))


def _at_most(most: int, refusal: NotConverted) -> Constraint:
    if most < 1:
        raise refusal
    return Constraint(max_tokens=most)


def _options(node: ast.expr, refusal: NotConverted) -> tuple[str, ...]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "set" and len(node.args) == 1:
        node = node.args[0]
    if not isinstance(node, ast.List | ast.Set | ast.Tuple):
        raise refusal
    texts = [item.value for item in node.elts if isinstance(item, ast.Constant) and isinstance(item.value, str)]
    if not texts or len(texts) < len(node.elts) or not all(texts):
        raise refusal
    return tuple(dict.fromkeys(texts))
