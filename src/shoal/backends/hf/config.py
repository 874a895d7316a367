"""`transformers/MODEL` before it is loaded: where its files are, what the operator's table asks, what identifies it."""

import importlib.util
import json
import re
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from shoal.backends.tables import table_as
from shoal.backends.weights import digest
from shoal.errors import UsageError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WEIGHTS = "*.safetensors"
_PICKLED = ("*.bin", "*.pt", "*.pth")
_OF_THE_MODEL = ("*.json", "*.jinja", "*.model", "*.txt")  # small files: configuration, tokenizer, chat template


class Options(Struct, frozen=True):
    """`options` of an engine's table.

    `dtype` and `device` are PyTorch's words ("bfloat16", "cuda:1"); "auto" is what the weights are kept in, and the
    first of cuda, mps and cpu that is there. `batching` is "continuous", "bucketed" or "auto": continuous on CUDA where
    it does the model, else bucketed. `attention` is transformers' name of an implementation.
    `max_sequences` are decoded together; `context` lowers the model's own limit in tokens; `cache_gb` is what
    continuous batching keeps of prompts and replies (keys and values), in GB. `trust_remote_code` lets the model bring
    code of its own, `pickle` lets its weights be in files that can run code when read. `tool_call_parser` says how the
    model writes calls of tools where its tokenizer and its template do not.
    """

    dtype: str = "auto"
    device: str = "auto"
    batching: Literal["auto", "continuous", "bucketed"] = "auto"
    attention: str = "sdpa"
    max_sequences: Annotated[int, Meta(ge=1)] | None = None
    context: Annotated[int, Meta(ge=2)] | None = None
    cache_gb: Annotated[float, Meta(gt=0)] | None = None
    trust_remote_code: bool = False
    pickle: bool = False
    tool_call_parser: Literal["hermes", "llama3_json"] | None = None


class Source(Struct, frozen=True):
    """What is to be loaded: a model's directory, an adapter's where there is one, how, and the name to speak of it by.

    `identity` differs where answers may.
    """

    folder: Path
    adapter: Path | None
    options: Options
    name: str
    identity: str


def source(model: str, options: dict[str, Any], adapter: Path | None, name: str) -> Source:
    """Find the files of a directory or hub id. UsageError says what is missing; nothing is loaded or fetched."""
    chosen = table_as(Options, options, f"{name} options")
    versions = [f"{package} {_version(package)}" for package in ("transformers", "torch")]
    folder = _folder(model, name)
    _check_weights(folder, chosen, f"{name}: {model}")
    parts = [*versions, _digest(folder), chosen.dtype, chosen.attention]
    if chosen.tool_call_parser is not None:
        parts.append(f"calls {chosen.tool_call_parser}")
    if adapter is not None:
        _check_adapter(adapter, name)
        parts.append(f"lora {_digest(adapter)}")
    return Source(folder, adapter, chosen, name, "|".join(parts))


def written_defaults(folder: Path) -> dict[str, Any]:
    """How the model's makers would sample: what its generation_config.json says, if it says that it samples."""
    file = folder / "generation_config.json"
    try:
        says: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from None
    return says if says.get("do_sample") else {"eos_token_id": says.get("eos_token_id")}


def _folder(model: str, name: str) -> Path:
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if folder.exists() or not _HUB_ID.fullmatch(model):
            raise UsageError(f"{name}: {model} is neither a directory nor a hub id (owner/model)")
        folder = _downloaded(model, name)
    if not (folder / "config.json").is_file():
        raise UsageError(f"{name}: {folder} has no config.json; a model's directory is what save_pretrained writes")
    return folder


def _downloaded(hub_id: str, name: str) -> Path:
    """Where the hub's own cache has the model: what a run asks is not fetched in the middle of it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, ValueError):
        message = f"{name}: {hub_id} is no directory and not in the hub's cache; run: hf download {hub_id}"
        raise UsageError(message) from None


def _check_weights(folder: Path, options: Options, what: str) -> None:
    if any(folder.glob(_WEIGHTS)):
        return
    if not any(path for pattern in _PICKLED for path in folder.glob(pattern)):
        raise UsageError(f"{what} has no weights (*.safetensors)")
    if not options.pickle:
        message = "has pickled weights only, which can run code when read; save them as safetensors, or set"
        raise UsageError(f"{what} {message} options = {{ pickle = true }} in its [engines] table")


def _check_adapter(folder: Path, name: str) -> None:
    if importlib.util.find_spec("peft") is None:
        raise UsageError(f"{name}: an adapter needs PEFT: pip install peft")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / file).is_file():
            raise UsageError(f"{name}: {folder} has no {file}")


def _digest(folder: Path) -> str:
    """A fingerprint of a model's directory: its small files whole, its weights by size and samples."""
    fingerprint = blake2b(digest_size=16)
    for path in sorted({path for pattern in _OF_THE_MODEL for path in folder.glob(pattern)}):
        fingerprint.update(path.name.encode() + b"\0" + blake2b(path.read_bytes()).digest())
    for path in sorted({path for pattern in (_WEIGHTS, *_PICKLED) for path in folder.glob(pattern)}):
        fingerprint.update(path.name.encode() + b"\0" + digest(path).encode())
    return fingerprint.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise UsageError("transformers models need their engine: pip install 'shoal[transformers]'") from None
