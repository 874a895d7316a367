"""The embedded engine's process: adds prompts to the batch between steps and answers after each.

The engine holds Python's global lock while it steps, so that in the caller's process nothing else would run. Here
nothing else needs to. The process ends with its parent: when its input does.
"""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO

from shoal.backends import engine_config
from shoal.backends.engine_draft import Draft
from shoal.backends.engine_score import Scorer
from shoal.backends.engine_wire import (
    Ask,
    Count,
    Counted,
    Done,
    Drop,
    Fatal,
    Order,
    Piece,
    Refused,
    Reply,
    decode_orders,
    encode,
    read_frame,
    write_frame,
)
from shoal.backends.gguf import exact_weights, read_header
from shoal.errors import BadRequest, ContextLengthExceeded


class Job:
    """A call under way. Each handle stands for one sequence, or for several that share their prompt."""

    def __init__(self, ask: Ask, tokens: list[int], drafts: list[Draft]) -> None:
        self.ask = ask
        self.tokens = tokens
        self.drafts = drafts
        self.handles: list[tuple[Any, list[int]]] = []
        self.waiting: list[int] = []  # draws that come in when the first has put the prompt in the prefix cache
        self.constraint = engine_config.constraint_key(ask.params)


class Worker:
    """The pipeline and the jobs in it."""

    def __init__(self, weights: Path, name: str) -> None:
        genai = engine_config.import_genai()
        self._context = read_header(weights).context or engine_config.CONTEXT
        self._weights = exact_weights(weights, name)
        self._pipeline = engine_config.load(genai, self._weights)
        self._genai = genai
        self._tokenizer = self._pipeline.get_tokenizer()
        self._end_token = self._tokenizer.get_eos_token_id()
        self._pieces = engine_config.pieces(self._tokenizer)
        self._scorer = Scorer(
            genai, lambda: engine_config.load(genai, self._weights, prefix_caching=False), self._pieces
        )
        self._jobs: dict[int, Job] = {}
        self._unproven: deque[Job] = deque()
        self._proving: Job | None = None
        self._proven: set[str] = set()
        self._unreadable: dict[str, str] = {}
        self._added = 0
        self._dropped = False

    @property
    def busy(self) -> bool:
        return bool(self._jobs or self._unproven or self._dropped or self._scorer.busy)

    def take(self, order: Order) -> list[Reply]:
        """Put a prompt in the batch or take one out; the reply is a refusal, or what is known at once."""
        if isinstance(order, Drop):
            self._drop(order.id)
            return []
        assert isinstance(order, Ask | Count)
        try:
            if isinstance(order, Count):
                return [Counted(order.id, len(engine_config.tokens(self._tokenizer, order.prompt)))]
            if order.score:
                return self._score(order)
            self._admit(self._job(order))
        except ContextLengthExceeded as error:
            return [Refused(order.id, "context", str(error))]
        except BadRequest as error:
            return [Refused(order.id, "request", str(error))]
        return []

    def step(self) -> list[Reply]:
        """One token more for every sequence."""
        return self._scorer.step() + self._step()

    def _step(self) -> list[Reply]:
        try:
            if self._pipeline.has_non_finished_requests():
                self._pipeline.step()
        except RuntimeError as error:
            return self._recover(engine_config.first_line(error))
        self._dropped = False
        replies = [reply for job in list(self._jobs.values()) for reply in self._advance(job)]
        self._prove_next(replies)
        return replies

    def _score(self, ask: Ask) -> list[Reply]:
        prompt = engine_config.tokens(self._tokenizer, ask.prompt)
        option = engine_config.tokens(self._tokenizer, ask.params.choices[0])
        engine_config.check(ask, len(prompt), self._context - len(option))
        return self._scorer.take(ask, prompt, option)

    def _job(self, ask: Ask) -> Job:
        tokens = engine_config.tokens(self._tokenizer, ask.prompt)
        engine_config.check(ask, len(tokens), self._context)
        if ask.params.max_tokens is None:
            room = self._context - len(tokens)
            ask.params = engine_config.with_max_tokens(ask.params, min(engine_config.DEFAULT_MAX_TOKENS, room))
        return Job(ask, tokens, [Draft(self._pieces, ask.params.stop) for _ in range(ask.n)])

    def _admit(self, job: Job) -> None:
        # The engine fails as a whole over a constraint that it cannot read: new ones come in one at a time, so that
        # a failure is known to be theirs.
        if job.constraint in self._unreadable:
            raise BadRequest(self._unreadable[job.constraint])
        if job.constraint and job.constraint not in self._proven:
            if self._proving is not None:
                self._unproven.append(job)
                return
            self._proving = job
        try:
            self._start(job)
        except BadRequest:
            self._end(job)
            raise

    def _start(self, job: Job) -> None:
        draws = list(range(job.ask.n))
        if job.ask.n > 1 and not engine_config.can_fork(job.ask):
            draws, job.waiting = draws[:1], draws[1:]
        self._add(job, draws)
        self._jobs[job.ask.id] = job

    def _add(self, job: Job, draws: list[int]) -> None:
        self._added += 1
        before = job.drafts[draws[0]].ids
        try:
            config = engine_config.config(self._genai, job.ask, draws, len(before), self._end_token)
            tensor = engine_config.tensor([*job.tokens, *before])
            handle = self._pipeline.add_request(self._added, tensor, config)
        except RuntimeError as error:
            raise BadRequest(engine_config.first_line(error)) from None
        job.handles.append((handle, draws))

    def _advance(self, job: Job) -> Iterator[Reply]:
        running = []
        for handle, draws in job.handles:
            self._read(job, handle, draws)
            status = handle.get_status()
            if status == self._genai.GenerationStatus.RUNNING:
                running.append((handle, draws))
            elif status != self._genai.GenerationStatus.FINISHED:
                self._drop(job.ask.id)
                yield Refused(job.ask.id, "engine", "the draws do not fit the engine's memory")
                return
        job.handles = running
        if job.waiting and job.drafts[0].ids:
            waiting, job.waiting = job.waiting, []
            for draw in waiting:
                self._add(job, [draw])
        if job is self._proving and job.drafts[0].ids:
            self._proven.add(job.constraint)
            self._proving = None
        if job.ask.stream and (text := job.drafts[0].new_text()):
            yield Piece(job.ask.id, text)
        if not job.handles:
            self._end(job)
            outputs = [draft.output(logprobs=job.ask.params.logprobs) for draft in job.drafts]
            yield Done(job.ask.id, len(job.tokens), outputs)

    def _read(self, job: Job, handle: Any, draws: list[int]) -> None:
        while handle.can_read():
            for draw, output in zip(draws, handle.read().values(), strict=False):
                draft = job.drafts[draw]
                draft.extend(output.generated_ids, output.generated_log_probs)
                if output.finish_reason != self._genai.GenerationFinishReason.NONE:
                    long = output.finish_reason == self._genai.GenerationFinishReason.LENGTH
                    draft.finish_reason = "length" if long else "stop"

    def _end(self, job: Job) -> None:
        self._jobs.pop(job.ask.id, None)
        if job is self._proving:
            self._proving = None

    def _drop(self, id: int) -> None:
        self._scorer.drop(id)
        self._unproven = deque(job for job in self._unproven if job.ask.id != id)
        if (job := self._jobs.get(id)) is not None:
            self._end(job)
            for handle, _ in job.handles:
                handle.cancel()
            self._dropped = True  # a step lets go of what it held

    def _prove_next(self, replies: list[Reply]) -> None:
        while self._unproven and self._proving is None:
            job = self._unproven.popleft()
            try:
                self._admit(job)
            except BadRequest as error:
                replies.append(Refused(job.ask.id, "request", str(error)))

    def _recover(self, message: str) -> list[Reply]:
        """Load the engine anew, refuse the job that was on trial, and let the others go on."""
        culprit, jobs = self._proving, list(self._jobs.values())
        handles = {job.ask.id: [draws for _, draws in job.handles] for job in jobs}
        for job in jobs:
            job.handles = []
        self._jobs.clear()
        self._proving = None
        del self._pipeline  # what failed once fails in every later step
        self._pipeline = engine_config.load(self._genai, self._weights)
        if culprit is None:
            return [Refused(job.ask.id, "engine", message) for job in jobs]
        self._unreadable[culprit.constraint] = message
        replies: list[Reply] = [Refused(culprit.ask.id, "request", message)]
        for job in jobs:
            if job is not culprit:
                replies += self._resume(job, handles[job.ask.id])
        self._prove_next(replies)
        return replies

    def _resume(self, job: Job, handles: list[list[int]]) -> list[Reply]:
        if job.constraint:  # the constraint's state is lost: from the beginning, unless some of it has been seen
            if job.ask.stream and job.drafts[0].ids:
                return [Refused(job.ask.id, "engine", "the engine failed under another call")]
            job.drafts = [Draft(self._pieces, job.ask.params.stop) for _ in job.drafts]
            job.waiting = []
            self._start(job)
            return []
        self._jobs[job.ask.id] = job
        for draws in handles:
            self._add(job, draws)
        return []


def serve(worker: Worker, inbox: SimpleQueue[bytes], out: BinaryIO) -> None:
    """Answer for ever: the thread that receives ends the process."""
    while True:
        frames = [] if worker.busy else [inbox.get()]
        while True:
            try:
                frames.append(inbox.get_nowait())
            except Empty:
                break
        replies: list[Reply] = []
        for frame in frames:
            for order in decode_orders(frame):
                replies += worker.take(order)
        replies += worker.step()
        if replies:
            write_frame(out, encode(replies))


def main(weights: str, name: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when this ends
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the engine prints must not get between the frames
    inbox: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(inbox,), daemon=True).start()
    try:
        worker = Worker(Path(weights), name)
    except Exception as error:  # noqa: BLE001 - whatever keeps a model from loading is told to those who wait
        write_frame(out, encode([Fatal(f"the model does not load: {engine_config.first_line(error)}")]))
        return
    serve(worker, inbox, out)


def _receive(inbox: SimpleQueue[bytes]) -> None:
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        inbox.put(frame)
    os._exit(0)  # nothing here needs the engine's slow farewell
