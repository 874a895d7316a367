"""How likely given replies are: the log-probabilities of their tokens, read off in one pass and never generated.

A constraint would let the engine cut the text its own way, likeliest piece first, and so score another tokenization.
"""

from collections.abc import Callable
from typing import Any

from shoal.backends import engine_config
from shoal.backends.engine_wire import Ask, Done, Output, Refused, Reply
from shoal.errors import BadRequest


class Score:
    """A reply that is being scored, and what has been read of it and its prompt."""

    def __init__(self, ask: Ask, prompt: int, option: list[int], handle: Any) -> None:
        self.ask = ask
        self.prompt = prompt
        self.option = option
        self.handle = handle
        self.logprobs: list[float] = []


class Scorer:
    """Scores in a pipeline of its own, loaded with the first: the engine echoes nothing sound from cached prefixes."""

    def __init__(self, genai: Any, load: Callable[[], Any], pieces: list[bytes]) -> None:
        self._genai = genai
        self._load = load
        self._pieces = pieces
        self._pipeline: Any = None
        self._scores: dict[int, Score] = {}
        self._added = 0
        self._dropped = False

    @property
    def busy(self) -> bool:
        return bool(self._scores or self._dropped)

    def take(self, ask: Ask, prompt: list[int], option: list[int]) -> list[Reply]:
        """Begin to score `option` after `prompt`."""
        (text,) = ask.params.choices
        if b"".join(self._pieces[token] for token in option) != text.encode():
            raise BadRequest(f"the choice {text!r} is not what its tokens spell")
        if not option:
            return [Done(ask.id, len(prompt), [Output("", "stop", 0, [])])]
        if self._pipeline is None:
            self._pipeline = self._load()
        self._added += 1
        config = engine_config.echo(self._genai)
        tensor = engine_config.tensor([*prompt, *option])
        handle = self._pipeline.add_request(self._added, tensor, config)
        self._scores[ask.id] = Score(ask, len(prompt), option, handle)
        return []

    def drop(self, id: int) -> None:
        if (score := self._scores.pop(id, None)) is not None:
            score.handle.cancel()
            self._dropped = True  # a step lets go of what it held

    def step(self) -> list[Reply]:
        if not self.busy:
            return []
        try:
            if self._pipeline.has_non_finished_requests():
                self._pipeline.step()
        except RuntimeError as error:
            failed, self._scores, self._pipeline = list(self._scores), {}, None
            self._dropped = False
            return [Refused(id, "engine", engine_config.first_line(error)) for id in failed]
        self._dropped = False
        running = self._genai.GenerationStatus.RUNNING
        for score in self._scores.values():
            while score.handle.can_read():
                for output in score.handle.read().values():
                    score.logprobs += output.generated_log_probs
        ended = [score for score in self._scores.values() if score.handle.get_status() != running]
        for score in ended:
            del self._scores[score.ask.id]
        return [self._reply(score) for score in ended]

    def _reply(self, score: Score) -> Reply:
        ask, option = score.ask, score.option
        if len(score.logprobs) != score.prompt + len(option):
            return Refused(ask.id, "engine", "the prompt and its choice do not fit the engine's memory")
        kept = option[: ask.params.max_tokens]
        logprobs = score.logprobs[score.prompt :][: len(kept)]
        whole = b"".join(self._pieces[token] for token in kept)
        pieces = [self._pieces[token].decode("utf-8", "replace") for token in kept]
        named = list(zip(pieces, logprobs, strict=True))
        reason = "stop" if len(kept) == len(option) else "length"
        return Done(ask.id, score.prompt, [Output(whole.decode("utf-8", "replace"), reason, len(kept), named)])
