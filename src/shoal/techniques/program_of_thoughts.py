"""Program of thoughts: the model writes a program, which is run, and the answer is what it prints.

arXiv:2211.12588, and as PAL arXiv:2211.10435. With tests at hand, programs are answers and the tests choose among them.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial

from msgspec import structs

from shoal import sandbox
from shoal.prompting.answers import extract, normalise
from shoal.prompting.template import prompt
from shoal.runtime.concurrency import gather
from shoal.runtime.model import Model, answer
from shoal.runtime.types import Completion, Request, total
from shoal.techniques._conversation import has_form, instructed, thinking
from shoal.techniques._program_tests import Step, read_tests, run_tests
from shoal.techniques._programs import (
    Attempt,
    Result,
    Work,
    attempt,
    can_answer,
    check_options,
    mended,
    python_in,
    run_program,
    shortened,
)


async def program_of_thoughts(
    model: Model,
    request: Request,
    *,
    n: int = 1,
    repairs: int = 2,
    tests: str | None = None,
    seconds: float = 10.0,
    explain: bool = True,
) -> Completion:
    """Have the model write a program and run it: the answer is what it prints, or the code that passes the tests.

    Programs run in the sandbox for at most `seconds`; one that fails or prints nothing goes back to the model with what
    happened, up to `repairs` times. Of `n` programs, what most of them print wins, the earliest in a tie. With
    `explain` the model writes the answer from the output; without, the output is the answer. Where the message holds
    tests (or `tests` gives them), the first of the `n` programs that passes all is the answer, else the one that passes
    most. A question without anything to compute is answered directly. Raises SandboxUnavailable before any call.
    """
    check_options(n=n, repairs=repairs, seconds=seconds)
    steps = read_tests(request, tests)
    await sandbox.need()
    if steps:
        return await _by_tests(model, request, steps, n, repairs, seconds)
    return await _by_output(model, request, n, repairs, seconds, explain)


async def _by_output(model: Model, request: Request, n: int, repairs: int, seconds: float, explain: bool) -> Completion:
    asked = instructed(thinking(request), prompt("program_of_thoughts").text)
    work = Work(python_in, partial(run_program, seconds=seconds))

    async def chain(i: int) -> list[Attempt]:
        return await mended(model, await attempt(model, asked.draw(i), work), work, repairs)

    attempts = await gather(*(chain(i) for i in range(n)))
    done = [chain[-1] for chain in attempts if chain[-1].ok]
    if not done:
        return await _without_program(model, request, attempts)
    best, value = _most_printed(done)
    if explain or has_form(request) or request.params.max_tokens is not None:
        shown = {"program": best.program, "output": shortened(best.result.output)}
        final = await answer(model, instructed(request, prompt("program_of_thoughts_answer").fill(shown)))
        return _with_cost(final, attempts, final, answer=value)
    return _with_cost(Completion(best.result.output, model=best.reply.model), attempts, answer=value)


def _most_printed(done: Sequence[Attempt]) -> tuple[Attempt, str]:
    """The earliest attempt whose output has the answer that most of them have, and that answer."""
    values = [_printed_answer(attempt.result) for attempt in done]
    counts = Counter(map(normalise, values))
    most = max(range(len(done)), key=lambda i: (counts[normalise(values[i])], -i))
    return done[most], values[most]


def _printed_answer(result: Result) -> str:
    """The short answer in an output: what its last line states."""
    last = result.output.splitlines()[-1].strip()
    return extract(last) or last


async def _by_tests(
    model: Model, request: Request, steps: Sequence[Step], n: int, repairs: int, seconds: float
) -> Completion:
    shown = "\n".join(step.source.rstrip() + (f"\n# {step.want.strip()}" if step.want else "") for step in steps)
    asked = instructed(thinking(request), prompt("program_of_thoughts_function").fill({"tests": shown}))
    work = Work(partial(python_in, defining=True), partial(run_tests, steps=steps, seconds=seconds))
    drafts = await gather(*(attempt(model, asked.draw(i), work) for i in range(n)))
    attempts = [[draft] for draft in drafts]
    if not any(draft.ok for draft in drafts):
        attempts = await gather(*(mended(model, draft, work, repairs) for draft in drafts))
    programs = [attempt for chain in attempts for attempt in chain if attempt.program is not None]
    if not programs:
        return await _without_program(model, request, attempts)
    best = max(programs, key=lambda attempt: (attempt.ok, attempt.result.passed))
    if can_answer(request, best.reply):
        return _with_cost(best.reply, attempts, answer=best.program)
    shown = prompt("program_of_thoughts_code").fill({"program": best.program})
    final = await answer(model, instructed(request, shown))
    return _with_cost(final, attempts, final, answer=best.program)


async def _without_program(model: Model, request: Request, attempts: Sequence[Sequence[Attempt]]) -> Completion:
    """The first direct answer where one was given that will do, else the model's answer to the request itself."""
    plain = next((chain[0].reply for chain in attempts if chain[0].plain and can_answer(request, chain[0].reply)), None)
    if plain is not None:
        return _with_cost(plain, attempts, answer=plain.answer)
    final = await answer(model, request)
    return _with_cost(final, attempts, final, answer=final.answer)


def _with_cost(
    reply: Completion, attempts: Sequence[Sequence[Attempt]], *last: Completion, answer: str | None
) -> Completion:
    """The reply with the usage of all that was asked, and the short answer."""
    replies = [attempt.reply for chain in attempts for attempt in chain]
    return structs.replace(reply, usage=total(c.usage for c in (*replies, *last)), answer=answer)
