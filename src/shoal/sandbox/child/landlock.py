"""Which files a confined program may open, by Landlock: what is not named here does not open, whoever owns it."""

import ctypes
import os
import struct

from shoal.sandbox.child import kernel

_EXECUTE, _WRITE, _READ, LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIRECTORY, _REMOVE_FILE, _MAKE_DIRECTORY, _MAKE_FILE = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_REFER, _TRUNCATE = 1 << 13, 1 << 14

READ = _READ | LIST
READ_WRITE = _READ | _WRITE | _TRUNCATE
RUN = _READ | _EXECUTE
# Files come and stay, so that the names in a directory tell its size.
FILL = READ_WRITE | LIST | _MAKE_FILE
OWN = FILL | _REMOVE_FILE | _MAKE_DIRECTORY | _REMOVE_DIRECTORY | _REFER
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE  # what can be allowed for a path that is no directory

# Rights that each version of Landlock knows: files; TCP; signals and abstract sockets
_RIGHTS = (13, 14, 15, 15, 16)


def version() -> int:
    """The kernel's version of Landlock; OSError where it has none."""
    return kernel.call("landlock_create_ruleset", None, 0, 1)


def restrict(paths: dict[str, int]) -> None:
    """Put this process under a ruleset, for good: `paths` -> what may be done there. Needs no_new_privs."""
    known = version()
    rights = (1 << _RIGHTS[min(known, len(_RIGHTS)) - 1]) - 1
    tcp = 3 if known >= 4 else 0
    scopes = 3 if known >= 6 else 0
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    ruleset = kernel.call("landlock_create_ruleset", struct.pack("QQQ", rights, tcp, scopes), size, 0)
    for path, allowed in paths.items():
        _allow(ruleset, path, allowed & rights)
    kernel.call("landlock_restrict_self", ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: str, allowed: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # what is not there needs no permission
    try:
        if not os.path.isdir(path):  # noqa: PTH112 - pathlib is not needed in the child
            allowed &= _OF_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, place))  # packed, as the kernel declares it
        kernel.call("landlock_add_rule", ruleset, 1, rule, 0)
    finally:
        os.close(place)
