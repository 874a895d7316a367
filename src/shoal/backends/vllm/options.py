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
# Ours, in the words of `vllm serve`: how replies are read is no matter of its engine.
_TOOL_CALLS = "tool_call_parser"
_THOUGHTS = "reasoning_parser"
_PARSERS = {_TOOL_CALLS: "tool_parsers", _THOUGHTS: "reasoning"}  # by option, where vLLM keeps them
_STRUCTURED = "structured_outputs_config"
_HEAD = "lm_head"
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM makes room for


class Read(Struct, frozen=True):
    """The options that are read here, too; vLLM checks the others, when it has started."""

    revision: str | None = None
    max_num_seqs: Annotated[int, Meta(ge=1)] | None = None
    max_logprobs: Annotated[int, Meta(ge=-1)] = 20
    lora_target_modules: list[str] | None = None
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    structured_outputs_config: dict[str, Any] = {}


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
    def engine_options(self) -> dict[str, Any]:
        """What of the options vLLM's engine is started with."""
        options = {option: value for option, value in self.options.items() if option != _TOOL_CALLS}
        if _STRUCTURED in options and _THOUGHTS in options:  # vLLM takes the two together in one place only
            options[_STRUCTURED] = {**options[_STRUCTURED], _THOUGHTS: options.pop(_THOUGHTS)}
        return options

    @property
    def tool_call_parser(self) -> str | None:
        return self.options.get(_TOOL_CALLS)

    @property
    def reasoning_parser(self) -> str | None:
        name: str | None = self.options.get(_THOUGHTS) or self.options.get(_STRUCTURED, {}).get(_THOUGHTS)
        return name

    @property
    def can_score(self) -> bool:
        """Whether a prompt's own log-probabilities are to be had: vLLM fails over them beside adapters of the head."""
        return not self.adapters or _HEAD not in self.options.get("lora_target_modules", [_HEAD])


def checked(loading: Loading) -> Read:
    """What is read here of a table's options. UsageError names one that vLLM does not know, or with a wrong value."""
    known = _fields() | {_TOOL_CALLS}
    for option in loading.options:
        if option in _NOT_OPTIONS:
            raise UsageError(f"{loading.name}: {option} is no option: {_NOT_OPTIONS[option]}")
        if option not in known:
            raise UsageError(f"{loading.name}: vLLM has no option {option!r}; {did_you_mean(option, known)}")
    try:
        read = msgspec.convert(loading.options, Read)
    except msgspec.ValidationError as error:
        raise UsageError(f"{loading.name} options: {error}") from None
    for option, place in _PARSERS.items():
        name, names = getattr(read, option), _parsers(place)
        if name is not None and names and name not in names:
            raise UsageError(f"{loading.name}: vLLM has no {option} {name!r}; {did_you_mean(name, names)}")
    return read


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
    """The names of vLLM's engine arguments."""
    tree = _source("engine/arg_utils.py")
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("EngineArgs")]
    fields = [part.target for node in classes for part in node.body if isinstance(part, ast.AnnAssign)]
    return frozenset(field.id for field in fields if isinstance(field, ast.Name) and not field.id.startswith("_"))


@cache
def _parsers(place: str) -> frozenset[str]:
    """The names of the parsers that vLLM keeps in one of its packages; none where it keeps them in another way."""
    tables = [node.value for node in _source(f"{place}/__init__.py").body if isinstance(node, ast.Assign)]
    keys = [key for table in tables if isinstance(table, ast.Dict) for key in table.keys]
    return frozenset(key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


def _source(path: str) -> ast.Module:
    """A file of vLLM's, read and not imported: that takes seconds."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    place = next(iter(spec.submodule_search_locations or ()))
    file = Path(place) / path
    return ast.parse(file.read_bytes() if file.is_file() else b"")
