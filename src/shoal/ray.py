"""Ray Data: a model or a program over the rows of a dataset, on actors of a cluster.

Each actor runs rows of many batches in one window. With `run_dir`, what is finished is on disk: a killed actor's rows
are given back as they were, and the same job asks nothing twice. docs/scale.md says when to choose it.
"""

import math
import warnings
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from shoal.batch import arrow
from shoal.batch.jobs import Job, JobOptions, job_of
from shoal.batch.streaming import RowStream
from shoal.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import pyarrow
    from ray.data import Dataset

_BATCH_SIZE, _BATCHES = 32, 32


class ActorOptions(TypedDict, total=False):
    """Where and how the rows of a dataset run.

    concurrency  actors: a number, or the least and the most of a pool that grows with its work; default 1
    num_cpus     cores each actor takes of the cluster. One must be left over, for Ray's own reading of rows: default 1,
                 and less where the actors would leave none
    num_gpus     GPUs each actor takes, for an engine in its process
    batch_size   rows handed over at once (32). A batch comes back whole, so small ones come back early; a batch that is
                 not finished holds up no other
    batches      batches at work at once on each actor (32): with batch_size, the rows an actor holds
    prefix       put before the names of result columns
    ray_options  further options of the actors, as of ray.remote: runtime_env, resources, memory...
    """

    concurrency: int | tuple[int, int]
    num_cpus: float
    num_gpus: float
    batch_size: int
    batches: int
    prefix: str
    ray_options: dict[str, Any]


class MapOptions(JobOptions, ActorOptions, total=False):
    """What `map_program` takes: what is asked, and where it runs."""


def map_program(dataset: "Dataset", subject: Any, **options: Unpack[MapOptions]) -> "Dataset":
    """The dataset with what a model or a program made of each row: a row for a row, a failure as its `error`.

    `subject` is the spec of a model or a function made with `@program`, as for `shoal.map`; for the spec, `template`
    names the columns it reads, for the program they are its arguments. Adds the columns row_id, output, answer,
    finish_reason, prompt_tokens, completion_tokens, calls, cached_calls, score (with `score=`) and error. Lazy, as all
    of Ray Data is; the order of rows is not promised.

    Programs and score functions travel pickled; models are opened by the workers, with their own configuration and
    keys. Raises UsageError for what can be seen to be wrong before it runs.
    """
    try:
        import ray.cloudpickle as cloudpickle
        from ray.data import ActorPoolStrategy
    except ImportError:
        raise UsageError("shoal.ray needs Ray Data; pip install 'shoal[ray]'") from None
    placing: Any = {name: value for name, value in options.items() if name in ActorOptions.__annotations__}
    asked: Any = {name: value for name, value in options.items() if name not in placing}
    least, most = _pool(placing.get("concurrency", 1))
    job = job_of("map_program", subject, asked, cloudpickle.dumps, most)
    prefix = placing.get("prefix", "")
    schema = dataset.schema(fetch_if_missing=False)
    if schema is not None:
        _check_columns(schema.names, job, prefix)
    batches, num_cpus = placing.get("batches", _BATCHES), _cpus_each(least, placing.get("num_cpus"))
    rows = dataset.repartition(target_num_rows_per_block=placing.get("batch_size", _BATCH_SIZE))
    # Ray's own defaults hold for a killed actor: it comes again, and its batches with it, as often as it takes.
    return rows.map_batches(
        _Rows,
        fn_constructor_kwargs={"job": job, "prefix": prefix},
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(
            min_size=least,
            max_size=most,
            # A thread waits for each batch; the rows are under way in one window.
            max_concurrent_calls_per_actor=batches,
            max_tasks_in_flight_per_actor=batches + 2,
            enable_true_multi_threading=True,
        ),
        num_cpus=num_cpus,
        num_gpus=placing.get("num_gpus"),
        **placing.get("ray_options", {}),
    )


class _Rows:
    """What an actor holds: one job under way, whatever batches come."""

    def __init__(self, job: Job, prefix: str) -> None:
        self.job = job
        self.prefix = prefix
        self._stream = RowStream(job)

    def __call__(self, batch: "pyarrow.Table") -> "pyarrow.Table":
        # One table for a batch, in its order: when Ray runs a batch again, it takes the same rows to be in the same
        # places of what comes.
        _check_columns(batch.column_names, self.job, self.prefix, missing=False)
        records = self._stream.submit(arrow.rows(batch, self.job.columns)).result()
        for field, column in arrow.columns(records, scored=self.job.scored):
            batch = batch.append_column(field.with_name(self.prefix + field.name), column)
        return batch

    def __del__(self) -> None:
        if (stream := getattr(self, "_stream", None)) is not None:
            stream.close()


def _pool(concurrency: int | tuple[int, int]) -> tuple[int, int]:
    least, most = (concurrency, concurrency) if isinstance(concurrency, int) else concurrency
    if not 1 <= least <= most:
        raise UsageError(f"map_program: concurrency={concurrency!r}; expected a number of actors, or (least, most)")
    return least, most


def _cpus_each(actors: int, num_cpus: float | None) -> float:
    """The CPUs each actor takes. All of them leave none to the tasks that read rows: then all would wait for ever."""
    import ray

    cluster: Any = ray  # what is asked here has no types
    there = cluster.cluster_resources().get("CPU", 0) if cluster.is_initialized() else math.inf
    if num_cpus is None:
        num_cpus = math.floor((there - 1) / actors * 1000) / 1000 if 1 < there < actors + 1 else 1.0
    if actors * num_cpus > there - 1:
        warnings.warn(
            f"map_program: {actors} actors with num_cpus={num_cpus:g} each leave less than one of the cluster's "
            f"{there:g} CPUs to read rows; unless it grows, nothing will run: lower concurrency= or num_cpus=",
            stacklevel=3,
        )
    return num_cpus


def _check_columns(names: list[str], job: Job, prefix: str, *, missing: bool = True) -> None:
    """UsageError where a column is missing that is read, or there already that is to be added."""
    for name in job.needed if missing else ():
        if name not in names:
            raise UsageError(f"map_program: column {name!r} is read; the dataset has none: {did_you_mean(name, names)}")
    for field in arrow.fields(scored=job.scored):
        if prefix + field.name in names:
            raise UsageError(
                f"map_program: the dataset has a column {prefix + field.name!r} already; give another prefix=, such as "
                f"'{prefix}shoal_'"
            )
