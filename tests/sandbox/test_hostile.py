"""Programs that mean harm: each is stopped, what stopped it is told, and those around it go on."""

import asyncio
import os
import platform
import sysconfig
from pathlib import Path

import msgspec
import pytest

import shoal
from shoal.sandbox import Limits, Outcome, run_python

pytestmark = pytest.mark.usefixtures("tier")
LIMITS = Limits(wall=10, cpu=5, memory=1 << 30, scratch=4 << 20)
DENIED = "PermissionError"
HIDDEN = "PermissionError|FileNotFoundError"
SOURCE = Path(shoal.__file__)
LIBRARY = sysconfig.get_path("stdlib")


def run(code: str, limits: Limits = LIMITS) -> Outcome:
    async def main() -> Outcome:
        return await run_python(code, limits=limits)

    return asyncio.run(main())


def raw(number: int, *arguments: object) -> str:
    """A program that makes a system call by number and prints how it went."""
    values = ", ".join(["ctypes.c_long(%d)" % number, *map(str, arguments)])  # noqa: UP031
    return f"import ctypes, os\nl = ctypes.CDLL(None, use_errno=True)\nif l.syscall({values}) < 0:\n" + (
        "    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))"
    )


REFUSED = {
    # files
    "passwd": ("open('/etc/passwd').read()", HIDDEN),
    "environ of init": ("open('/proc/1/environ','rb').read()", HIDDEN),
    "own environ": ("open('/proc/self/environ','rb').read()", HIDDEN),
    "memory as a file": ("open('/proc/self/mem','r+b')", HIDDEN),
    "source": (f"open({str(SOURCE)!r}).read()", HIDDEN),
    "source listed": (f"import os; os.listdir({str(SOURCE.parent)!r})", HIDDEN),
    "another package": (f"open({msgspec.__file__!r}).read()", HIDDEN),
    "packages of the library": (f"import os; open({LIBRARY!r} + '/site-packages/README.txt').read()", HIDDEN),
    "home": ("import os; os.listdir('/root'); os.listdir('/home')", HIDDEN),
    "root": ("import os; os.listdir('/')", DENIED),
    "above": ("import os; os.listdir('..')", DENIED),
    "write to tmp": ("open('/tmp/escaped', 'w')", f"{HIDDEN}|Read-only"),
    "write to the library": (f"open({LIBRARY!r} + '/os.py', 'a')", f"{DENIED}|Read-only"),
    "write beside z3": ("import z3, os; open(os.path.dirname(z3.__file__) + '/x.py', 'w')", f"{DENIED}|Read-only"),
    "remove from the library": (f"import os; os.unlink({LIBRARY!r} + '/os.py')", f"{DENIED}|Read-only"),
    "rename out": (
        "import os; open('a','w').close(); os.rename('a', '/tmp/escaped')",
        f"{DENIED}|cross-device|No such",
    ),
    "symlink": ("import os; os.symlink('/etc', 'etc')", DENIED),
    "hard link": ("import os; os.link('/etc/passwd', 'passwd')", DENIED),
    "mode": ("import os; open('a','w').close(); os.chmod('a', 0o4777)", DENIED),
    "owner": ("import os; open('a','w').close(); os.chown('a', 0, 0)", DENIED),
    "times": (f"import os; os.utime({LIBRARY!r})", DENIED),
    "device": ("import os; os.mknod('d', 0o20666, 0x101)", DENIED),
    "fifo": ("import os; os.mkfifo('f')", DENIED),
    "chroot": ("import os; os.chroot('.')", DENIED),
    "truncate": ("import os; os.truncate('/etc/passwd', 0)", HIDDEN),
    # sockets
    "tcp": ("import socket; socket.create_connection(('127.0.0.1', 22), 1)", DENIED),
    "udp": ("import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", DENIED),
    "ipv6": ("import socket; socket.socket(socket.AF_INET6)", DENIED),
    "unix": ("import socket; socket.socket(socket.AF_UNIX).connect('/run/dbus/system_bus_socket')", DENIED),
    "abstract": ("import socket; socket.socket(socket.AF_UNIX).connect(chr(0) + '/tmp/.X11-unix/X0')", DENIED),
    "netlink": ("import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", DENIED),
    "pair": ("import socket; socket.socketpair()", DENIED),
    "url": ("import urllib.request; urllib.request.urlopen('http://127.0.0.1:80')", "URLError|" + DENIED),
    # processes
    "fork bomb": ("import os\nwhile True: os.fork()", DENIED),
    "double fork": ("import os\nos.setsid()\nos.fork() or os.fork()", DENIED),
    "forkpty": ("import pty; pty.fork()", "OSError|" + DENIED),
    "subprocess": ("import subprocess; subprocess.run(['id'])", DENIED),
    "shell": ("import os; assert os.system('true') == 0", "AssertionError"),
    "spawn": ("import os; os.posix_spawn('/bin/true', ['true'], {})", DENIED),
    "exec": ("import os; os.execv('/bin/sh', ['sh'])", DENIED),
    "multiprocessing": ("import multiprocessing as m; m.Process(target=print).start()", DENIED),
    "kill the parent": ("import os; os.kill(os.getppid(), 9)", DENIED),
    "kill init": ("import os; os.kill(1, 9)", DENIED),
    "kill all": ("import os; os.kill(-1, 9)", DENIED),
    "kill the group": ("import os; os.killpg(0, 9)", DENIED),
    "pidfd": ("import os; os.pidfd_open(os.getppid())", DENIED),
    "signals by files": ("import fcntl, os; r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())", DENIED),
    "priority": ("import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)", DENIED),
    "processor": ("import os; os.sched_setaffinity(0, {0})", DENIED),
    "session": ("import os; os.setsid()", DENIED),
    "user": ("import os; os.setuid(0)", DENIED),
    # limits
    "memory limit": ("import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))", "ValueError: not allowed to raise"),
    "time limit": ("import resource as r; r.setrlimit(r.RLIMIT_CPU, (99, 99))", "ValueError: not allowed to raise"),
    "parent's limit": ("import resource as r, os; r.prlimit(os.getppid(), r.RLIMIT_NOFILE, (4, 4))", DENIED),
    # tricks of the language
    "import of shoal": ("import shoal", "ModuleNotFoundError"),
    "import of pytest": ("import pytest", "ModuleNotFoundError"),
    "reloaded os": ("import importlib, os; importlib.reload(os); os.fork()", DENIED),
    "fresh os": ("import sys; del sys.modules['os'], sys.modules['posix']; import os; os.fork()", DENIED),
    "builtins": ("__builtins__.__dict__['open']('/etc/passwd')", HIDDEN),
    "loader": ("import json, sys; sys.modules['json'].__loader__.get_data('/etc/passwd')", HIDDEN),
    "frames": ("import sys\nf = sys._getframe()\nwhile f: f.f_globals.get('os', __import__('os')).fork()", DENIED),
    "memory of the parent": ("import ctypes, os\n" + raw(310, "ctypes.c_long(os.getppid())", 0, 0, 0, 0, 0), DENIED),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    code, error = REFUSED[name]
    outcome = run(code)
    assert not outcome.ok
    assert any(part in outcome.error for part in error.split("|")), outcome
    assert outcome.stdout == ""
    assert not Path("/tmp/escaped").exists()


# Calls by number, past every library; x86_64 numbers. All must be refused before their arguments are looked at.
CALLS = {
    "open": 2, "socket": 41, "connect": 42, "sendto": 44, "sendmsg": 46, "bind": 49, "socketpair": 53, "fork": 57,
    "vfork": 58, "execve": 59, "truncate": 76, "link": 86, "symlink": 88, "chmod": 90, "chown": 92, "ptrace": 101,
    "syslog": 103, "setuid": 105, "capset": 126, "personality": 135, "mknod": 133, "pivot_root": 155, "chroot": 161,
    "mount": 165, "umount2": 166, "swapon": 167, "reboot": 169, "sethostname": 170, "init_module": 175, "ioperm": 173,
    "setxattr": 188, "tkill": 200, "add_key": 248, "keyctl": 250, "inotify_init": 253, "unshare": 272, "vmsplice": 278,
    "signalfd": 282, "eventfd": 284, "perf_event_open": 298, "fanotify_init": 300, "open_by_handle_at": 304,
    "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "seccomp": 317,
    "memfd_create": 319, "kexec_file_load": 320, "bpf": 321, "execveat": 322, "userfaultfd": 323, "pkey_mprotect": 329,
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsmount": 432, "pidfd_open": 434, "openat2": 437, "pidfd_getfd": 438, "process_madvise": 440,
    "landlock_restrict_self": 446, "memfd_secret": 447, "fchmodat2": 452, "shmget": 29, "msgget": 68, "semget": 64,
    "x32 getpid": 0x40000000 | 39,
}  # fmt: skip


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86_64")
def test_system_calls_by_number() -> None:
    outcome = run(f"""
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for name, number in {CALLS}.items():
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(0)] * 6)
    if result != -1 or ctypes.get_errno() != errno.EPERM:
        print(name, result, ctypes.get_errno())
print(libc.syscall(ctypes.c_long(435), 0, 0), ctypes.get_errno() == errno.ENOSYS)  # clone3: libraries then use clone
for flags in (17, 0x10000000 | 17, 0x3D0F00 | 0x10000000, 0x100 | 0x4000 | 17):
    print(libc.syscall(ctypes.c_long(56), ctypes.c_long(flags), *[ctypes.c_long(0)] * 4))
""")
    assert outcome.ok, outcome
    assert outcome.stdout == "-1 True\n" + "-1\n" * 4


@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code of x86_64")
def test_the_other_table_of_system_calls_kills() -> None:
    outcome = run("""
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000cd80c3"))  # int 0x80 with the number of getpid in 32-bit programs
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
""")
    assert outcome.exit_code == -31
    assert "SIGSYS" in outcome.error


def test_nothing_is_inherited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHOAL_TEST_SECRET", "canary")
    (tmp_path / "secret").write_text("canary")
    with (tmp_path / "secret").open() as file:
        os.set_inheritable(file.fileno(), True)
        outcome = run("""
import os, sys
print(dict(os.environ), sys.argv, [k for k in sys.modules if k.startswith("shoal")])
for number in range(3, 1024):
    try:
        print(number, os.fstat(number))
    except OSError:
        pass
""")
    assert outcome.stdout == "{} ['<program>'] []\n"


STOPPED = {
    "loop that ignores signals": (
        "import signal\nfor n in range(1, 65):\n"
        "    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass",
        "CPU time",
    ),
    "sleep": ("import time; time.sleep(99)", "wall time"),
    "sleep of a thread": (
        "import threading, time; threading.Thread(target=time.sleep, args=(99,)).start()",
        "wall time",
    ),
    "memory": ("x = bytearray(8 << 30)", "memory"),
    "memory by doubling": ("x = [0]\nwhile True: x += x", "memory"),
    "shared memory": ("import mmap\nx = [mmap.mmap(-1, 1 << 28) for _ in range(99)]\nfor m in x: m.write(b'x')", None),
    "output": ("while True: print('x' * 1000)", "output"),
    "errors": ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "output"),
    "raw output": ("import os\nwhile True: os.write(1, b'x' * 100000)", "output"),
    "power": ("9**9**9**9", "CPU time"),
}


