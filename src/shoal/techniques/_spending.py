"""What the calls of one answer cost together, for techniques that make them in many places."""

from shoal.runtime.model import Model
from shoal.runtime.types import Completion, Request, Usage, total


class Spending:
    """The usage of every call made through the models that `on` gives."""

    def __init__(self) -> None:
        self._usages: list[Usage] = []

    def on(self, model: Model) -> Model:
        """The same model, whose calls are counted here."""

        async def counted(request: Request, /) -> Completion:
            reply = await model(request)
            self._usages.append(reply.usage)
            return reply

        return counted

    @property
    def usage(self) -> Usage:
        return total(self._usages)
