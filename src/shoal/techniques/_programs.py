"""Programs that a model writes: taken from its own reply, run in the sandbox, and mended by it where they fail."""

import ast
import re
import warnings
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct, structs

from shoal.errors import UsageError
from shoal.prompting.answers import Block, blocks
from shoal.prompting.template import prompt
from shoal.runtime.model import Model, then
from shoal.runtime.types import Completion, Request
from shoal.sandbox import Limits, Outcome, run_python
from shoal.techniques._conversation import fits, has_form, said
from shoal.techniques._options import at_least

_TAG = re.compile(r"[\w-]+")
_PYTHON = ("python", "python3", "py", "py3")
_SMT = ("smt", "smt2", "smtlib", "smtlib2", "smt-lib", "smt-lib2", "z3", "lisp")
_LONGEST_PARSED = 100_000  # characters
_DEEPEST = 100  # levels of a syntax tree
_SHOWN = 4000


class Result(Struct, frozen=True):
    """What came of a program: what it printed, what is wrong with it (None: nothing), and how many tests it passes."""

    output: str = ""
    problem: str | None = None
    passed: int = 0


class Attempt(Struct, frozen=True):
    """One reply with a program in it, and what came of that."""

    asked: Request
    reply: Completion
    program: str | None
    result: Result

    @property
    def ok(self) -> bool:
        return self.program is not None and self.result.problem is None

    @property
    def plain(self) -> bool:
        """The model answered without a program."""
        return self.program is None and self.result.problem is None


class Work(Struct, frozen=True):
    """How a program is found in a reply, and run. Where there is none, `find` says why: None for a plain answer."""

    find: Callable[[Completion], tuple[str | None, str | None]]
    run: Callable[[str], Awaitable[Result]]


def check_options(*, repairs: int, seconds: float, n: int = 1) -> None:
    """UsageError for an option that no run can have."""
    at_least(1, n=n)
    at_least(0, repairs=repairs)
    if not 0 < seconds < float("inf"):
        raise UsageError(f"seconds={seconds}: a run's time must be above 0")


async def attempt(model: Model, asked: Request, work: Work) -> Attempt:
    """One call of the model, and a run of what it wrote."""
    reply = await model(asked)
    program, problem = work.find(reply)
    return Attempt(asked, reply, program, Result(problem=problem) if program is None else await work.run(program))


async def mended(model: Model, first: Attempt, work: Work, repairs: int) -> list[Attempt]:
    """The attempt and those after it: the model is shown what went wrong, and what it writes then is run again."""
    attempts = [first]
    while (problem := attempts[-1].result.problem) is not None and len(attempts) <= repairs:
        last = attempts[-1]
        wish = prompt("programs_mend").fill({"problem": problem})
        again = await attempt(model, then(last.asked, said(last.reply) or "(nothing)", wish), work)
        if again.plain:  # it speaks of the failure; that is no answer
            again = structs.replace(again, result=Result(problem="There is no code block in your reply."))
        attempts.append(again)
    return attempts


def limits(seconds: float) -> Limits:
    return Limits(wall=seconds, cpu=seconds)


async def run_program(program: str, seconds: float) -> Result:
    """Run a Python program for what it prints. One that prints nothing has failed."""
    outcome = await run_python(program, limits=limits(seconds))
    if outcome.ok and not outcome.stdout.strip():
        return Result(problem="The program ran without an error, but it printed nothing.")
    return Result(outcome.stdout.strip(), problem_of(outcome))


def problem_of(outcome: Outcome) -> str | None:
    """What a model is told of a failed run; None where it did not fail."""
    if outcome.ok:
        return None
    printed = outcome.stdout.strip()
    return f"{outcome.error}\n\nBefore that it had printed:\n{shortened(printed)}" if printed else outcome.error


def shortened(text: str) -> str:
    """A text short enough for a prompt: its beginning and its end."""
    left_out = len(text) - _SHOWN
    if left_out <= 0:
        return text
    return f"{text[: _SHOWN // 2]}\n({left_out} characters are left out here)\n{text[-_SHOWN // 2 :]}"


def python_in(reply: Completion, *, defining: bool = False) -> tuple[str | None, str | None]:
    """The Python program of a reply, or what is wrong: see `Work`.

    It is the last code block that reads as Python, with `defining` the last that defines something; a block without a
    language counts only where it reads as Python and none is marked so: it may be what the program prints.
    """
    found = [block for block in _whole(reply) if is_python(block)]
    read = [block for block in found if parsed(block.text) is not None]
    defined = [block for block in read if defining and _defines(block.text)]
    marked = [block for block in read if tag(block)]
    best = (defined or marked or read or found)[-1:]
    return (best[0].text, None) if best else (None, unfinished(reply))


def smt_in(reply: Completion) -> tuple[str | None, str | None]:
    """The SMT-LIB text of a reply, or what is wrong: see `Work`."""
    whole = _whole(reply)
    named = [block.text for block in whole if tag(block) in _SMT]
    bare = [block.text for block in whole if not tag(block) and block.text.lstrip().startswith(("(", ";"))]
    best = (named or bare)[-1:]
    return (best[0], None) if best else (None, unfinished(reply))


def block_in(reply: Completion) -> Block | None:
    """The code of a reply in whatever language: its Python program, else its last block."""
    whole = _whole(reply)
    program, _ = python_in(reply, defining=True)
    if program is not None:
        return next(block for block in reversed(whole) if block.text == program)
    return whole[-1] if whole else None


def unfinished(reply: Completion) -> str | None:
    """Why a reply has no whole code block; None where it has not begun one."""
    if reply.finish_reason == "length":
        return "Your reply was too long and was cut off before the end of its code block. Think and write more briefly."
    return "The code block in your reply has no end." if any(not b.closed for b in blocks(reply.text)) else None


def is_python(block: Block) -> bool:
    return tag(block) in _PYTHON or (not tag(block) and parsed(block.text) is not None)


def tag(block: Block) -> str:
    """The language a block is marked with; empty where it is not."""
    match = _TAG.search(block.language)
    return match[0] if match else ""


def parsed(text: str) -> ast.Module | None:
    """The syntax tree of a Python program; None where it is none. Nothing is run or compiled."""
    if len(text) > _LONGEST_PARSED:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the program's own faults
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if _is_shallow(tree) else None


def _is_shallow(tree: ast.AST) -> bool:
    """Whether a tree can be written out as text, which takes several frames of the stack for each level."""
    level = [tree]
    for _ in range(_DEEPEST):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return True
    return False


def can_answer(request: Request, reply: Completion) -> bool:
    """Whether a reply given on the way can be the answer: not cut off or empty, of no special form, not too long."""
    whole = bool(reply.text.strip()) and reply.finish_reason != "length"
    return whole and not has_form(request) and fits(request, reply.text)


def _whole(reply: Completion) -> Sequence[Block]:
    return [block for block in blocks(reply.text) if block.closed and block.text.strip()]


def _defines(text: str) -> bool:
    """Whether something is defined there, and not only tests of what another block defines."""
    tree = parsed(text)
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    names = [node.name for node in tree.body if isinstance(node, kinds)] if tree else []
    return any(not name.startswith(("test_", "Test")) for name in names)
