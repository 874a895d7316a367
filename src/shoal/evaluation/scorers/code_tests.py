"""Whether a program passes its tests, run in the sandbox."""

from itertools import takewhile

from shoal import sandbox
from shoal.batch.rows import Row
from shoal.errors import UsageError, did_you_mean
from shoal.evaluation.metrics import ACCURACY, MEAN
from shoal.evaluation.scorers.rating import Scorer, name_of
from shoal.evaluation.scorers.texts import shown_end
from shoal.prompting.answers import blocks
from shoal.prompting.answers.markup import without_reasoning
from shoal.runtime.types import Completion, Request
from shoal.techniques._program_tests import Step, read_tests, run_tests
from shoal.techniques._programs import check_options, is_python, parsed, python_in

_LONGEST = 100_000  # characters of a program that stands in no code block


def code(
    *, prompt: str | None = None, entry_point: str | None = None, seconds: float = 10.0, partial: bool = False
) -> Scorer:
    """The program in the output passes the tests in the target, all in the sandbox and within `seconds`.

    The target is Python: assert statements (or a list of them), test functions, unittest classes or >>> examples. As
    in HumanEval, `prompt` names the column with the code that the output goes on with, and `entry_point` the column
    with the name of the function that `check(candidate)` in the tests is called with. The program is the last code
    block that defines something besides tests, else all of the output if it is Python. The score is 1 where all tests
    pass, else 0; with `partial` it is the share that pass. Code blocks are looked for in the last 200,000 characters.
    """
    check_options(repairs=0, seconds=seconds)
    columns = tuple(column for column in (prompt, entry_point) if column)

    async def rate(output: str, _: str | None, target: object, row: Row) -> float:
        steps = _steps(target, _cell(row, entry_point) if entry_point else None)
        program = _program(output, _cell(row, prompt) if prompt else "")
        if program is None:
            return 0.0
        result = await run_tests(program, steps, seconds)
        total = sum(step.test for step in steps)
        return result.passed / total if partial else float(result.problem is None and result.passed == total)

    def check(target: object, row: Row) -> None:
        if target is not None:
            _steps(target, _cell(row, entry_point) if entry_point else None)

    metric = MEAN if partial else ACCURACY
    return Scorer("code", rate, metric=metric, read=_read, need=sandbox.need, check=check, columns=columns)


def _cell(row: Row, column: str) -> str:
    if column not in row:
        raise UsageError(f"code: {name_of(row)} has no column {column!r}; {did_you_mean(column, row)}")
    return str(row[column] or "")


def _steps(target: object, entry_point: str | None) -> list[Step]:
    tests = "\n".join(map(str, target)) if isinstance(target, list | tuple) else str(target or "")
    if entry_point is not None:
        if not entry_point.isidentifier():
            raise UsageError(f"code: {entry_point[:60]!r} is not the name of a function")
        tests = f"{tests}\n\ncheck({entry_point})"
    try:
        steps = read_tests(Request.of(""), tests)
    except UsageError:
        steps = []
    if not any(step.test for step in steps):
        raise UsageError(f"code: no tests in {tests[:60]!r}: no assert statement, test function or >>> example")
    return steps


def _program(output: str, before: str) -> str | None:
    """The program of an output, after the code that it goes on with; None where it has none."""
    end = shown_end(output)
    block, _ = python_in(Completion(end), defining=True)
    block = block or _left_open(end)
    if block is not None:
        return f"{before.rstrip()}\n{block}" if _is_indented(block) else f"{before}\n\n{block}"
    shown = (without_reasoning(output) or "")[:_LONGEST]
    if not shown.strip():
        return None
    candidates = [before + shown, f"{before}\n{shown}", *([before + _body(shown)] if before else [])]
    return next((program for program in candidates if parsed(program) is not None), None)


def _left_open(text: str) -> str | None:
    """The Python of a code block without its end, which is a usual sequence to stop a model at."""
    last = blocks(text)[-1:]
    return last[0].text if last and not last[0].closed and is_python(last[0]) else None


def _body(text: str) -> str:
    """The text up to where a function's body ends, which a base model does not stop at."""
    first, *lines = text.split("\n")
    inside = takewhile(lambda line: not line.strip() or line[0].isspace(), lines)
    return "\n".join([first, *inside])


def _is_indented(block: str) -> bool:
    return next((line[0].isspace() for line in block.splitlines() if line.strip()), False)


def _read(output: str) -> str | None:
    return _program(output, "")
