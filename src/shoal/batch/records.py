"""What is kept of a row: one record, the same for a row that failed."""

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from shoal.batch.rows import Row
from shoal.runtime.types import Completion, Usage
from shoal.traces.data import Failure

encode = msgspec.json.Encoder(enc_hook=str).encode  # dates and the like, from Parquet, as text


NOTHING = Usage()


class RowUsage(Struct, frozen=True):
    """What a row cost; as in `Usage`. Tokens by a batch API are said only where there were such, and in no output."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_calls: int = 0
    calls: int = 0
    batch_prompt_tokens: int | UnsetType = UNSET
    batch_completion_tokens: int | UnsetType = UNSET

    @classmethod
    def of(cls, usage: Usage) -> "RowUsage":
        by_batch = usage.batch_prompt_tokens, usage.batch_completion_tokens
        said = by_batch if any(by_batch) else ()
        return cls(usage.prompt_tokens, usage.completion_tokens, usage.cached_calls, usage.calls, *said)


class Record(Struct, frozen=True):
    """One row's result, as it stands in the output.

    `id` is the row's own `id` where it has one, else its number from 0. `output` is the text, or what a program
    returned as JSON. `answer` is the short answer, `score` what the scorer gave, `error` None or why there is no
    output. `alternatives`, the texts of further whole answers, are there where a technique gives several.
    """

    id: Any
    input: Row
    output: Any
    answer: str | None
    model: str
    technique: str | None
    finish_reason: str | None
    usage: RowUsage
    score: float | UnsetType = UNSET
    error: Failure | None = None
    alternatives: list[str] | UnsetType = UNSET


decode = msgspec.json.Decoder(Record).decode


def succeeded(
    number: int, row: Row, completion: Completion, *, model: str, technique: str | None, answer: str | None, score: Any
) -> Record:
    return Record(
        row.get("id", number),
        row,
        getattr(completion, "output", completion.text),
        answer,
        model,
        technique,
        completion.finish_reason or None,
        RowUsage.of(completion.usage),
        score,
        alternatives=[other.text for other in completion.alternatives] or UNSET,
    )


def failed(
    number: int, row: Row, error: BaseException, *, model: str, technique: str | None, usage: Usage = NOTHING
) -> Record:
    spent, failure = RowUsage.of(usage), Failure.of(error)
    return Record(row.get("id", number), row, None, None, model, technique, None, spent, error=failure)


def as_output(kept: bytes) -> bytes:
    """A record as the output has it: the same however its calls travelled."""
    if b'"batch_prompt_tokens":' not in kept:
        return kept
    record = decode(kept)
    usage = structs.replace(record.usage, batch_prompt_tokens=UNSET, batch_completion_tokens=UNSET)
    return encode(structs.replace(record, usage=usage))
