"""What a confined run may use, what came of it, and what confinement there is."""

import signal

import msgspec

_TOLD = 2000  # characters of an error that a model is shown


class Limits(msgspec.Struct, frozen=True):
    """What one run may use: seconds and bytes. It may make threads, but no processes.

    `cpu` counts whole seconds, begun ones too. `memory` is address space, of which the interpreter with z3 and sympy
    takes about 0.2 GiB. `output` bounds stdout and stderr together, `scratch` the directory a program may write to.
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
    stopped: str | None  # the limit that stopped it: "wall time", "CPU time", "memory", "output", "scratch space"
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
        if self.stopped is not None:
            return f"stopped: it used up its {self.stopped}"
        told = self.stderr.strip("\n").rstrip()[-_TOLD:]
        if self.exit_code is not None and self.exit_code < 0:
            return f"ended by signal {-self.exit_code} ({_signal(-self.exit_code)})\n{told}".strip()
        return told or f"ended with exit code {self.exit_code} and no message"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


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
