"""System calls that Python has no function for, by number (x86_64 and aarch64)."""

import ctypes
import functools
import os
import platform

# name -> (x86_64, aarch64); the calls that put a process under confinement
_NUMBERS = {
    "unshare": (272, 97),
    "mount": (165, 40),
    "prctl": (157, 167),
    "capset": (126, 91),
    "seccomp": (317, 277),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
# machine -> (column of the tables, AUDIT_ARCH that seccomp sees)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

SUPPORTED = os.name == "posix" and platform.system() == "Linux" and platform.machine() in _MACHINES
COLUMN, AUDIT_ARCH = _MACHINES.get(platform.machine(), (0, 0))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make a system call; OSError naming it where the kernel refuses."""
    # Integers go as 64 bits: ctypes would pass 32, and leave the rest of a register to chance.
    values = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    result: int = _libc().syscall(ctypes.c_long(_NUMBERS[name][COLUMN]), *values)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result
