"""What draws would have cost by themselves, whoever paid for them here and in whichever company they travelled."""

from collections.abc import Hashable, Mapping

from msgspec import Struct

from shoal.backends import BaseModel
from shoal.backends.router import Router
from shoal.runtime.types import Request, Usage


class Question(Struct, frozen=True):
    """A question to a model (its identity): its prompt's tokens, and how many draws of it one request can carry."""

    identity: str
    prompt_tokens: int
    together: int


class Tally(Struct):
    """The draws of one question: how many, their completions' tokens, the most that one was charged for the prompt, and
    how many were charged for it in a request made for whoever asks."""

    draws: int = 0
    completion_tokens: int = 0
    prompt_tokens: int = 0
    requests: int = 0
    estimated: bool = False

    def add(self, usage: Usage) -> None:
        self.draws += usage.calls + usage.cached_calls
        self.completion_tokens += usage.completion_tokens + usage.cached_tokens - usage.cached_prompt_tokens
        self.prompt_tokens = max(self.prompt_tokens, usage.prompt_tokens + usage.cached_prompt_tokens)
        self.requests += usage.prompt_tokens > 0
        self.estimated = self.estimated or usage.estimated

    def usage(self, question: Question) -> Usage:
        """Alone: draws asked together share a request, and each request pays for the prompt."""
        requests = max(-(-self.draws // question.together), self.requests)
        prompt = max(self.prompt_tokens, question.prompt_tokens)
        return Usage(prompt * requests, self.completion_tokens, self.draws, estimated=self.estimated)


def tallied(tallies: Mapping[Hashable, Tally], questions: Mapping[Hashable, Question]) -> dict[str, Usage]:
    """The usage of all questions, by the identity of the model asked."""
    found: dict[str, Usage] = {}
    for key, tally in tallies.items():
        question = questions[key]
        found[question.identity] = found.get(question.identity, Usage()) + tally.usage(question)
    return found


class Widths:
    """How many draws of a question one request to a model carries. A seed names one draw, which then travels alone."""

    def __init__(self, bases: Mapping[str, BaseModel]) -> None:
        self._bases = bases

    def together(self, identity: str, request: Request) -> int:
        base = self._bases.get(identity)
        if base is None or request.params.seed is not None:
            return 1
        scheduler = base.scheduler
        return scheduler.capabilities.max_n if isinstance(scheduler, Router) else scheduler.max_n