@pytest.mark.parametrize("name", STOPPED)
def test_stopped(name: str) -> None:
    code, what = STOPPED[name]
    wall = 0.5 if what == "wall time" else 9
    cpu = 1 if what == "CPU time" else 9  # filling the memory takes about a second
    outcome = run(code, Limits(wall=wall, cpu=cpu, memory=1 << 29, output=1 << 16))
    assert not outcome.ok
    assert outcome.stopped == what
    assert outcome.seconds < 9
    assert len(outcome.stdout) + len(outcome.stderr) <= 1 << 16
    if what:
        assert what in outcome.error


def test_deep_recursion() -> None:
    outcome = run(
        "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr(self)\nrepr(A())"
    )
    assert not outcome.ok
    assert run("print(1)").stdout == "1\n"


@pytest.mark.parametrize(
    "code", ["import ctypes; ctypes.string_at(0)", "import os; os._exit(3)", "import os; os.abort()"]
)
def test_hard_crashes(code: str) -> None:
    outcome = run(code)
    assert outcome.exit_code in (-11, 3, -6)
    assert outcome.stopped is None
    assert str(SOURCE.parent) not in outcome.stderr
    assert run("print(1)").stdout == "1\n"


def test_thread_bomb() -> None:
    outcome = run("""
import threading
wait = threading.Event()
started = 0
try:
    while started < 5000:
        threading.Thread(target=wait.wait, daemon=True).start()
        started += 1
except RuntimeError as error:
    print(error)
print(started < 5000)
""")
    assert outcome.stdout == "can't start new thread\nTrue\n"


