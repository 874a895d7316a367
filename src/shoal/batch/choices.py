"""The records of a prompt batch: one a choice, dicts of builtin values, readable without shoal."""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from shoal.batch.rows import Row
from shoal.runtime.types import Completion, TokenLogprob, Usage
from shoal.traces.data import Failure


class Batch(Struct, frozen=True):
    """What `complete` and `chat` return: `records` in the order asked, and `usage`, the totals of the whole batch.

    Iterates and indexes as its records. `pandas.DataFrame(batch.records)` is a table of them.
    """

    records: list[Row]
    usage: Usage

    @property
    def failed(self) -> list[Row]:
        """The records that hold an error instead of a choice."""
        return [record for record in self.records if record["error"] is not None]

    @property
    def texts(self) -> list[str | None]:
        """The text of each choice; None where there is none."""
        return [record["choice"] and record["choice"]["text"] for record in self.records]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.records)

    def __getitem__(self, index: int) -> Row:
        return self.records[index]


def chosen(prompt: Row, index: int, completion: Completion, endpoint: str) -> Row:
    """The record of one choice. `prompt` holds what is said of its prompt."""
    choice: dict[str, Any] = {
        "text": completion.text,
        "index": index,
        "finish_reason": completion.finish_reason,
        "logprobs": None if completion.logprobs is None else [_logprob(token) for token in completion.logprobs],
    }
    if completion.answer is not None:
        choice["answer"] = completion.answer
    if completion.reasoning is not None:
        choice["reasoning"] = completion.reasoning
    if completion.tool_calls:
        choice["tool_calls"] = [call.value() for call in completion.tool_calls]
    return _record(prompt, choice, completion.id, completion.model, endpoint, completion.usage, None)


def unanswered(prompt: Row, error: BaseException, endpoint: str, usage: Usage) -> Row:
    """The record of a prompt whose draws, or some of them, failed; `usage` is what those cost."""
    failure = Failure.of(error)
    said = {"type": failure.type, "message": failure.message}
    return _record(prompt, None, None, None, endpoint, usage, said)


def _record(
    prompt: Row, choice: Row | None, id_: str | None, model: str | None, endpoint: str, usage: Usage, error: Row | None
) -> Row:
    completion = {"id": id_, "model": model, "endpoint": endpoint, "usage": _usage(usage)}
    return {**prompt, "choice": choice, "completion": completion, "error": error}


def _usage(usage: Usage) -> Row:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "calls": usage.calls,
        "cached_calls": usage.cached_calls,
        "cached_tokens": usage.cached_tokens,
        "estimated": usage.estimated,
    }


def _logprob(token: TokenLogprob) -> Row:
    top = [{"token": text, "logprob": logprob} for text, logprob in token.top]
    return {"token": token.token, "logprob": token.logprob, "top_logprobs": top}
