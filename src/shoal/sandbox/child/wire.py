"""What the two sides say to each other: one fixed-size order for a job, one fixed-size report of its end."""

import struct
from typing import NamedTuple

# What programs may import beyond the standard library; an order names those to have ready by their places here, in one
# byte.
PACKAGES = ("z3", "sympy", "mpmath", "numpy", "gmpy2", "antlr4", "latex2sympy2_extended", "math_verify")
# Of which of them programs may read the metadata: one asks for the version of another.
DESCRIBED = ("antlr4-python3-runtime",)

PYTHON, SMT = 0, 1
BY_ITSELF, WALL, CPU, MEMORY, SCRATCH, TOLD_TO = range(6)  # why a job ended

_ORDER = struct.Struct("=BBddQQ")
_REPORT = struct.Struct("=iBd")
FILES = 5  # that go with an order: program, stdin, stdout, stderr, and the socket for its report


class Order(NamedTuple):
    """One job: seconds and bytes. `packages` is a bit for each of PACKAGES."""

    kind: int
    packages: int
    wall: float
    cpu: float
    memory: int
    scratch: int

    def encode(self) -> bytes:
        return _ORDER.pack(*self)

    @classmethod
    def decode(cls, data: bytes) -> "Order":
        return cls(*_ORDER.unpack(data))


class Report(NamedTuple):
    """How a job ended: its exit code (negative for a signal), why, and the seconds it took."""

    exit_code: int
    why: int
    seconds: float

    def encode(self) -> bytes:
        return _REPORT.pack(*self)

    @classmethod
    def decode(cls, data: bytes) -> "Report":
        return cls(*_REPORT.unpack(data))


ORDER_SIZE, REPORT_SIZE = _ORDER.size, _REPORT.size
