"""Runs a program as `__main__` in this process. Only ever called in a confined child, whose last act it is."""

import atexit
import contextlib
import faulthandler
import linecache
import os
import sys
import threading
import traceback
import types
from typing import NoReturn

NAME = "<program>"  # stands in tracebacks where a path would


def run(source: bytes) -> NoReturn:
    """Run it, say what went wrong as Python would, and end the process with its exit code."""
    _fresh_interpreter()
    code = _exit_code(source)
    # What Python does at the end, but for freeing memory that goes with the process anyway.
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(code)


def _fresh_interpreter() -> None:
    """What a new interpreter has, and nothing of the process this one was forked from."""
    for name in [name for name in sys.modules if name.split(".")[0] == "shoal"]:
        del sys.modules[name]
    os.environ.clear()
    sys.argv = sys.orig_argv = [NAME]
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    # By lines, so that what was printed before a limit struck is told.
    sys.stdout = sys.__stdout__ = open(1, "w", 1, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    faulthandler.enable(2)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:  # Python's own generator is seeded anew by fork; numpy's is not
        numpy_random.seed()


def _exit_code(source: bytes) -> int:
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main
    try:
        text = source.decode("utf-8")
        linecache.cache[NAME] = (len(text), None, text.splitlines(keepends=True), NAME)
        compiled = compile(text, NAME, "exec", dont_inherit=True)
        exec(compiled, main.__dict__)  # noqa: S102 - what this process is for
    except SystemExit as error:
        return _status(error.code)
    except BaseException as error:  # noqa: BLE001 - whatever a program raises is its own
        _tell(error)
        return 1
    return 0


def _status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    with contextlib.suppress(BaseException):
        sys.stderr.write(f"{code}\n")
    return 1


def _tell(error: BaseException) -> None:
    """Print the traceback, which begins with the program's own first line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    try:
        if sys.excepthook is sys.__excepthook__:
            traceback.print_exception(type(error), error, trace)  # it knows the lines of a program without a file
        else:
            sys.excepthook(type(error), error.with_traceback(trace), trace)
    except BaseException:  # noqa: BLE001 - no memory or stack left, or a hook of the program's own
        os.write(2, f"{type(error).__name__}\n".encode())
