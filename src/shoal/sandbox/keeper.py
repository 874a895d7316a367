"""One life of the zygote: started under its tier's confinement, ended with this process or before."""

import atexit
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Sequence

from shoal.errors import SandboxUnavailable
from shoal.sandbox import places
from shoal.sandbox.child.wire import Order

BUBBLEWRAP, LANDLOCK, NONE = "bubblewrap", "landlock", "none"
_SCRATCH = "/scratch"  # inside bubblewrap
_START_SECONDS = 30.0
_GRACE = 2.0
# Equal programs meet equal hashes. A forked process has no use for threads that numerical libraries start when they are
# loaded, and the allocator would reserve an arena of address space for each of its own.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}

# The child finds its few modules by path; the rest of shoal is not visible to it.
_START = """
import sys, types
for name, path in (("shoal", []), ("shoal.sandbox", []), ("shoal.sandbox.child", [sys.argv[1]])):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = path
from shoal.sandbox.child.zygote import main
main(sys.argv[2])
"""


class Zygote:
    """A running zygote of `tier`. Raises SandboxUnavailable, with what it said, where it does not start."""

    def __init__(self, tier: str) -> None:
        self.ended = False
        self._owner = os.getpid()
        self._sending = threading.Lock()
        self._control, theirs = socket.socketpair()
        self._scratch = "" if tier == BUBBLEWRAP else tempfile.mkdtemp(prefix="shoal-sandbox-")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._child: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None
        self._started = threading.Event()
        command = _command(tier, self._scratch or _SCRATCH)
        # The kernel ends the child with the thread that started it, so that thread lives as long as the child.
        self._thread = threading.Thread(target=self._live, args=(command, theirs), name="shoal-sandbox", daemon=True)
        self._thread.start()
        atexit.register(self.end)
        self._started.wait()
        self._control.settimeout(_START_SECONDS)
        ready = False
        with contextlib.suppress(OSError):
            ready = self._control.recv(1) == b"+"
        if not ready:
            message = self._end_with_words()
            raise SandboxUnavailable(f"the confined process does not start: {message}")
        self._control.settimeout(None)

    def _live(self, command: Sequence[str], theirs: socket.socket) -> None:
        try:
            with theirs:
                self._child = subprocess.Popen(
                    command,
                    env=_ENVIRONMENT,
                    stdin=theirs.fileno(),  # where each job puts its own input instead
                    stdout=self._errors,
                    stderr=self._errors,
                    start_new_session=True,
                )
        except OSError as error:
            self._failure = error
            self.ended = True
        finally:
            self._started.set()
        if self._child is not None:
            self._child.wait()
            self.ended = True

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def submit(self, order: Order, files: Sequence[int]) -> None:
        """Have a job run. OSError where the zygote has died."""
        with self._sending:
            socket.send_fds(self._control, [order.encode()], files)

    def end(self) -> None:
        """End it and all its jobs. Done at the end of Python, if not before."""
        if os.getpid() != self._owner:  # a fork of the owner: the zygote is not ours
            return
        atexit.unregister(self.end)
        with contextlib.suppress(OSError):  # closed already
            self._control.shutdown(socket.SHUT_RDWR)  # at which it ends, also where a fork holds this socket open
        self._control.close()
        self._thread.join(_GRACE)
        if self._child is not None and self._thread.is_alive():
            self._child.kill()
            self._thread.join()
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
        self._errors.close()

    def _end_with_words(self) -> str:
        """End it, and give what it said last."""
        self._control.close()
        self._thread.join(_GRACE)
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        self.end()
        return str(self._failure or (lines[-1][:300] if lines else "it says nothing"))


def _command(tier: str, scratch: str) -> list[str]:
    hidden = tier == BUBBLEWRAP  # what is installed in the library is covered there
    config = {
        "tier": tier,
        "scratch": scratch,
        "slots": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "readable": [*([str(places.stdlib())] if hidden else places.stdlib_parts()), *places.beside_stdlib()],
        "listable": [str(places.stdlib())],
        "packages": places.packages(),
        "descriptions": places.descriptions(),
        "z3": places.z3(),
    }
    # No site-packages, no directory of the caller's, no byte code written
    python = [places.interpreter(), "-s", "-S", "-P", "-B", "-X", "utf8"]
    wrapped = _bubblewrap(scratch) if tier == BUBBLEWRAP else []
    return [*wrapped, *python, "-c", _START, str(places.CHILD), json.dumps(config)]


def _bubblewrap(scratch: str) -> list[str]:
    """New namespaces of every kind, a root of its own with only what is bound to it, no /proc, nobody's user id."""
    words = [places.bubblewrap(), "--unshare-user", "--unshare-all", "--disable-userns", "--die-with-parent"]
    words += ["--new-session", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
    # To give each job a file system of its own; no job keeps it.
    words += ["--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"]
    library = str(places.stdlib())
    words += ["--ro-bind", library, library]
    for place in places.installed():
        words += ["--tmpfs", place]
    for place in (*places.beside_stdlib(), str(places.CHILD)):
        words += ["--ro-bind", place, place]
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        words += ["--dev-bind", device, device]
    return [*words, "--dir", scratch, "--remount-ro", "/", "--"]
