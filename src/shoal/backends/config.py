"""Where models are: endpoints named in `shoal.toml` or by environment variables, and routers over them.

[endpoints.lab]
base_url = "http://10.0.0.7:8000/v1"
api_key = "${LAB_KEY}"      # taken from the environment, never written here
rpm = 600
tpm = 200_000
max_in_flight = 256

[models.small]              # one name for several
endpoints = ["lab/qwen", { model = "openai/gpt-x", fallback = true }]
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, structs

from shoal.backends.routing import PROVIDERS, Routing, routing
from shoal.backends.tables import known_keys, tables_as
from shoal.errors import UsageError

CONFIG_FILE = "shoal.toml"
OPENAI_URL = "https://api.openai.com/v1"
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_Above0 = Annotated[float, Meta(gt=0)]
_Whole = Annotated[int, Meta(ge=1)]


class Endpoint(Struct, frozen=True):
    """A server: where it is, how to get in, and what it allows.

    `api_key` never shows in a repr. `queries_per_batch` is how many bare prompts go in one request, `max_n` how many
    draws of one prompt (1 for a server that refuses `n`; one that ignores it is found out); `constraints` says
    whose server it is ("vllm", "llamacpp" or neither): how it spells what the API has no words for. `batch_price` is
    what a token costs by its batch API, as a part of what it costs otherwise.
    """

    base_url: str
    api_key: str | None = None
    rpm: _Above0 | None = None
    tpm: _Above0 | None = None
    max_in_flight: _Whole | None = None
    queries_per_batch: _Whole = 1
    constraints: Literal["vllm", "llamacpp"] | None = None
    timeout: _Above0 = 600.0
    max_n: _Whole = 128
    batch_price: Annotated[float, Meta(gt=0, le=1)] = 0.5

    def __repr__(self) -> str:
        return f"Endpoint({self.base_url!r})"


class Config(Struct, frozen=True):
    """What a configuration file says. `server`, `presets` and `prices` are read by those who know them."""

    endpoints: dict[str, Endpoint] = {}
    models: dict[str, Routing] = {}
    server: dict[str, Any] = {}
    presets: dict[str, Any] = {}
    prices: dict[str, Any] = {}
    file: str = CONFIG_FILE


def load_config(path: Path | None = None) -> Config:
    """The configuration in `path`, else in `$SHOAL_CONFIG`, else in ./shoal.toml where there is one."""
    named = path or (Path(os.environ["SHOAL_CONFIG"]) if os.environ.get("SHOAL_CONFIG") else None)
    file = named or Path(CONFIG_FILE)
    if not file.exists():
        if named:
            raise UsageError(f"no configuration file {file}")
        return Config()
    try:
        data = tomllib.loads(file.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: {error}") from None
    known_keys(data, _SECTIONS, str(file))
    for section, table in data.items():
        if not isinstance(table, dict):
            raise UsageError(f"{file}: {section} must be tables, [{section}...]")
    for name in data.get("endpoints", {}):
        if name in PROVIDERS and name != "openai":  # whose address and key may be said here
            raise UsageError(f"{file} [endpoints.{name}]: {name} means something else; choose another name")
    return Config(
        tables_as(Endpoint, data.get("endpoints", {}), f"{file} [endpoints"),
        {name: routing(name, table, f"{file} [models.{name}]") for name, table in data.get("models", {}).items()},
        data.get("server", {}),
        data.get("presets", {}),
        data.get("prices", {}),
        str(file),
    )


_SECTIONS = ("endpoints", "models", "server", "presets", "prices")


def _expand(value: str, where: str) -> str:
    """`${NAME}` becomes the environment variable NAME, when the endpoint is used and not before."""

    def variable(match: re.Match[str]) -> str:
        try:
            return os.environ[match[1]]
        except KeyError:
            raise UsageError(f"{where}: the environment has no variable {match[1]}") from None

    return _VARIABLE.sub(variable, value)


def endpoint_named(name: str, config: Config) -> Endpoint | None:
    """The endpoint of that name: from the configuration, else from NAME_BASE_URL and NAME_API_KEY."""
    if name in config.endpoints:
        endpoint = config.endpoints[name]
        where = f"{config.file} [endpoints.{name}]"
        api_key = _expand(endpoint.api_key, f"{where} api_key") if endpoint.api_key else None
        return structs.replace(endpoint, base_url=_expand(endpoint.base_url, f"{where} base_url"), api_key=api_key)
    prefix = re.sub(r"\W", "_", name).upper()
    base_url = os.environ.get(f"{prefix}_BASE_URL")
    api_key = os.environ.get(f"{prefix}_API_KEY") or None
    if name == "openai":
        return Endpoint(base_url or OPENAI_URL, api_key)
    return Endpoint(base_url, api_key) if base_url else None


def without_keys(config: Config) -> Config:
    """The same places, opened without anybody's key: for looking at what would be asked, never for asking."""
    openai = config.endpoints.get("openai") or Endpoint(os.environ.get("OPENAI_BASE_URL") or OPENAI_URL)
    places = config.endpoints | {"openai": openai}
    endpoints = {name: structs.replace(endpoint, api_key="unused") for name, endpoint in places.items()}
    return structs.replace(config, endpoints=endpoints)
