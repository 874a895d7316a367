"""`run_python` and `run_smt`: one confined run each."""

import asyncio
import functools
import os
import re
import weakref
from asyncio import AbstractEventLoop

from msgspec.structs import replace

from shoal.errors import UsageError
from shoal.sandbox import job, places, smt
from shoal.sandbox.child import wire
from shoal.sandbox.outcome import Limits, Outcome, Report
from shoal.sandbox.tiers import Tier, Tiers

_DEFAULT = Limits()
_AT_ONCE = 16  # jobs of one event loop that are with the zygote; it runs as many of them as there are cores
_STOPPED = {
    wire.BY_ITSELF: None,
    wire.WALL: "wall time",
    wire.CPU: "CPU time",
    wire.MEMORY: "memory",
    wire.SCRATCH: "scratch space",
    wire.TOLD_TO: "output",
}
# More than any program uses, and no more than the timers and counters on the way can hold.
_FOR_EVER, _ALL = 1e6, 1 << 50
_LATE = 0.5  # seconds after which z3 is ended that has not ended itself, and told what it knew
_NO_MEMORY = re.compile(r"MemoryError|z3\S*Exception: .*out of memory")
_WORD = re.compile(r"\b(" + "|".join(wire.PACKAGES) + r")\b")


async def run_python(code: str, *, stdin: str = "", limits: Limits = _DEFAULT, unsafe: bool = False) -> Outcome:
    """Run a program as `__main__` in a confined process: no network, no files but its own scratch directory.

    It may import the standard library and, where they are installed, z3, sympy, mpmath, numpy, gmpy2 and math_verify.
    Raises SandboxUnavailable where it cannot be confined. `unsafe` runs it unconfined, with the caller's rights, an
    empty environment and limits only. Cancelling ends the program at once.
    """
    tier = await _tier(unsafe)
    try:
        source = code.encode()
    except UnicodeEncodeError as error:
        return Outcome(
            "", f"SyntaxError: the program is not valid Unicode: {error.reason}", 1, None, 0.0, tier.isolation
        )
    wanted = {match[0] for match in _WORD.finditer(code)}
    packages = sum(1 << place for place, name in enumerate(wire.PACKAGES) if name in wanted)
    ended = await _run(tier, _order(wire.PYTHON, packages, limits), source, stdin, limits)
    outcome = _outcome(ended, tier)
    last = outcome.stderr.rstrip().rpartition("\n")[2]
    if outcome.exit_code == 1 and _NO_MEMORY.match(last):
        return replace(outcome, stopped="memory", exit_code=None)
    return outcome


async def run_smt(text: str, *, limits: Limits = _DEFAULT) -> Outcome:
    """Run an SMT-LIB 2 script in a confined z3; `stdout` is its answers. UsageError where z3 is not installed.

    A script with anything but the commands of `smt.COMMANDS` is refused: an Outcome with the reason in `stderr`.
    """
    places.need_z3()
    tier = await _tier(unsafe=False)
    try:
        script = smt.filtered(text)
    except smt.Refused as error:
        return Outcome("", str(error), 1, None, 0.0, tier.isolation)
    order = _order(wire.SMT, 0, replace(limits, wall=limits.wall + _LATE))
    ended = await _run(tier, order, b"", script, limits)
    return smt.judged(_outcome(ended, tier))


async def need(*, z3: bool = False) -> None:
    """SandboxUnavailable where nothing can be run confined, and with `z3` UsageError where z3 is not installed."""
    if z3:
        places.need_z3()
    await (await _tier(unsafe=False)).ready()


def check() -> Report:
    """What confinement there is here, proved by trying the attacks it must stop. Blocks for a fraction of a second."""
    return _tiers().report()


def _tiers() -> Tiers:
    return _tiers_of(os.getpid(), os.environ.get("SHOAL_SANDBOX", ""))


@functools.cache
def _tiers_of(pid: int, setting: str) -> Tiers:
    """One a process; a fork of it starts its own."""
    return Tiers(setting)


@functools.cache
def _turns() -> "weakref.WeakKeyDictionary[AbstractEventLoop, asyncio.Semaphore]":
    return weakref.WeakKeyDictionary()


async def _tier(unsafe: bool) -> Tier:
    tiers = _tiers()
    if unsafe:
        return tiers.unsafe()
    if tiers.chosen is not None:
        return tiers.chosen
    return await asyncio.to_thread(tiers.choose)


def _order(kind: int, packages: int, limits: Limits) -> wire.Order:
    for name in Limits.__struct_fields__:
        if not 0 < getattr(limits, name) < 1 << 62:
            raise UsageError(f"the limit {name!r} of a confined run must be above 0, not {getattr(limits, name)}")
    return wire.Order(
        kind, packages, min(limits.wall, _FOR_EVER), limits.cpu, min(int(limits.memory), _ALL), int(limits.scratch)
    )


async def _run(tier: Tier, order: wire.Order, program: bytes, stdin: str | bytes, limits: Limits) -> job.Ended:
    data = stdin.encode(errors="replace") if isinstance(stdin, str) else stdin
    async with _turns().setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_AT_ONCE)):
        return await tier.run(order, program, data, int(limits.output))


def _outcome(ended: job.Ended, tier: Tier) -> Outcome:
    report, stderr = ended.report, ended.stderr.decode("utf-8", "replace")
    if report.exit_code < 0:  # the stack that Python prints when it crashes goes down to what started the program
        child = str(places.CHILD)
        stderr = "".join(line for line in stderr.splitlines(keepends=True) if child not in line)
    stopped = "output" if ended.cut else _STOPPED[report.why]
    return Outcome(
        ended.stdout.decode("utf-8", "replace"),
        stderr,
        None if stopped else report.exit_code,
        stopped,
        report.seconds,
        tier.isolation,
    )
