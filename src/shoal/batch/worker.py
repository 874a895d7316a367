"""A worker process: one job, rows that come in through a socket, and their records, as each batch is finished.

It ends with its parent: when its socket does.
"""

import contextlib
import os
import pickle
import socket
import threading
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import IO

from shoal.backends.engine_wire import read_frame, write_frame
from shoal.batch.jobs import Job
from shoal.batch.records import Record, encode
from shoal.batch.streaming import RowStream
from shoal.errors import ShoalError, told


def main(descriptor: str) -> None:
    """Run what comes through the socket of that file descriptor: a Job, then (number, rows) as often as it likes.

    What goes back is (number, records as JSON, None or the error that ended the batch). An empty frame asks it to end.
    """
    with (
        socket.socket(fileno=int(descriptor)) as parent,
        parent.makefile("rb") as orders,
        parent.makefile("wb") as replies,
    ):
        if (frame := read_frame(orders)) is not None:
            _serve(pickle.loads(frame), orders, replies)


def _serve(job: Job, orders: IO[bytes], replies: IO[bytes]) -> None:
    at_once = threading.Lock()

    def answer(number: int, records: list[Record], error: BaseException | None) -> None:
        told = [encode(record) for record in records], None if error is None else _sendable(error)
        with at_once, contextlib.suppress(OSError):  # the parent has ended: so does this process
            write_frame(replies, pickle.dumps((number, *told)))

    def finished(number: int, batch: "Future[list[Record]]") -> None:
        with contextlib.suppress(CancelledError):
            error = batch.exception()
            answer(number, [] if error else batch.result(), error)

    failure: Exception | None = None
    stream: RowStream | None = None
    try:
        stream = RowStream(job)
    except Exception as error:  # noqa: BLE001 - whatever keeps a job from running is told to those who wait
        failure = error
    while frame := read_frame(orders):
        number, rows = pickle.loads(frame)
        if stream is None:
            answer(number, [], failure)
        else:
            stream.submit(rows).add_done_callback(partial(finished, number))
    if frame is None:  # the parent has died, and others may have its rows: what is not on disk now never will be
        os._exit(1)
    if stream is not None:
        stream.close()


def _sendable(error: BaseException) -> BaseException:
    """An error, or the like of it where it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever the errors of others do when they are pickled
        return ShoalError(f"{type(error).__name__}: {told(error)}")
    return error
