"""Attacks that confinement must stop, each tried in it: what this prints decides whether a tier is used.

Run as a program of its own. Its input is the path of a file made for it, which it must not be able to touch.
An attack does no harm where it succeeds.
"""

import ctypes
import errno
import json
import os
import platform
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path

CANARY = sys.stdin.read()
LIBC = ctypes.CDLL(None, use_errno=True)
ARM = platform.machine() == "aarch64"


def raw(x86_64: int, aarch64: int, *arguments: int) -> int:
    """A system call by number, past every library."""
    result: int = LIBC.syscall(ctypes.c_long(aarch64 if ARM else x86_64), *map(ctypes.c_long, arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def environment() -> None:
    if not os.environ:
        raise OSError("empty")


def inherited_files() -> None:
    if all(not is_open(number) for number in range(3, 256)):
        raise OSError("none")


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def raise_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard * 2, hard * 2))


ATTACKS: dict[str, Callable[[], object]] = {
    "see the environment": environment,
    "use inherited files": inherited_files,
    "read a file outside": lambda: Path(CANARY).read_bytes(),
    "write a file outside": lambda: Path(CANARY).write_bytes(b"x"),
    "remove a file outside": lambda: Path(CANARY).unlink(),
    "change a file's mode": lambda: Path(CANARY).chmod(0o777),
    "create a file outside": lambda: Path(CANARY + "-too").touch(),
    "read /etc/passwd": lambda: Path("/etc/passwd").read_bytes(),
    "read /proc": lambda: Path("/proc/self/environ").read_bytes(),
    "list a directory": lambda: os.listdir(os.path.dirname(CANARY)),  # noqa: PTH208, PTH120
    "open a TCP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "open a UDP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "open a Unix socket": lambda: socket.socket(socket.AF_UNIX),
    "make a pair of sockets": socket.socketpair,
    "fork": lambda: os.fork() or os._exit(0),
    "clone": lambda: raw(56, 220, 17, 0, 0, 0, 0) or os._exit(0),
    "clone3": lambda: raw(435, 435, 0, 0),
    "signal its parent": lambda: os.kill(os.getppid(), 0),
    "signal everybody": lambda: os.kill(-1, 0),
    "trace its parent": lambda: raw(101, 117, 0x4206, os.getppid(), 0, 0),
    "read its parent's memory": lambda: raw(310, 270, os.getppid(), 0, 0, 0, 0, 0),
    "limit its parent": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE),
    "raise a limit": raise_limit,
    "make a namespace": lambda: raw(272, 97, 0x10000000),
    "mount": lambda: raw(165, 40, 0, 0, 0, 0, 0),
    "set up io_uring": lambda: raw(425, 425, 1, 0),
    "load BPF": lambda: raw(321, 280, 0, 0, 0),
    "make a file in memory": lambda: os.memfd_create("x"),
    "make shared memory": lambda: raw(29, 194, 0, 0, 0o1600),
    "use keys": lambda: raw(250, 219, 0, -3, 0),
    "open by handle": lambda: raw(304, 265, 0, 0, 0),
    "outlive its parent": lambda: raw(157, 167, 1, 0),
    "be dumped": lambda: raw(157, 167, 4, 1),
    "run a program": lambda: os.execv("/bin/true", ["true"]),
}

# Some calls are made with arguments that no kernel takes; one that finds fault with them would take better ones.
NOT_REFUSED = {errno.EFAULT, errno.EINVAL, errno.EBADF}

done = []
for name, attack in ATTACKS.items():
    try:
        attack()
    except OSError as error:
        if error.errno not in NOT_REFUSED:
            continue
    except ValueError as error:  # how the resource module tells of EPERM
        if "not allowed" in str(error):
            continue
    done.append(name)
Path("scratch").write_text("of its own")
print(json.dumps({"tried": len(ATTACKS), "done": done}))  # noqa: T201 - its output is its result
