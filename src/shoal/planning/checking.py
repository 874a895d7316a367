"""Whether techniques can work with the options they were given, found out before anything is asked."""

from collections.abc import Awaitable, Callable

from shoal.errors import ShoalError, UsageError
from shoal.planning.dry_run import DryRun
from shoal.planning.replies import brief
from shoal.runtime.model import Applied, Model


async def refuse_impossible(model: Model, ask: Callable[[], Awaitable[object]]) -> None:
    """UsageError where the model's techniques refuse their options (`n=0`), as they do when `ask` asks stand-ins."""
    if not isinstance(model, Applied):
        return
    try:
        with DryRun(brief, wide=True).on():
            await ask()
    except UsageError as error:
        raise UsageError(f"{model.name}: {error}") from None
    except ShoalError:
        return  # what a stand-in says may be of no use to a technique that the model's own replies serve well
