"""The system call filter, run here step by step: also for the machine that this is not."""

import errno

import pytest

from shoal.sandbox.child import seccomp

X86_64, AARCH64 = 0, 1
ARCHES = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}
ALLOW, KILL = 0x7FFF0000, 0x80000000
PID = 4242

# name -> (x86_64, aarch64): what must never pass, whatever its arguments
FORBIDDEN = {
    "socket": (41, 198), "socketpair": (53, 199), "bind": (49, 200), "connect": (42, 203), "sendto": (44, 206),
    "sendmsg": (46, 211), "ptrace": (101, 117), "process_vm_readv": (310, 270), "mount": (165, 40),
    "umount2": (166, 39),
    "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51), "pivot_root": (155, 41), "symlinkat": (266, 36),
    "linkat": (265, 37), "fchmodat": (268, 53), "fchownat": (260, 54), "utimensat": (280, 88), "mknodat": (259, 33),
    "truncate": (76, 45), "memfd_create": (319, 279), "bpf": (321, 280), "io_uring_setup": (425, 425),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219), "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "execveat": (322, 281),
    "setuid": (105, 146), "setsid": (112, 157), "setpriority": (141, 140), "sched_setaffinity": (203, 122),
    "openat2": (437, 437), "open_by_handle_at": (304, 265), "shmget": (29, 194), "setxattr": (188, 5),
    "reboot": (169, 142), "fallocate": (285, 47),
    "execve": (59, 221),
}  # fmt: skip


def verdict(column: int, number: int, *arguments: int, may_exec: bool = False, arch: int | None = None) -> int:
    """What the kernel would do with a call: the value that the filter returns."""
    data = {0: number, 4: ARCHES[column] if arch is None else arch}
    data |= {16 + 8 * place: value & 0xFFFFFFFF for place, value in enumerate(arguments)}
    steps = seccomp.program(column, ARCHES[column], PID, may_exec=may_exec)
    assert len(steps) < 4096
    at = loaded = 0
    while True:
        code, yes, no, k = steps[at]
        at += 1
        if code == 0x20:
            loaded = data.get(k, 0)
        elif code == 0x15:
            at += yes if loaded == k else no
        elif code == 0x45:
            at += yes if loaded & k else no
        else:
            return k


@pytest.mark.parametrize("column", ARCHES)
def test_forbidden(column: int) -> None:
    for name, numbers in FORBIDDEN.items():
        assert verdict(column, numbers[column]) == 0x50000 | errno.EPERM, name
    for number in range(600):
        assert verdict(column, number, arch=0x40000003) == KILL


@pytest.mark.parametrize("column", ARCHES)
def test_by_argument(column: int) -> None:
    calls = {
        "clone": ((56, 220), [(0x3D0F00,), (0x7D0F00,)], [(17,), (0x3D0F00 | 0x10000000,), (0,), (0x1200011,)]),
        "fcntl": ((72, 25), [(3, 3), (3, 1030)], [(3, 8), (3, 10), (3, 15), (3, 1033)]),
        "ioctl": ((16, 29), [(0, 0x5401)], [(0, 0x5412), (0, 0x8901)]),
        "prctl": ((157, 167), [(15,)], [(1,), (4,), (22,), (23,), (38,)]),
        "kill": ((62, 129), [(PID,)], [(1,), (-1,), (0,), (-PID,)]),
        "tgkill": ((234, 131), [(PID, 7)], [(1, 1)]),
        "prlimit64": ((302, 261), [(0,)], [(1,), (PID,)]),
        "openat": ((257, 56), [(-100, 0, 0o101)], [(-100, 0, 0o20200002)]),
    }
    for name, (numbers, fine, refused) in calls.items():
        assert all(verdict(column, numbers[column], *values) == ALLOW for values in fine), name
        assert all(verdict(column, numbers[column], *values) != ALLOW for values in refused), name
    assert verdict(column, 435) == 0x50000 | errno.ENOSYS
    assert verdict(column, (59, 221)[column], may_exec=True) == ALLOW


def test_few_pass() -> None:
    assert sum(verdict(X86_64, number) == ALLOW for number in range(1000)) < 115
    assert sum(verdict(AARCH64, number) == ALLOW for number in range(1000)) < 95
