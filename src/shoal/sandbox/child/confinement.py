"""Puts the process it is called in under confinement, for good: limits, capabilities, files, system calls."""

import math
import os
import resource
import struct
from pathlib import Path
from typing import Any

from shoal.sandbox.child import kernel, landlock, seccomp
from shoal.sandbox.child.wire import SMT, Order

_NEW_MOUNT_NAMESPACE = 0x00020000
_NO_SUID_DEV_EXEC = 2 | 4 | 8
_SET_DEATH_SIGNAL, _NO_NEW_PRIVILEGES = 1, 38
_CAPABILITIES_VERSION = 0x20080522
_OPEN_FILES = 64
_THREADS = 512  # of all jobs together; the kernel does not count those of root
_INODES = 4096
_Z3_ITSELF = 64 << 20  # z3 counts what it allocates, the kernel counts its code as well


def confine(order: Order, config: dict[str, Any], scratch: str, parent: int) -> None:
    """`config` is what the parent process found out: the tier, what may be read, where z3 is."""
    if kernel.SUPPORTED:
        _die_with(parent)
    tier = config["tier"]
    if tier == "bubblewrap":
        _private_scratch(scratch, order.scratch)
    os.chdir(scratch)
    _limit(order, nproc=tier == "bubblewrap")
    if tier == "none":
        return
    kernel.call("capset", struct.pack("=Ii", _CAPABILITIES_VERSION, 0), bytes(24))
    kernel.call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    landlock.restrict(_paths(order, config, scratch))
    seccomp.install(may_exec=order.kind == SMT)


def _die_with(parent: int) -> None:
    kernel.call("prctl", _SET_DEATH_SIGNAL, 9, 0, 0, 0)
    if os.getppid() != parent:  # it was gone before the kernel was asked
        os._exit(1)


def _private_scratch(path: str, size: int) -> None:
    """A file system of this job's own: nobody else sees it, it cannot grow, and it goes with the process."""
    kernel.call("unshare", _NEW_MOUNT_NAMESPACE)
    options = f"size={size},nr_inodes={_INODES},mode=700".encode()
    kernel.call("mount", b"tmpfs", path.encode(), b"tmpfs", _NO_SUID_DEV_EXEC, options)


def _limit(order: Order, *, nproc: bool) -> None:
    seconds = max(1, math.ceil(order.cpu))
    memory = order.memory + (_Z3_ITSELF if order.kind == SMT else 0)
    _set(resource.RLIMIT_CPU, seconds)
    _set(resource.RLIMIT_AS, memory)
    _set(resource.RLIMIT_FSIZE, order.scratch)
    _set(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _set(resource.RLIMIT_CORE, 0)
    if nproc:  # elsewhere the user's other processes would count
        _set(resource.RLIMIT_NPROC, _THREADS)


def _set(kind: int, limit: int) -> None:
    """As the hard limit, too: nothing here may raise it again."""
    ceiling = resource.getrlimit(kind)[1]
    limit = limit if ceiling == resource.RLIM_INFINITY else min(limit, ceiling)
    resource.setrlimit(kind, (limit, limit))


def _paths(order: Order, config: dict[str, Any], scratch: str) -> dict[str, int]:
    paths = dict.fromkeys(config["listable"], landlock.LIST)
    paths |= dict.fromkeys(config["readable"], landlock.READ)
    paths |= {"/dev/null": landlock.READ_WRITE, "/dev/urandom": landlock.READ, "/dev/zero": landlock.READ}
    paths[scratch] = landlock.OWN if config["tier"] == "bubblewrap" else landlock.FILL
    if order.kind == SMT:
        for path in (config["z3"], *map(str, Path("/").glob("lib*/ld-*.so*"))):
            paths[path] = landlock.RUN
    return paths
