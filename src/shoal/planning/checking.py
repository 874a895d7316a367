"""Whether techniques can work with the options they were given, found out before anything is asked."""

from shoal.errors import ShoalError, UsageError
from shoal.planning.dry_run import DryRun
from shoal.planning.replies import brief
from shoal.runtime.model import Applied, Model
from shoal.runtime.types import Request


async def refuse_impossible(model: Model) -> None:
    """UsageError where the model's techniques refuse their options (`n=0`), as they do when they ask stand-ins.

    The question is one of ours: a row of the user's that cannot be asked is that row's failure, and no other's.
    """
    if not isinstance(model, Applied):
        return
    try:
        with DryRun(brief, wide=True).on():
            await model(Request.of("What is 6 x 7?"))
    except UsageError as error:
        raise UsageError(f"{model.name}: {error}") from None
    except ShoalError:
        return  # what a stand-in says may be of no use to a technique that the model's own replies serve well
