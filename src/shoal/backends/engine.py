"""One thread that steps a continuous-batching engine while there is work, and sleeps while there is none."""

import asyncio
import contextlib
import re
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from shoal.errors import EngineError


class Job:
    """One prompt under way: its tokens, how to sample, and who waits for it."""

    __slots__ = ("cancelled", "config", "future", "handle", "loop", "on_tokens", "seen", "tokens")

    def __init__(self, tokens: Any, config: Any, on_tokens: Callable[[list[int]], None] | None = None) -> None:
        self.tokens = tokens
        self.config = config
        self.on_tokens = on_tokens
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[list[Any]] = self.loop.create_future()
        self.handle: Any = None
        self.cancelled = False
        self.seen: list[int] = []


class Engine:
    """Adds prompts between steps, hands results to the event loop that asked, and drops what is cancelled in a step.

    `load` makes the pipeline; it is called in the engine's own thread when the first prompt comes.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._wake = threading.Condition()
        self._new: deque[Job] = deque()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._added = 0

    async def run(self, job: Job) -> list[Any]:
        """The engine's outputs for a job; cancelling it takes the prompt out of the batch."""
        with self._wake:
            self._new.append(job)
            if self._thread is None:
                self._closing = False
                self._thread = threading.Thread(target=self._work, name="shoal-engine", daemon=True)
                self._thread.start()
            self._wake.notify()
        try:
            return await job.future
        except asyncio.CancelledError:
            job.cancelled = True
            raise

    def close(self) -> None:
        """Let the model go; the next prompt loads it again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            with self._wake:
                self._closing = True
                self._wake.notify()
            thread.join()

    def _work(self) -> None:
        running: list[Job] = []
        try:
            pipeline = self._load()
        except Exception as error:  # noqa: BLE001 - whatever keeps a model from loading is told to those who wait
            self._refuse(error)
            return
        while True:
            with self._wake:
                while not (self._new or running or self._closing):
                    self._wake.wait()
                if self._closing:
                    break
                jobs = list(self._new)
                self._new.clear()
            running += [job for job in jobs if self._add(pipeline, job)]
            try:
                running = self._step(pipeline, running)
            except Exception as error:  # noqa: BLE001 - the engine names no culprit: all that were in the step are told
                for job in running:
                    _tell(job, EngineError(_first_line(error)))
                running = []
                pipeline = self._load()  # what failed once stays in the old one and fails every step

    def _refuse(self, error: Exception) -> None:
        with self._wake:
            jobs = list(self._new)
            self._new.clear()
            self._thread = None
        for job in jobs:
            _tell(job, EngineError(f"the model does not load: {error}"))

    def _add(self, pipeline: Any, job: Job) -> bool:
        self._added += 1
        try:
            job.handle = pipeline.add_request(self._added, job.tokens, job.config)
        except Exception as error:  # noqa: BLE001 - what the engine does not take is this caller's error alone
            _tell(job, EngineError(_first_line(error)))
            return False
        return True

    def _step(self, pipeline: Any, running: list[Job]) -> list[Job]:
        from openvino_genai import GenerationStatus

        for job in running:
            if job.cancelled:
                job.handle.cancel()
        running = [job for job in running if not job.cancelled]
        if pipeline.has_non_finished_requests():
            pipeline.step()
        left = []
        for job in running:
            if job.handle.get_status() == GenerationStatus.RUNNING:
                if job.on_tokens is not None:
                    self._stream(job, job.on_tokens)
                left.append(job)
            else:
                _tell(job, job.handle.read_all())
        return left

    @staticmethod
    def _stream(job: Job, on_tokens: Callable[[list[int]], None]) -> None:
        if job.handle.can_read():
            for output in job.handle.read().values():
                job.seen += output.generated_ids
            with contextlib.suppress(RuntimeError):
                job.loop.call_soon_threadsafe(on_tokens, list(job.seen))


def _first_line(error: Exception) -> str:
    """What an engine said, without the places in its source that it says first."""
    text = str(error).strip().splitlines()
    return re.sub(r"^.*\.(?:cc|cpp):\d+: ", "", text[-1])[:300] if text else type(error).__name__


def _tell(job: Job, outcome: "list[Any] | EngineError") -> None:
    def settle() -> None:
        if job.future.done():
            return
        if isinstance(outcome, EngineError):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)

    with contextlib.suppress(RuntimeError):  # the loop may be gone: then nobody waits
        job.loop.call_soon_threadsafe(settle)
