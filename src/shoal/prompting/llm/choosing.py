"""Built-ins that choose among given texts."""

import math
from collections.abc import Sequence
from typing import Literal, Unpack

from msgspec import Struct

from shoal.errors import InvalidOutput, Unsupported, UsageError, did_you_mean
from shoal.prompting.llm.asking import Prompt, Sampling, capabilities, request_for
from shoal.prompting.llm.text import chat, completion
from shoal.prompting.template import prompt as library
from shoal.runtime import registry
from shoal.runtime.builtin import builtin
from shoal.runtime.program import parallel
from shoal.runtime.types import Completion

Method = Literal["auto", "logprobs", "constrained", "asked"]
_METHODS = ("auto", "logprobs", "constrained", "asked")
_ATTEMPTS = 3


class Scored(Struct, frozen=True):
    """An option, its place among those given, and its score: a natural-log probability."""

    option: str
    index: int
    score: float


class Selection(Struct, frozen=True):
    """The option that scored highest, and the scores of all in the order given."""

    option: str
    index: int
    scores: list[float]


@builtin
async def score_text(prompt: Prompt, targets: Sequence[str], *, normalise: bool = False) -> list[float]:
    """The natural-log probability of each target as the continuation of the prompt: the sum over its tokens.

    With `normalise` the mean over its tokens, so that long targets are not at a disadvantage. Unsupported where the
    backend gives no log-probabilities for a text that is given.
    """
    _checked(targets)
    model = registry.current().model
    if not capabilities(model).forced_logprobs:
        raise Unsupported(f"{model!r} cannot score a text that is given")
    forced = (
        completion(prompt, choices=[target], temperature=0.0, logprobs=True, max_tokens=_room(target))
        for target in targets
    )
    drawn = await parallel(*forced)
    return [_logprob(done, target, normalise) for done, target in zip(drawn, targets, strict=True)]


def _room(target: str) -> int:
    return len(target.encode()) + 8  # no token is shorter than a byte


def _logprob(done: Completion, target: str, normalise: bool) -> float:
    tokens = [token.logprob for token in done.logprobs or ()]
    if done.text != target or not tokens:
        raise InvalidOutput(f"asked to score {target!r}, the backend wrote {done.text[:100]!r}")
    return math.fsum(tokens) / (len(tokens) if normalise else 1)


@builtin
async def select_scored(prompt: Prompt, options: Sequence[str], *, normalise: bool = False) -> Selection:
    """The likeliest option as the continuation of the prompt, and the scores of all; ties go to the first."""
    scores = await score_text(prompt, options, normalise=normalise)
    best = max(range(len(options)), key=lambda i: (scores[i], -i))
    return Selection(options[best], best, scores)


@builtin
async def rank(
    prompt: Prompt, options: Sequence[str], *, top_k: int | None = None, normalise: bool = False
) -> list[Scored]:
    """The options by their log-probability, likeliest first; the first `top_k` of them."""
    scores = await score_text(prompt, options, normalise=normalise)
    ranked = [Scored(option, i, scores[i]) for i, option in enumerate(options)]
    return sorted(ranked, key=lambda scored: -scored.score)[:top_k]


@builtin
async def select(
    prompt: Prompt,
    options: Sequence[str],
    *,
    method: Method = "auto",
    normalise: bool = False,
    **params: Unpack[Sampling],
) -> str:
    """One of the options.

    `method` "logprobs" takes the likeliest, "constrained" lets the model write under the constraint that it writes one
    of them, "asked" asks for one in words and checks. "auto" is the first of these that the backend can do.
    """
    _checked(options)
    if method not in _METHODS:
        raise UsageError(f"select: method {method!r}; {did_you_mean(method, _METHODS)}")
    can = capabilities(registry.current().model)
    if method == "logprobs" or (method == "auto" and can.forced_logprobs and not params):
        return (await select_scored(prompt, options, normalise=normalise)).option
    if method == "constrained" or (method == "auto" and can.choices):
        params["choices"] = options
        said = (await completion(prompt, **params)).text
        if said not in options:
            raise InvalidOutput(f"held to {len(options)} options, the backend wrote {said[:100]!r}")
        return said
    return await _asked(prompt, options, params)


async def _asked(prompt: Prompt, options: Sequence[str], params: Sampling) -> str:
    text = prompt if isinstance(prompt, str) else request_for(prompt, registry.current().model, {}).text
    listed = "\n".join(f"- {option}" for option in options)
    question = library("one_of").fill({"instruction": text, "options": listed})
    before = [] if isinstance(prompt, str) else list(prompt[:-1])
    forms: dict[str, set[str]] = {}
    for option in options:
        forms.setdefault(_form(option), set()).add(option)
    said = ""
    for _ in range(_ATTEMPTS):
        said = await chat([*before, {"role": "user", "content": question}], **params)
        if said.strip() in options:
            return said.strip()
        if len(meant := forms.get(_form(said), set())) == 1:
            return meant.pop()
    raise InvalidOutput(f"the answer is none of the {len(options)} options: {said[:100]!r}")


def _form(text: str) -> str:
    """A text without case and the signs a model puts around an answer."""
    return text.strip().strip("-*\"'. ").casefold()


def _checked(options: Sequence[str]) -> None:
    listed = isinstance(options, Sequence) and not isinstance(options, str) and bool(options)
    if not listed or not all(isinstance(option, str) and option for option in options):
        raise UsageError("the options must be a list of texts, none of them empty")
    if len(set(options)) < len(options):
        raise UsageError("two of the options are the same")
