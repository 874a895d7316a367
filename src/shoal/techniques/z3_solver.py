"""A solver at the model's side: it writes the problem down formally, z3 solves it, and the answer stands on the result.

This way of formalising and solving is that of SatLM (arXiv:2305.09656).
"""

import re
from functools import partial

from msgspec import structs

from shoal import sandbox
from shoal.errors import UsageError
from shoal.prompting.template import prompt
from shoal.runtime.model import Model, answer
from shoal.runtime.types import Completion, Request, total
from shoal.sandbox import run_smt
from shoal.techniques._conversation import instructed, thinking
from shoal.techniques._programs import (
    Result,
    Work,
    attempt,
    check_options,
    limits,
    mended,
    problem_of,
    python_in,
    run_program,
    shortened,
    smt_in,
)

LANGUAGES = ("smt", "python")
_SOLVER = re.compile(r"^[\s>#*_`-]*solver[\s*_`\"]*[:：=][\s*_`\"]*(yes|no|true|false)\b", re.IGNORECASE | re.MULTILINE)
_VERDICT = re.compile(r"^(sat|unsat|unknown)$", re.MULTILINE)


async def z3_solver(
    model: Model, request: Request, *, language: str = "smt", repairs: int = 2, seconds: float = 20.0
) -> Completion:
    """Have the model write the problem down for the z3 solver, and answer from what the solver finds.

    `language` is "smt" (SMT-LIB 2) or "python" (a program with z3 or sympy); both run in the sandbox for at most
    `seconds`. What fails, takes too long or comes out as unknown goes back to the model with what happened, up to
    `repairs` times. Where the model finds the problem is none for a solver, or no attempt comes to a result, the
    request is answered as it is, without any word of a solver. Raises SandboxUnavailable before any call.
    """
    if language not in LANGUAGES:
        raise UsageError(f"language={language!r}: it can be {' or '.join(LANGUAGES)}")
    check_options(repairs=repairs, seconds=seconds)
    await sandbox.need(z3=language == "smt")
    work = Work(partial(_script_in, language=language), partial(_solve, language=language, seconds=seconds))
    first = await attempt(model, instructed(thinking(request), prompt(f"z3_solver_{language}").text), work)
    attempts = await mended(model, first, work, repairs)
    last = attempts[-1]
    if last.ok:
        shown = {"script": last.program, "result": shortened(last.result.output)}
        final = await answer(model, instructed(request, prompt("z3_solver_answer").fill(shown)))
    else:
        final = await answer(model, request)
    usage = total(attempt.reply.usage for attempt in attempts) + final.usage
    return structs.replace(final, usage=usage)


def _script_in(reply: Completion, language: str) -> tuple[str | None, str | None]:
    """The script of a reply, or what is wrong with it; neither where the model declines."""
    said = [match[1].lower() for match in _SOLVER.finditer(reply.text)][-1:]
    if said in (["no"], ["false"]):
        return None, None
    script, problem = smt_in(reply) if language == "smt" else python_in(reply)
    if script is None and problem is None and said:
        problem = "There is no code block in your reply."
    return script, problem


async def _solve(script: str, language: str, seconds: float) -> Result:
    if language == "python":
        result = await run_program(script, seconds)
    else:
        outcome = await run_smt(script, limits=limits(seconds))
        problem = problem_of(outcome)
        if problem is None and not outcome.stdout.strip():
            problem = "The solver was asked nothing: there is no (check-sat), or nothing else that answers."
        result = Result(outcome.stdout.strip(), problem)
    verdicts = set(_VERDICT.findall(result.output))
    if result.problem is None and verdicts == {"unknown"}:
        told = f"The solver could not tell: it answered\n{shortened(result.output)}\nState it in an easier form."
        return Result(result.output, told)
    return result
