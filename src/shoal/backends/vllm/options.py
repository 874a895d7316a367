"""What vLLM is started with: a table's options, checked, and what of them changes the answers."""

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from shoal.backends.engines import Loading
from shoal.errors import UsageError, did_you_mean

# Said elsewhere in a table, or nothing to do with one engine and a model that is on this machine.
_NOT_OPTIONS = {
    "model": "a key of the table",
    "enable_lora": "a key of the table, lora",
    "data_parallel_size": "serve the model with vllm serve, or several behind a router, and name that as an endpoint",
    "hf_token": "for downloads; a model is loaded from this machine",
    "download_dir": "for downloads; a model is loaded from this machine",
}
# Where and how fast the same answers are made.
_PLACEMENT = frozenset(
    {
        *("tensor_parallel_size", "pipeline_parallel_size", "distributed_executor_backend"),
        *("gpu_memory_utilization", "kv_cache_memory_bytes", "max_num_seqs", "max_num_batched_tokens", "device_ids"),
        *("enforce_eager", "enable_prefix_caching", "enable_chunked_prefill", "async_scheduling", "scheduling_policy"),
        *(
            "max_loras",
            "max_lora_rank",
            "max_cpu_loras",
            "lora_target_modules",
            "load_format",
            "use_tqdm_on_load",
            "disable_log_stats",
        ),
    }
)
_HEAD = "lm_head"
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM makes room for


class Read(Struct, frozen=True):
    """The options that are read here, too; vLLM checks the others, when it has started."""

    revision: str | None = None
    max_num_seqs: Annotated[int, Meta(ge=1)] | None = None
    max_logprobs: Annotated[int, Meta(ge=-1)] = 20
    lora_target_modules: list[str] | None = None


class Setup(Struct, frozen=True):
    """An engine's model, its adapters by name, and its options: equal ones are one engine."""

    model: str
    options: dict[str, Any]
    adapters: dict[str, str]

    def identity(self) -> str:
        """What of the options changes the answers, as text."""
        telling = {option: value for option, value in self.options.items() if option not in _PLACEMENT}
        return msgspec.json.encode(telling, order="sorted").decode()

    @property
    def can_score(self) -> bool:
        """Whether a prompt's own log-probabilities are to be had: vLLM fails over them beside adapters of the head."""
        return not self.adapters or _HEAD not in self.options.get("lora_target_modules", [_HEAD])


def checked(loading: Loading) -> Read:
    """What is read here of a table's options. UsageError names one that vLLM does not know, or with a wrong value."""
    known = _fields()
    for option in loading.options:
        if option in _NOT_OPTIONS:
            raise UsageError(f"{loading.name}: {option} is no option: {_NOT_OPTIONS[option]}")
        if option not in known:
            raise UsageError(f"{loading.name}: vLLM has no option {option!r}; {did_you_mean(option, known)}")
    try:
        return msgspec.convert(loading.options, Read)
    except msgspec.ValidationError as error:
        raise UsageError(f"{loading.name} options: {error}") from None


def setup(path: Path, loading: Loading) -> Setup:
    """What to start the engine with, of options that have been checked."""
    options = dict(loading.options)
    options.pop("revision", None)  # says which download is meant, and is read by then
    if loading.adapters:
        options.setdefault("max_loras", len(loading.adapters))
        options |= _room(loading) | options
    adapters = {name: str(adapter.absolute()) for name, adapter in loading.adapters.items()}
    return Setup(str(path.absolute()), options, adapters)


class _Adapter(Struct):
    """What PEFT's adapter_config.json says; a text of modules is a pattern."""

    r: int
    target_modules: list[str] | str | None = None


def _room(loading: Loading) -> dict[str, Any]:
    """Options that make room for all adapters: their rank, as vLLM has ranks, and the modules that they change."""
    about = [_adapter(adapter, f"{loading.name}: lora.{name}") for name, adapter in loading.adapters.items()]
    rank = max(adapter.r for adapter in about)
    room: dict[str, Any] = {"max_lora_rank": next((size for size in _RANKS if size >= rank), rank)}
    named = [adapter.target_modules for adapter in about if isinstance(adapter.target_modules, list)]
    if len(named) == len(about):
        room["lora_target_modules"] = sorted({module for modules in named for module in modules})
    return room


def _adapter(adapter: Path, where: str) -> _Adapter:
    try:
        return msgspec.json.decode((adapter / "adapter_config.json").read_bytes(), type=_Adapter)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{where}: {adapter} is no LoRA adapter: adapter_config.json: {error}") from None


@cache
def _fields() -> frozenset[str]:
    """The names of vLLM's engine arguments, read off its source: importing it takes seconds."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    place = next(iter(spec.submodule_search_locations or ()))
    tree = ast.parse((Path(place) / "engine" / "arg_utils.py").read_bytes())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("EngineArgs")]
    fields = [part.target for node in classes for part in node.body if isinstance(part, ast.AnnAssign)]
    return frozenset(field.id for field in fields if isinstance(field, ast.Name) and not field.id.startswith("_"))
