"""Tests of programs: read from what the user wrote, or calls that a model wrote; run in the sandbox on a program."""

import ast
import doctest
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from shoal.errors import UsageError
from shoal.prompting.answers import Block, blocks
from shoal.runtime.types import Request
from shoal.sandbox import run_python
from shoal.techniques._programs import Result, limits, parsed, shortened

_MOST_CALLS = 20
_MOST_SHOWN = 3  # failing tests that a model is told of
_ASSERT = re.compile(r"^(?:[-*] +|\d{1,2}[.)] +)?(`?)(assert\b.+)\1$")
_CODE_END = re.compile(r"^(.*?)(?:\"\"\"|'''|```).*$", re.MULTILINE)
_RAISES, _STOPPED = "raises ", "stopped: "
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")


class Step(Struct, frozen=True):
    """One statement that is run after a program, in its names.

    `test`: it counts as one. `want` is what a doctest should print and `raises` what it should raise; `shown` is an
    expression whose value explains a failure; `value` asks for the value of the expression that `source` is.
    """

    source: str
    test: bool = True
    want: str | None = None
    raises: str | None = None
    shown: str | None = None
    value: bool = False


class _Record(Struct, frozen=True):
    """What the harness tells of the program or of a step: whether it went well, why not, and what was seen of it."""

    ok: bool = False
    why: str = ""
    seen: str = ""


def read_tests(request: Request, given: str | None) -> list[Step]:
    """The tests that are `given`, or else those in the user's last message; none where there are none.

    In a message these are code blocks marked as tests (or with `def test_...` or bare assert statements), else lines
    with an assert statement, and examples with `>>>`. UsageError where what is given holds no test.
    """
    if given is not None:
        steps = _read(given, helpers=True)
        if given.strip() and not any(step.test for step in steps):
            raise UsageError(f"tests={given[:60]!r}: it has no assert statement, no >>> example and no test function")
        return steps
    marked = [block for block in blocks(request.text) if block.closed and _is_tests(block)]
    steps = [step for block in marked for step in _read(block.text, helpers="test" in block.language)]
    steps = steps or [*_examples(request.text), *_assert_lines(request.text)]
    return steps if any(step.test for step in steps) else []


def calls_in(code: str) -> list[Step]:
    """Calls as steps: each expression of the code is one whose value counts."""
    tree = parsed(code)
    body = tree.body[:_MOST_CALLS] if tree else []
    return [Step(ast.unparse(node), value=isinstance(node, ast.Expr)) for node in body]


async def run_tests(program: str, steps: Sequence[Step], seconds: float) -> Result:
    """Run the tests on a program. The problem tells of the first that fail."""
    (loaded, *records), stopped = await _run("program", program, steps, seconds)
    if not loaded.ok:
        return Result(problem=f"The program fails before any test:\n{loaded.why or stopped}")
    passed = sum(record.ok and step.test for record, step in zip(records, steps, strict=False))
    total = sum(step.test for step in steps)
    failed = [f"{s.source}\n{r.why}" for r, s in zip(records, steps, strict=False) if not r.ok][:_MOST_SHOWN]
    if stopped:
        at = steps[len(records)].source if len(records) < len(steps) else "the end"
        failed.append(f"{at}\n{stopped}")
    summary = f"{passed} of {total} tests pass."
    if passed == total and not stopped and all(r.ok or _imports(s) for r, s in zip(records, steps, strict=False)):
        failed = []  # the tests import the program from a file, say, and do without
    problem = "\n\n".join([f"{summary} These fail:", *failed]) if failed else None
    return Result(summary, problem and shortened(problem), passed)


async def behaviour(program: str, calls: Sequence[Step], seconds: float) -> list[str]:
    """What a program prints, and what each call prints and gives (or the type of error it raises), in text."""
    records, stopped = await _run("__main__", program, calls, seconds)
    seen = [_ADDRESS.sub("at 0x", record.seen) for record in records]
    return [*seen, _STOPPED + stopped.removeprefix(_STOPPED)] if stopped else seen


def is_telling(seen: Sequence[str]) -> bool:
    """Whether behaviour shows anything: some output or value, not errors alone."""
    return any(text and not text.startswith((_RAISES, _STOPPED)) for text in seen)


async def _run(name: str, program: str, steps: Sequence[Step], seconds: float) -> tuple[list[_Record], str | None]:
    """A record of the program and of each step reached (at least one), and why the run did not reach its end."""
    job = {"name": name, "program": program, "steps": [_plain(step) for step in steps]}
    job["mark"] = mark = hashlib.sha256(json.dumps(job).encode()).hexdigest()  # what a program prints cannot look so
    outcome = await run_python(_HARNESS.replace("JOB", repr(json.dumps(job)), 1), limits=limits(seconds))
    records = list(_records(outcome.stdout, mark))
    if len(records) == len(steps) + 1:
        return records, None
    return records or [_Record()], outcome.error or "The program ended itself."


def _records(printed: str, mark: str) -> Iterator[_Record]:
    for line in printed.splitlines():
        if line.startswith(mark):
            try:
                yield msgspec.json.decode(line.removeprefix(mark), type=_Record)
            except msgspec.DecodeError:  # it was cut off, or the program tampers with it
                return


def _plain(step: Step) -> dict[str, Any]:
    return {name: getattr(step, name) for name in Step.__struct_fields__}


def _read(text: str, *, helpers: bool) -> list[Step]:
    tree = parsed(text)
    if tree is None or (">>>" in text and not any(isinstance(node, ast.Assert) for node in ast.walk(tree))):
        return [*_examples(text), *_assert_lines(text)]
    return [step for node in tree.body for step in _steps_of(node, helpers)]


