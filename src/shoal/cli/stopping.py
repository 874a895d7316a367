"""What Ctrl-C and SIGTERM do to a command that asks models."""

import asyncio
import signal
from typing import Any, Protocol

from shoal.errors import BudgetExceeded
from shoal.techniques.opening import bases

_DRAIN_SECONDS = 30.0


class Stoppable(Protocol):
    """Work that can be told to begin nothing more."""

    interrupted: bool

    def interrupt(self) -> None: ...


def _say(line: str) -> None:
    from shoal.cli import show

    show.errors.print(line, soft_wrap=True, markup=False)  # above what is drawn there, if anything is


def stop_on_signals(work: Stoppable, models: object, task: "asyncio.Future[Any]") -> None:
    """The first Ctrl-C (or SIGTERM) lets the calls under way finish; a second, or half a minute, cuts them off.

    What travels by a batch API is waited for no longer: it stays with the provider.
    """
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if work.interrupted:
            task.cancel()
            return
        work.interrupt()
        asked = list(bases(models))
        travelling = any(base.waves is not None for base in asked)
        for base in asked:
            base.scheduler.refuse_waiting(BudgetExceeded("the run was interrupted"))
        live = "waves stay with the provider, live calls and downloads" if travelling else "calls"
        _say(f"stopping: {live} under way are let finish; Ctrl-C again cuts them off")
        loop.call_later(_DRAIN_SECONDS, task.cancel)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
