"""The transformers engine: loads its model in a thread, and there turns calls into sequences for a batch."""

import threading
from queue import Empty, SimpleQueue
from typing import Protocol

from shoal.backends.hf.bucketed import Bucketed
from shoal.backends.hf.config import Source
from shoal.backends.hf.continuous import Continuous
from shoal.backends.hf.model import LoadedModel
from shoal.backends.hf.scoring import Scored, score, scored
from shoal.backends.hf.sequence import Call, engine_error
from shoal.errors import EngineError, ModelError
from shoal.runtime.backend import scores

_PATIENCE = 60.0  # seconds for the thread to end: left in PyTorch it would bring the whole process down


class Batching(Protocol):
    """Runs the sequences of calls, oldest first, and tells each call what came of it."""

    def start(self) -> None: ...

    def submit(self, call: Call) -> None: ...

    def cancel(self, call: Call) -> None: ...

    def close(self) -> None: ...


class Engine:
    """One life of a loaded model: the thread that reads calls, and the batch's own thread.

    The event loop stays free: PyTorch lets Python's lock go while it computes.
    """

    def __init__(self, source: Source) -> None:
        self.ended = False
        self._error: ModelError = EngineError("the engine was closed", endpoint=source.name)
        self._source = source
        self._inbox: SimpleQueue[Call | None] = SimpleQueue()
        self._batching: Batching | None = None
        self._thread = threading.Thread(target=self._work, name="shoal-transformers", daemon=True)
        self._thread.start()

    def submit(self, call: Call) -> None:
        self._inbox.put(call)
        if self.ended:  # too late: nobody will take it
            self._refuse()

    def cancel(self, call: Call) -> None:
        """Nobody waits for this call any more."""
        call.drop()
        if (batching := self._batching) is not None:
            batching.cancel(call)

    def close(self) -> None:
        """Let the model go. Calls under way get an error."""
        self.ended = True
        self._inbox.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)

    # In its thread

    def _work(self) -> None:
        try:
            model = LoadedModel(self._source)
            self._batching = batching(model)
        except Exception as error:  # noqa: BLE001 - whatever keeps a model from loading is told to those who wait
            self._error = engine_error(f"the model does not load: {_said(error)}", self._source.name)
            self.ended = True
            self._refuse()
            return
        while not self.ended:
            calls = self._arrived()
            if None in calls:
                break
            self._take(model, [call for call in calls if call is not None])
        self._batching.close()
        self._refuse()

    def _arrived(self) -> list[Call | None]:
        calls = [self._inbox.get()]
        try:
            while True:
                calls.append(self._inbox.get_nowait())
        except Empty:
            return calls

    def _take(self, model: LoadedModel, calls: list[Call]) -> None:
        to_score: list[Scored] = []
        for call in calls:
            if call.dropped:
                continue
            try:
                if (one := self._begin(model, call)) is not None:
                    to_score.append(one)
            except ModelError as error:
                call.post(error if error.endpoint else type(error)(str(error), endpoint=model.name))
            except Exception as error:  # noqa: BLE001 - one caller's, whatever it is
                call.post(engine_error(_said(error), model.name))
        score(model, to_score)

    def _begin(self, model: LoadedModel, call: Call) -> Scored | None:
        if call.count:
            call.post(len(model.prompt(call.request)))
        elif scores(call.request):
            return scored(model, call)
        else:
            call.sequences = model.sequences(call)
            assert self._batching is not None
            self._batching.submit(call)
        return None

    def _refuse(self) -> None:
        """Tell everybody whose call was not taken."""
        try:
            while True:
                if (call := self._inbox.get_nowait()) is not None:
                    call.post(self._error)
        except Empty:
            pass


def batching(model: LoadedModel) -> Batching:
    """The way of batching that the options ask for.

    "auto" is the continuous one on CUDA, unless it cannot do this model, and elsewhere the bucketed one, which draws
    more tokens a second there: continuous batching without flash attention attends over all sequences for each.
    """
    wanted, attention = model.options.batching, model.options.attention
    # Eager attention is switched to one that knows no batch but its own, and scoring needs one.
    if wanted == "continuous" or (wanted == "auto" and model.device.startswith("cuda") and attention != "eager"):
        continuous = Continuous(model)
        try:
            continuous.start()
            continuous.prove()
            return continuous
        except Exception:
            continuous.close()
            if wanted == "continuous":
                raise
    bucketed = Bucketed(model)
    bucketed.start()
    return bucketed


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