def _steps_of(node: ast.stmt, helpers: bool) -> Iterator[Step]:
    """The steps that one statement of a test file stands for. Without `helpers` it may not define what it tests."""
    source = ast.unparse(node)
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            yield Step(source, test=False)
        case ast.FunctionDef(name=name) if name.startswith("test"):
            yield Step(source, test=False)
            if not node.args.args:
                yield Step(f"{name}()")
        case ast.ClassDef(name=name, bases=bases) if any(ast.unparse(b).endswith("TestCase") for b in bases):
            yield Step(source, test=False)
            yield Step(_UNITTEST.replace("NAME", name))
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            if helpers or name.startswith("check"):
                yield Step(source, test=False)
        case ast.Assert():
            yield _assertion(node)
        case ast.Expr() if not _calls_something(node):
            return
        case _ if "__name__" not in source and not source.startswith(("unittest.main(", "print(")):
            yield Step(source)


def _assertion(node: ast.Assert) -> Step:
    compared = node.test.left if isinstance(node.test, ast.Compare) else None
    shown = ast.unparse(compared) if isinstance(compared, ast.Call) else None
    return Step(ast.unparse(node), shown=shown)


def _examples(text: str) -> list[Step]:
    """The examples with `>>>`, out of whatever they stand in."""
    if ">>>" not in text:
        return []
    try:
        found = doctest.DocTestParser().get_examples(_CODE_END.sub(r"\1\n", text.expandtabs()))
    except ValueError:  # they are not indented alike
        return []
    trees = [parsed(example.source) for example in found]
    if None in trees or not any(map(_calls_something, trees)):  # quoted mail, say
        return []
    return [Step(example.source, bool(example.want), example.want or None, example.exc_msg) for example in found]


def _imports(step: Step) -> bool:
    return not step.test and step.source.startswith(("import ", "from "))


def _calls_something(tree: ast.AST | None) -> bool:
    return tree is not None and any(isinstance(part, ast.Call) for part in ast.walk(tree))


def _assert_lines(text: str) -> list[Step]:
    """Assert statements that begin a line and call something; one may go on over lines."""
    steps = []
    lines = text.splitlines()
    for i, line in enumerate(lines):
        match = _ASSERT.match(line.rstrip())
        texts = ["\n".join([match[2], *lines[i + 1 : i + more]]) for more in range(1, 11)] if match else []
        tree = next((tree for text in texts if (tree := parsed(text)) is not None), None)
        node = tree.body[0] if tree else None
        if isinstance(node, ast.Assert) and _calls_something(node):
            steps.append(_assertion(node))
    return steps


def _is_tests(block: Block) -> bool:
    if "test" in block.language or re.search(r"^[ \t]*def test_", block.text, re.MULTILINE):
        return True
    tree = parsed(block.text)
    kinds = [type(node) for node in tree.body] if tree else []
    defining = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return ast.Assert in kinds and not any(kind in kinds for kind in defining)


_UNITTEST = """
import unittest
_told = unittest.TestResult()
unittest.defaultTestLoader.loadTestsFromTestCase(NAME).run(_told)
assert _told.wasSuccessful(), (_told.errors + _told.failures)[0][1]
""".strip()

# The program that runs in the sandbox around the model's: it tells of each step as soon as that is done.
_HARNESS = r"""
import contextlib, doctest, hashlib, io, json, linecache, sys, traceback, types

job = json.loads(JOB)
out = sys.stdout
module = sys.modules[job["name"]] = types.ModuleType(job["name"])
checker, flags = doctest.OutputChecker(), doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def run(source, mode, file):
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            value = eval(compile(source, file, mode), module.__dict__)
            return printed.getvalue() + (repr(value) if mode == "eval" else ""), None
        except BaseException as error:
            return printed.getvalue(), error


def told(error):
    lines = traceback.format_exception(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
    return "".join(lines).strip()[-1500:]


def tell(ok, why="", seen="", error=None):
    seen = ("raises " + type(error).__name__ + "\n" if error is not None else "") + seen.strip()
    why, seen = (text.encode("utf-8", "backslashreplace").decode() for text in (why, seen))
    if len(seen) > 10_000:  # what the sandbox takes is bounded, and two long texts have to be told apart
        rest = hashlib.sha256(seen.encode()).hexdigest()
        seen = "%s\n(%d characters in all, %s)" % (seen[:5000], len(seen), rest)
    out.write("\n" + job["mark"] + json.dumps({"ok": bool(ok), "why": why, "seen": seen}) + "\n")
    out.flush()


def same(want, got):
    # What follows an example without an empty line may be prose.
    lines = want.splitlines(True)
    return any(checker.check_output("".join(lines[:n]), got, flags) for n in range(len(lines), 0, -1))


def step(number, source, want, raises, shown, value, test):
    file = "<step %d>" % number
    mode = "eval" if value else "exec" if want is None and raises is None else "single"
    seen, error = run(source, mode, file)
    if raises is not None:
        got = traceback.format_exception_only(type(error), error)[-1] if error is not None else seen
        return tell(error is not None and same(raises, got), "it gives: " + got[:500], seen, error)
    if error is not None:
        why = told(error)
        if shown and isinstance(error, AssertionError):
            got, failed = run(shown, "eval", file)
            why += "" if failed else "\nThe value of %s is %s" % (shown, got[:500])
        return tell(False, why, seen, error)
    ok = want is None or same(want, seen)
    tell(ok, "" if ok else "Expected:\n%s\nGot:\n%s" % (want.strip(), seen.strip()[:500] or "nothing"), seen)


printed, error = run(job["program"], "exec", "<program>")
tell(error is None, "" if error is None else told(error), printed, error)
if error is None or job["name"] == "__main__":
    for number, one in enumerate(job["steps"], 1):
        step(number, **one)
"""