def test_filling_the_scratch(tier: str) -> None:
    outcome = run(
        "for n in range(64):\n    with open(str(n), 'wb') as f: f.write(bytes(1 << 20))\nimport time; time.sleep(5)"
    )
    assert not outcome.ok
    assert "No space left" in outcome.error if tier == "bubblewrap" else outcome.stopped == "scratch space"
    outcome = run("open('a', 'wb').write(bytes(5 << 20))")
    assert "File too large" in outcome.error


def test_taking_space_without_writing() -> None:
    outcome = run("""
import os
for n in range(8):
    os.posix_fallocate(os.open(str(n), os.O_RDWR | os.O_CREAT), 0, 4 << 20)
""")
    assert not outcome.ok


def test_many_files(tier: str) -> None:
    outcome = run("n = 0\nwhile True:\n    open(str(n), 'w').close()\n    n += 1")
    assert "No space left" in outcome.error if tier == "bubblewrap" else outcome.stopped == "scratch space"


def test_the_scratch_of_another() -> None:
    async def main() -> tuple[Outcome, Outcome]:
        waits = "import time, os; open('secret', 'w').write('canary'); print(os.getcwd(), flush=True); time.sleep(0.5)"
        looks = """
import os, time
here = os.getcwd()
base, _, own = here.rpartition("/")
for _ in range(20):
    for n in range(400):
        for path in (f"{base}/{n}/secret", f"../{n}/secret", "/scratch/secret"):
            try:
                print(open(path).read())
            except OSError:
                pass
    time.sleep(0.002)
"""
        first, second = await asyncio.gather(
            run_python(waits, limits=Limits(wall=5)), run_python(looks, limits=Limits(wall=5))
        )
        return first, second

    first, second = asyncio.run(main())
    assert first.ok
    assert second.ok
    assert second.stdout == ""


def test_a_job_finds_nothing_of_the_one_before() -> None:
    run("import os, builtins; open('left', 'w').write('x'); builtins.left = 1; os.environ['LEFT'] = '1'")
    outcome = run("import os, builtins; print(os.listdir(), hasattr(builtins, 'left'), dict(os.environ))")
    assert outcome.stdout == "[] False {}\n"
