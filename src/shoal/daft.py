"""Daft: a model or a program as a function of columns, for `with_column`.

Batches overlap in one window of rows. With `run_dir` what is finished is on disk, and a query run again asks nothing
twice. docs/scale.md says when to choose it.
"""

import asyncio
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from shoal.batch import arrow
from shoal.batch.jobs import Job, JobOptions, job_of
from shoal.batch.streaming import RowStream
from shoal.batch.tables import plain
from shoal.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow
    from daft import Expression, Series

_BATCH_SIZE, _BATCHES = 32, 32
_PROCESS_BATCH_SIZE = 1024


class PlacingOptions(TypedDict, total=False):
    """Where and how the rows run.

    batch_size  rows handed over at once; default 32, with `processes` 1024
    batches     batches under way at once (32), without `processes`
    processes   worker processes, each with an engine of its own. Daft gives each one batch at a time, so there the end
                of a batch is waited for; leave it out where the model is behind a server
    gpus        GPUs each worker takes
    """

    batch_size: int
    batches: int
    processes: int
    gpus: float


class ProgramOptions(JobOptions, PlacingOptions, total=False):
    """What `program` takes: what is asked, and where it runs."""


def program(subject: Any, **options: Unpack[ProgramOptions]) -> "Callable[..., Expression]":
    """A function of columns that gives what a model or a program makes of each row, as a struct.

    `subject` is the spec of a model or a function made with `@program`, as for `shoal.map`. The function takes the
    columns that are read (of the template, or the program's arguments) by name, or in their order:

        ask = shoal.daft.program("local", template="What is {question}?")
        frame.with_column("result", ask(frame["question"]))

    The struct has row_id, output, answer, finish_reason, prompt_tokens, completion_tokens, calls, cached_calls, score
    (with `score=`) and error: null, or type and message. A failure is one row's error. Raises UsageError for what can
    be seen to be wrong before it runs.
    """
    try:
        import daft
        import daft.pickle
        import pyarrow as pa
    except ImportError:
        raise UsageError("shoal.daft needs Daft; pip install 'shoal[daft]'") from None
    placing: Any = {name: value for name, value in options.items() if name in PlacingOptions.__annotations__}
    asked: Any = {name: value for name, value in options.items() if name not in placing}
    processes = placing.get("processes")
    job = job_of("program", subject, asked, daft.pickle.dumps, processes or 1)
    kind = daft.DataType.from_arrow_type(pa.struct(arrow.fields(scored=job.scored)))
    size = placing.get("batch_size", _PROCESS_BATCH_SIZE if processes else _BATCH_SIZE)

    class Rows:
        def __init__(self) -> None:
            self._stream = RowStream(job)

        @daft.method.batch(return_dtype=kind, batch_size=size)
        async def results(self, names: list[str], *columns: "Series") -> "pyarrow.StructArray":
            return await _results(self._stream, names, columns)

        def __del__(self) -> None:
            if (stream := getattr(self, "_stream", None)) is not None:
                stream.close()

    # Without processes Daft runs so many batches at once on its event loop; each process is given one at a time.
    atonce = processes or placing.get("batches", _BATCHES)
    frame = daft.cls(Rows, gpus=placing.get("gpus", 0), use_process=bool(processes), max_concurrency=atonce)
    results = frame().results

    def ask(*columns: "Expression", **named: "Expression") -> "Expression":
        given = _by_name(job, columns, named)
        result: Expression = results(list(given), *given.values())
        return result

    return ask


def _by_name(job: Job, columns: "tuple[Expression, ...]", named: "dict[str, Expression]") -> "dict[str, Expression]":
    """The columns given, each with the name it is read by."""
    order = job.columns or job.needed
    if len(columns) > len(order):
        raise UsageError(f"the program reads {len(order)} columns ({', '.join(order)}); {len(columns)} are given")
    given = dict(zip(order, columns, strict=False)) | named
    for name in job.needed:
        if name not in given:
            raise UsageError(f"column {name!r} is read and not given; {did_you_mean(name, given)}")
    for name in given if job.columns is not None else ():
        if name not in order:
            raise UsageError(f"column {name!r} is given and not read; {did_you_mean(name, order)}")
    return given


async def _results(stream: RowStream, names: list[str], columns: "tuple[Series, ...]") -> "pyarrow.Array":
    import pyarrow as pa

    lists = [[plain(value) for value in column.to_pylist()] for column in columns]
    length = max(map(len, lists))
    lists = [values * length if len(values) == 1 else values for values in lists]  # a constant is given once
    rows = [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]
    records = await asyncio.wrap_future(stream.submit(rows))
    scored = stream.job.scored
    return pa.array([arrow.values(record, scored=scored) for record in records], pa.struct(arrow.fields(scored=scored)))
