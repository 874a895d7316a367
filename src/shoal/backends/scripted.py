"""A model whose answers a function gives: for tests, documentation, planning and dry runs."""

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from msgspec import structs

from shoal.errors import ModelError
from shoal.runtime.backend import Capabilities, Draws, Outcome
from shoal.runtime.loading import fingerprint, load
from shoal.runtime.types import Completion, Delta, Request, Usage

Script = Callable[[Request], "str | Completion | Awaitable[str | Completion]"]


class ScriptedBackend:
    """Answers from `script`, a function (async or not) from a Request to text or a Completion.

    A ModelError it raises befalls that draw. `version` tells two scripts of one name apart in caches. Tokens are
    counted as words. `requests` lists every draw asked, in order,
    and `batches` the number of draws of each wire request. With `waves=True` everything that is ready is answered
    together, so that `len(batches)` is the program's critical path in calls.
    """

    def __init__(
        self, script: Script, *, name: str = "scripted", version: str = "", waves: bool = False, max_n: int = 1
    ) -> None:
        self.script = script
        self.name = name
        self.identity = f"scripted|{name}|{version}"
        self.capabilities = Capabilities(
            max_n=1 << 30 if waves else max_n,
            max_batch=1 << 30 if waves else 1,
            max_in_flight=1 if waves else 1 << 30,
            batch_chat=True,
            text=True,
            stream=True,
            logprobs=True,
            top_logprobs=20,
            json_schema=True,
            regex=True,
            choices=True,
            grammar=True,
            tools=True,
            images=True,
            prefill=True,
            forced_logprobs=True,
            count_tokens=True,
        )
        self.requests: list[Request] = []
        self.batches: list[int] = []

    async def generate(self, batch: Sequence[Draws]) -> list[Outcome]:
        self.batches.append(sum(draws.n for draws in batch))
        return [await self._outcome(draws) for draws in batch]

    async def _outcome(self, draws: Draws) -> Outcome:
        try:
            return [await self._answer(request) for request in _each(draws)]
        except ModelError as error:
            return error

    async def _answer(self, request: Request) -> Completion:
        self.requests.append(request)
        said = self.script(request)
        if inspect.isawaitable(said):
            said = await said
        completion = Completion(said) if isinstance(said, str) else said
        if completion.usage == Usage():
            usage = Usage(prompt_tokens=_words(request), completion_tokens=len(completion.text.split()), calls=1)
            completion = structs.replace(completion, usage=usage, model=completion.model or self.name)
        return completion

    async def stream(self, request: Request) -> AsyncIterator[Delta | Completion]:
        self.batches.append(1)
        completion = await self._answer(request)
        for piece in re.findall(r"\S+\s*|\s+", completion.text):
            yield Delta(piece)
        yield completion

    async def count_tokens(self, request: Request) -> int:
        return _words(request)

    async def aclose(self) -> None:
        pass


def _each(draws: Draws) -> list[Request]:
    if draws.n == 1:
        return [draws.request]
    return [structs.replace(draws.request, sample=path) for path in draws.samples]


def _words(request: Request) -> int:
    return len((request.prompt or "").split()) + sum(len(message.text.split()) for message in request.messages)


def open_scripted(spec: str) -> ScriptedBackend:
    """The backend of `scripted/FILE.py:function`. The file is the user's own program and is run.

    Its content is part of the model's identity: a changed script gets no draws of the old one.
    """
    function: Script = load(spec, f"scripted/{spec}")
    return ScriptedBackend(function, name=f"scripted/{spec}", version=fingerprint(spec))
