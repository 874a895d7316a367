"""What a confined run may use, what came of it, and what confinement there is."""

import msgspec

_TOLD = 2000  # characters of an error that a model is shown


class Limits(msgspec.Struct, frozen=True):
    """What one run may use: seconds and bytes. It may make threads, but no processes.

    `memory` bounds the address space beyond what the interpreter itself has mapped; `output` bounds stdout and stderr
    together; `scratch` bounds each file and the directory a run may write to.
    """

    wall: float = 10.0
    cpu: float = 10.0
    memory: int = 1 << 30
    output: int = 1 << 20
    scratch: int = 16 << 20


class Outcome(msgspec.Struct, frozen=True):
    """What a run printed and how it ended. `exit_code` is negative for a signal, None where a limit stopped the run."""

    stdout: str
    stderr: str
    exit_code: int | None
    stopped: str | None  # the limit that stopped it: "wall time", "CPU time", "memory", "output"
    seconds: float
    isolation: str  # "bubblewrap+landlock+seccomp", "landlock+seccomp" or "none (unsafe)"

    @property
    def ok(self) -> bool:
        """Whether the program ended by itself, without an error."""
        return self.exit_code == 0 and self.stopped is None

    @property
    def error(self) -> str:
        """What went wrong, in a text short enough for a prompt; empty when nothing did."""
        if self.ok:
            return ""
        told = self.stderr.strip()[-_TOLD:]
        if self.stopped is not None:
            return f"stopped: it used up its {self.stopped}"
        return told or f"it ended with exit code {self.exit_code} and no message"


class Layer(msgspec.Struct, frozen=True):
    """One layer of the confinement, whether it holds here, and how that was found out."""

    name: str
    holds: bool
    why: str


class Report(msgspec.Struct, frozen=True):
    """What confinement there is on this machine. `isolation` is empty where model-written code is refused."""

    isolation: str
    layers: tuple[Layer, ...]
    missing: str = ""

    @property
    def usable(self) -> bool:
        return bool(self.isolation)
