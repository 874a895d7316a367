"""One draw under way in the transformers engine, and the call that it belongs to."""

import asyncio
import contextlib
from collections.abc import Iterable
from collections.abc import Sequence as Tokens
from random import Random
from typing import Annotated, Any

from msgspec import Meta, Struct

from shoal.backends.engine_draft import Draft
from shoal.backends.hf.replies import Reader
from shoal.errors import EngineError, ModelError
from shoal.runtime.types import Completion, Delta, Request, SamplingParams, TokenLogprob, Usage


class Vocabulary:
    """The bytes of every token, and the tokens that end a turn, which have none."""

    def __init__(self, pieces: list[bytes], ends: frozenset[int]) -> None:
        self.pieces = pieces
        self.ends = ends

    def text(self, token: int) -> str:
        return self.pieces[token].decode("utf-8", "replace")


class Extras(Struct, frozen=True):
    """What a request's `extra` may say to the engine."""

    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None
    min_tokens: Annotated[int, Meta(ge=0)] = 0
    ignore_eos: bool = False


_NO_EXTRAS = Extras()


class Sequence:
    """A draw: its tokens so far, its random numbers and what may end it. Touched by one thread at a time.

    `limit` is the most tokens it may have. A seed fixes the random numbers, one a token.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        params: SamplingParams,
        prompt: list[int],
        seed: int,
        extras: Extras = _NO_EXTRAS,
    ) -> None:
        self.name = ""  # what the batch calls it
        self.call: Call | None = None
        self.params = params
        self.prompt = prompt
        self.draft = Draft(vocabulary.pieces, params.stop)
        self.limit = params.max_tokens or 1
        self.min_tokens = extras.min_tokens
        self.ignore_end = extras.ignore_eos
        self.repetition_penalty = extras.repetition_penalty
        self.matcher: Any = None  # follows a constraint
        self.done = False
        self.error: ModelError | None = None
        self._vocabulary = vocabulary
        self._random = Random(seed)
        self._top: list[tuple[tuple[str, float], ...]] = []

    def uniform(self) -> float:
        """The next random number in [0, 1)."""
        return self._random.random()

    @property
    def may_end(self) -> bool:
        """Whether the token that ends a turn may come now."""
        return len(self.draft.ids) >= self.min_tokens

    def take(self, token: int, logprob: float = 0.0, top: Tokens[tuple[int, float]] = ()) -> None:
        """One token more; `top` are the likeliest with their log-probabilities."""
        self.read(token, logprob, top)
        ended = token in self._vocabulary.ends and not (self.ignore_end and self.matcher is None)
        if self.matcher is not None and not self.matcher.accept_token(token):
            raise ValueError(f"the constraint does not take token {token}")
        if ended or self.draft.stopped:
            self.finish("stop")
        elif len(self.draft.ids) >= self.limit:
            self.finish("length")

    def read(self, token: int, logprob: float, top: Tokens[tuple[int, float]]) -> None:
        """One token more, whatever it is."""
        self.draft.extend([token], [logprob])
        self._top.append(tuple((self._vocabulary.text(one), value) for one, value in top))

    def finish(self, reason: str) -> None:
        self.draft.finish_reason = reason
        self.done = True

    def fail(self, error: ModelError) -> None:
        self.error = error
        self.done = True

    def completion(self, name: str, *, prompt_tokens: int) -> Completion:
        """The finished draw; its prompt is counted as `prompt_tokens`."""
        output = self.draft.output(logprobs=False)
        logprobs = None
        if self.params.logprobs:
            named = ((self.draft.ids[i], self.draft.logprobs[i], self._top[i]) for i in self.draft.shown())
            logprobs = tuple(TokenLogprob(self._vocabulary.text(token), value, top) for token, value, top in named)
        usage = Usage(prompt_tokens, output.tokens, calls=1)
        return Completion(output.text, output.finish_reason, usage, name, logprobs=logprobs)


class Call:
    """What one caller waits for: `n` draws of one request, a count of tokens, or nothing any more (`dropped`).

    Pieces, then all its completions at once, or an int, or an error, come to the event loop that asked.
    """

    def __init__(self, request: Request, seeds: Tokens[int], *, stream: bool = False, count: bool = False) -> None:
        self.request = request
        self.seeds = seeds
        self.stream = stream
        self.count = count
        self.dropped = False
        self.sequences: list[Sequence] = []
        self.reader: Reader | None = None  # of calls of tools
        self._shown = 0
        self.loop = asyncio.get_running_loop()
        self.replies: asyncio.Queue[list[Delta | Completion | int | ModelError]] = asyncio.Queue()

    def post(self, *replies: Delta | Completion | int | ModelError) -> None:
        """From any thread."""
        if not self.dropped:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self.loop.call_soon_threadsafe(self.replies.put_nowait, list(replies))

    @property
    def failed(self) -> ModelError | None:
        return next((sequence.error for sequence in self.sequences if sequence.error), None)

    def advanced(self, name: str) -> None:
        """Tell what a step has brought."""
        if self.failed is not None:
            self.post(self.failed)
        elif all(sequence.done for sequence in self.sequences):
            first, *others = self.sequences
            drawn = [self._read(first, name, len(first.prompt)), *(self._read(other, name, 0) for other in others)]
            rest = drawn[0].text[self._shown :] if self.stream else ""
            self.post(*([Delta(rest)] if rest else []), *drawn)
        elif self.stream and (text := self.sequences[0].draft.new_text()):
            if self.reader is not None:
                text = self.reader.sure(text)[self._shown :]
            self._shown += len(text)
            if text:
                self.post(Delta(text))

    def _read(self, sequence: Sequence, name: str, prompt_tokens: int) -> Completion:
        completion = sequence.completion(name, prompt_tokens=prompt_tokens)
        return completion if self.reader is None else self.reader.whole(completion, sequence.draft.ids)

    def drop(self) -> None:
        """Nobody waits any more: its sequences are over."""
        self.dropped = True
        for sequence in self.sequences:
            sequence.done = True


def advance(sequences: Iterable[Sequence], name: str) -> None:
    """Tell the callers of these sequences what a step has brought: to streams at once, to others when all is there."""
    calls = {id(sequence.call): sequence.call for sequence in sequences if sequence.call is not None}
    for call in calls.values():
        if call.stream or all(sequence.done for sequence in call.sequences) or call.failed:
            call.advanced(name)


def engine_error(message: str, name: str) -> EngineError:
    """What PyTorch said, in one line, with what to do where memory has run out."""
    lines = [line for line in message.strip().splitlines() if line.strip()]
    first = lines[0].strip()[:300] if lines else "the engine failed"
    if first.endswith(":"):  # a list follows
        first = " ".join(message.split())[:300]
    short = ("out of memory", "not enough memory", "can't allocate memory", "no requests can be scheduled")
    if any(words in message.lower() for words in short):
        first = f"out of memory: lower max_sequences, context or cache_gb in the model's options ({first})"
    return EngineError(first, endpoint=name)
