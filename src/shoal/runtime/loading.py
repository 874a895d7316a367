"""Loading what the user wrote in a Python file of theirs: FILE.py:NAME."""

import importlib.util
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
    found.loader.exec_module(module)
    loaded = getattr(module, name, None)
    if not callable(loaded) and not hasattr(loaded, "render"):
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise UsageError(f"{what}: {path} has no {name}; {did_you_mean(name, names)}")
    return loaded


def fingerprint(spec: str) -> str:
    """What tells two contents of the file of `FILE.py:NAME` apart."""
    return blake2b(Path(spec.rpartition(":")[0]).read_bytes(), digest_size=8).hexdigest()
