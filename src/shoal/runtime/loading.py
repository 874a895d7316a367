"""Loading what the user wrote in a Python file of theirs: FILE.py:NAME."""

import importlib.util
import traceback
from hashlib import blake2b
from pathlib import Path
from typing import Any

from shoal.errors import UsageError, did_you_mean


def load(spec: str, what: str) -> Any:
    """The object `FILE.py:NAME` names; UsageError, beginning with `what`, says what is missing.

    The file is the user's own program and is run.
    """
    path, _, name = spec.rpartition(":")
    file = Path(path)
    if not path or not name:
        raise UsageError(f"{what}: expected FILE.py:NAME")
    if not file.is_file():
        raise UsageError(f"{what}: no file {path}")
    found = importlib.util.spec_from_file_location(file.stem, file)
    if found is None or found.loader is None:
        raise UsageError(f"{what}: {path} is not a Python file")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except Exception as error:  # the user's own mistake, whatever it is
        raise UsageError(f"{what}: {_place(error, path)}: {type(error).__name__}: {_first_line(error)}") from error
    loaded = getattr(module, name, None)
    if not callable(loaded) and not hasattr(loaded, "render"):
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise UsageError(f"{what}: {path} has no {name}; {did_you_mean(name, names)}")
    return loaded


def _place(error: Exception, path: str) -> str:
    """The last line of the file that the error passed through."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == Path(path)]
    return f"{path}, line {lines[-1]}" if lines else path


def _first_line(error: Exception) -> str:
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return said.strip().split("\n", 1)[0]


def fingerprint(spec: str) -> str:
    """What tells two contents of the file of `FILE.py:NAME` apart."""
    return blake2b(Path(spec.rpartition(":")[0]).read_bytes(), digest_size=8).hexdigest()
