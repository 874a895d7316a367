"""Which system calls a confined program may make: those listed here. Every other one fails with EPERM.

An allow-list, because a deny-list is only as good as its author's knowledge of next year's kernel. What is here is what
CPython, z3, sympy and numpy need with threads, files and pipes. Nothing here makes a socket, a process or a namespace,
reaches another process, runs another program, changes a file's owner, mode or times, or takes up disk space without
writing to it (fallocate would do that faster than the size of a scratch directory is looked at).
"""

import ctypes
import errno
import os
import struct

from shoal.sandbox.child import kernel

# name -> (x86_64, aarch64); None where the machine has no such call
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # files that are open already, and opening others: which, is Landlock's to say
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436), "dup": (32, 23),
    "dup2": (33, None), "dup3": (292, 24), "pipe": (22, None), "pipe2": (293, 59), "fsync": (74, 82),
    "fdatasync": (75, 83), "ftruncate": (77, 46), "fadvise64": (221, 223), "getdents64": (217, 61),
    # names of files
    "fstat": (5, 80), "newfstatat": (262, 79), "stat": (4, None), "lstat": (6, None), "statx": (332, 291),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None),
    "readlinkat": (267, 78), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "umask": (95, 166),
    # memory
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214), "membarrier": (324, 283),
    # threads, waiting and time
    "futex": (202, 98), "set_robust_list": (273, 99), "get_robust_list": (274, 100), "rseq": (334, 293),
    "set_tid_address": (218, 96), "arch_prctl": (158, None), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "getcpu": (309, 168), "poll": (7, None), "ppoll": (271, 73),
    "select": (23, None), "pselect6": (270, 72), "pause": (34, None), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "gettimeofday": (96, 169),
    "time": (201, None), "times": (100, 153), "setitimer": (38, 103), "getitimer": (36, 102), "alarm": (37, None),
    "wait4": (61, 260), "waitid": (247, 95), "exit": (60, 93), "exit_group": (231, 94),
    # signals to oneself
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    # what a process may know of itself
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getpgrp": (111, None), "getpgid": (121, 155),
    "getsid": (124, 156), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "getgroups": (115, 158), "getrusage": (98, 165), "getrlimit": (97, 163), "setrlimit": (160, 164),
    "getpriority": (140, 141), "sysinfo": (99, 179), "uname": (63, 160), "getrandom": (318, 278),
}  # fmt: skip

# Calls that are allowed with some values of one argument. The argument is compared as 32 bits, as the kernel reads it.
_OPENAT, _FCNTL, _IOCTL, _PRCTL = (257, 56), (72, 25), (16, 29), (157, 167)
_CLONE, _CLONE3, _KILL, _TGKILL, _PRLIMIT, _EXECVE = (56, 220), (435, 435), (62, 129), (234, 131), (302, 261), (59, 221)
# An invisible file has no name that the size of the scratch directory could be counted by.
_O_TMPFILE = 0o20000000
# F_DUPFD to F_SETLKW and F_DUPFD_CLOEXEC. Not F_SETOWN and F_SETSIG: they send signals to other processes.
_FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 1030)
# Is it a terminal, how much is there to read, close on exec or not, blocking or not
_IOCTLS = (0x5401, 0x541B, 0x5450, 0x5451, 0x5421)
_PRCTLS = (15, 16)  # PR_SET_NAME, PR_GET_NAME
# What glibc and musl give to clone for a thread: one that shares everything with this process
_THREADS = (0x3D0F00, 0x7D0F00)

_LOAD, _EQUAL, _SET, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF: A = data[k]; A == k; A & k; return k
_NUMBER, _ARCH = 0, 4  # where struct seccomp_data keeps them; arguments follow at 16, 8 bytes each
_ALLOW, _KILL_PROCESS, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000

_Step = tuple[int, int, int, int]  # code, jump if true, jump if false, k


def program(column: int, audit_arch: int, pid: int, *, may_exec: bool) -> list[_Step]:
    """The filter for process `pid`. `may_exec`: it may become another program; which, Landlock says."""
    steps: list[_Step] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, audit_arch),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for numbers in _ALLOWED.values():
        if (number := numbers[column]) is not None:
            steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    if may_exec:
        steps += [(_EQUAL, 0, 1, _EXECVE[column]), (_RETURN, 0, 0, _ALLOW)]
    # glibc tries the older call when this one does not exist, and its flags can be read here
    steps += [(_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _FAIL | errno.ENOSYS)]
    steps += [
        (_EQUAL, 0, 4, _OPENAT[column]),
        (_LOAD, 0, 0, 16 + 2 * 8),
        (_SET, 0, 1, _O_TMPFILE),
        (_RETURN, 0, 0, _FAIL | errno.EOPNOTSUPP),
        (_RETURN, 0, 0, _ALLOW),
    ]
    steps += _with_argument(_CLONE[column], 0, _THREADS)
    steps += _with_argument(_FCNTL[column], 1, _FCNTLS)
    steps += _with_argument(_IOCTL[column], 1, _IOCTLS)
    steps += _with_argument(_PRCTL[column], 0, _PRCTLS)
    steps += _with_argument(_KILL[column], 0, (pid,))
    steps += _with_argument(_TGKILL[column], 0, (pid,))
    steps += _with_argument(_PRLIMIT[column], 0, (0,))
    return [*steps, (_RETURN, 0, 0, _FAIL | errno.EPERM)]


def _with_argument(number: int, argument: int, values: tuple[int, ...]) -> list[_Step]:
    """Allow a call where one argument is one of `values`; let it fail where it is not."""
    checks: list[_Step] = []
    for value in values:
        checks += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    block = [(_LOAD, 0, 0, 16 + 8 * argument), *checks, (_RETURN, 0, 0, _FAIL | errno.EPERM)]
    return [(_EQUAL, 0, len(block), number), *block]


def install(*, may_exec: bool = False) -> None:
    """Put this process under the filter, for good. Needs no_new_privs."""
    steps = program(kernel.COLUMN, kernel.AUDIT_ARCH, os.getpid(), may_exec=may_exec)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    header = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code))
    kernel.call("seccomp", 1, 0, header)  # SECCOMP_SET_MODE_FILTER
