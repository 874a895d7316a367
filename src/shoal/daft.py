"""Daft: a model or a program as a function of columns, for `with_column`.

Batches overlap in one window of rows. With `run_dir` what is finished is on disk, and a query run again asks nothing
twice. docs/scale.md says when to choose it.
"""

import asyncio
import sys
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from shoal.batch import arrow, shared
from shoal.batch.jobs import Job, JobOptions, job_of
from shoal.batch.streaming import RowStream
from shoal.batch.tables import plain
from shoal.batch.workers import WorkerProcesses
from shoal.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow
    from daft import Expression, Series

_BATCH_SIZE, _BATCHES = 32, 32
_SECONDS_BETWEEN_TASKS = 30.0


class PlacingOptions(TypedDict, total=False):
    """Where and how the rows run.

    batch_size  rows handed over at once (32). A batch comes back whole; one that is not finished holds up no other
    batches     batches under way at once (32): of Daft's own process, or of each of `processes`
    processes   worker processes, on each of Daft's nodes, each with an engine of its own; one that dies is started
                again, with its rows. Leave it out where the model is behind a server
    gpus        GPUs each process takes
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
    processes, gpus = placing.get("processes"), placing.get("gpus", 0)
    job = job_of("program", subject, asked, daft.pickle.dumps, (processes or 1) * _nodes(budgeted="budget" in asked))
    kind = daft.DataType.from_arrow_type(pa.struct(arrow.fields(scored=job.scored)))
    size, batches = placing.get("batch_size", _BATCH_SIZE), placing.get("batches", _BATCHES)
    opening = partial(WorkerProcesses.opened, processes=processes, gpus=gpus) if processes else None

    class Rows:
        def __init__(self) -> None:
            # On Ray, Daft makes one for each partition of a node, at once or one after another; the rows are one job's.
            self._stream = shared.take(job, lambda: RowStream(job, opening))
            seconds = _SECONDS_BETWEEN_TASKS if _on_ray() else 0.0
            weakref.finalize(self, shared.give_back, job, seconds).atexit = False  # when Python ends, all ends

        @daft.method.batch(return_dtype=kind, batch_size=size)
        async def results(self, names: list[str], *columns: "Series") -> "pyarrow.StructArray":
            return await _results(self._stream, names, columns)

    # Processes are our own: Daft's are given one batch at a time, begin anew with each partition on Ray, and take the
    # query with them when they die. In Daft's own process so many batches are handed over at once.
    frame = daft.cls(Rows, gpus=gpus, use_process=False, max_concurrency=batches * (processes or 1))
    results = frame().results

    def ask(*columns: "Expression", **named: "Expression") -> "Expression":
        given = _by_name(job, columns, named)
        result: Expression = results(list(given), *given.values())
        return result

    return ask


def _on_ray() -> bool:
    """Whether this process is one of Ray's, where a job comes in tasks."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _nodes(*, budgeted: bool) -> int:
    """The processes of Daft's own that a query may run in; asked only where a budget is to be shared among them."""
    import daft

    if not budgeted or daft.get_or_infer_runner_type() != "ray":
        return 1
    if not _on_ray():
        raise UsageError(
            "program: budget= is shared among the nodes of Ray's cluster: begin with daft.set_runner_ray()"
        )
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in sys.modules["ray"].nodes())


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
