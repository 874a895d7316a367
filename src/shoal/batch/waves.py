"""Runs and comparisons whose calls travel by the provider's batch API: their waves are kept in their directories."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from shoal.backends import BaseModel
from shoal.backends.router import Router
from shoal.errors import RunError, UsageError
from shoal.runtime.model import Applied
from shoal.techniques.opening import bases

if TYPE_CHECKING:  # what runs without waves need not import
    from shoal.backends.waves import Wave, WaveScheduler, WaveSettings, WaveStore

WITH_PROVIDER = ("creating", "out")


class Home(Protocol):
    """The directory of a run, or of whatever else asks by waves, which are written down in it."""

    @property
    def path(self) -> Path: ...

    def keeps(self, key: bytes) -> bool:
        """Whether a draw is kept there so that it outlasts a power cut: then no wave need hold it."""
        ...

    def finished(self) -> bool:
        """Whether nothing is needed any more: what is left of waves then are draws that a technique did without."""
        ...


def wave_settings(wanted: "bool | WaveSettings") -> "WaveSettings | None":
    """What `batch_api=` says: True for the defaults."""
    if not isinstance(wanted, bool):
        return wanted
    from shoal.backends.waves import WaveSettings

    return WaveSettings() if wanted else None


@asynccontextmanager
async def by_batch_api(
    models: Sequence[object],
    directory: Home,
    settings: "WaveSettings | None",
    tell: "Callable[[Wave], None] | None" = None,
) -> AsyncIterator[None]:
    """In the body the first model's calls travel in waves, and those of other models at the same endpoint.

    `tell` is called when a wave has left and when it is back.
    Without settings all is asked live; RunError where waves hold answers that would be paid a second time.
    Raises UsageError where the model has no batch API.
    """
    if settings is None:
        refuse_waiting_waves(directory)
        yield
        return
    from shoal.backends.waves import WaveStore

    travelling = of_one_endpoint(models)
    store = WaveStore(directory.path)
    before = [(base, base.scheduler) for base in travelling]
    schedulers = _in_waves(travelling, store, settings)
    for scheduler in schedulers:
        scheduler.waves.tell = tell
    try:
        for scheduler in schedulers:
            await scheduler.waves.begin()
        yield
        for scheduler in schedulers:
            await scheduler.waves.come_in()
            await scheduler.waves.settle(directory.keeps)
    finally:
        for scheduler in schedulers:
            await scheduler.waves.leave()
        for base, live in before:
            base.stand_on(live)
            base.discount, base.tail_live, base.waves = 1.0, 0, None
        store.close()


def of_one_endpoint(models: Sequence[object]) -> list[BaseModel]:
    """The base models at the endpoint of the first model's; UsageError where that can have no batch API."""
    from shoal.backends.openai import OpenAIBackend

    model = models[0]
    while isinstance(model, Applied):
        model = model.model
    backend = getattr(model, "backend", None)
    if isinstance(backend, Router):
        raise UsageError(f"--batch-api is for one endpoint; {backend.name} is several: name one of them")
    if not isinstance(backend, OpenAIBackend):
        raise UsageError(f"--batch-api needs a server that has /v1/files and /v1/batches; {model!r} is none")
    place = backend.base_url
    return [
        base for base in bases(models) if isinstance(base.backend, OpenAIBackend) and base.backend.base_url == place
    ]


def _in_waves(travelling: Sequence[BaseModel], store: "WaveStore", settings: "WaveSettings") -> "list[WaveScheduler]":
    """Let the models' calls travel; models of one identity, whose draws are the same, by the same waves."""
    from shoal.backends.openai import OpenAIBackend
    from shoal.backends.waves import WaveScheduler

    found: dict[str, WaveScheduler] = {}
    for base in travelling:
        live, identity = base.scheduler, base.backend.identity
        assert isinstance(base.backend, OpenAIBackend)
        assert not isinstance(live, Router)
        if identity not in found:
            found[identity] = WaveScheduler(base.backend, live, store, settings)
        base.stand_on(found[identity])
        base.discount, base.tail_live, base.waves = base.batch_price, settings.tail_live, found[identity]
    return list(found.values())


def waves_of(directory: Home) -> "list[Wave]":
    """The waves that hold what is still needed: they are with the provider, or nobody took them yet."""
    if not (directory.path / "waves.sqlite").exists():
        return []
    from shoal.backends.waves import WaveStore

    store = WaveStore(directory.path, read_only=True)
    try:
        landed = [wave for wave in store.waves("landed") if not all(map(directory.keeps, store.keys(wave.number)))]
        return store.waves(*WITH_PROVIDER) + landed
    finally:
        store.close()


def requests_out(run: Path) -> int:
    """How many requests of a run are with the provider of a batch API."""
    if not (run / "waves.sqlite").exists():
        return 0
    from shoal.backends.waves import WaveStore

    store = WaveStore(run, read_only=True)
    try:
        return sum(wave.requests for wave in store.waves(*WITH_PROVIDER))
    finally:
        store.close()


def refuse_waiting_waves(directory: Home) -> None:
    """RunError where answers are on their way by the batch API that would be paid a second time."""
    waves = waves_of(directory)
    if waves and not directory.finished():
        requests = sum(wave.requests for wave in waves)
        raise RunError(
            f"{directory.path} waits for {requests} calls sent by the batch API; add --batch-api to collect them, or "
            f"forget them with `shoal waves {directory.path} --forget`"
        )
