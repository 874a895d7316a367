"""What the server is told: its tables of the configuration, and what the command line puts over them.

[server]
models = ["local", "openai/gpt-x"]   # what is served; default: local
host = "127.0.0.1"                   # another address needs keys
port = 8000
max_calls = 128                      # what one request may spend; a request may ask for less, never for more
max_tokens = 1_000_000
max_seconds = 600
cache = "off"                        # or "key": the draws of each key's requests are kept; "shared": of all together
state = "~/.local/state/shoal/server" # files, batches, what keys spent today; "" for none
max_file = 200_000_000               # bytes of one file, and of all files of a key
max_stored = 10_000_000_000

metrics = "key"                      # /metrics asks for a key where there are keys; or "open", "off"
log_format = "text"                  # or "json"
log_content = false                  # whether what is asked and answered is logged

[server.keys.alice]                  # printed by `shoal key alice`
sha256 = "9f86d0..."
rpm = 60
tokens_per_day = 1_000_000

[presets.careful]                    # a model of its own by that name
model = "self_consistency(n=8)@local"
system = "Answer in one sentence."
temperature = 0.7

[prices."openai/gpt-x"]              # dollars a million tokens
input = 0.15
output = 0.60
"""

import os
import re
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from shoal.backends.config import Config
from shoal.backends.prices import Price, prices_of
from shoal.backends.tables import table_as, tables_as
from shoal.errors import UsageError

Positive = Annotated[int, Meta(ge=1)]
HOST = re.compile(r"[\w.-]+|[0-9A-Fa-f:.]+", re.ASCII)
KEY_NAME = r"[A-Za-z0-9_-]{1,64}"
KEY_NAME_RULE = "a key's name is of 1 to 64 letters, digits, - and _"


class KeySettings(Struct, frozen=True):
    """What the holder of a key may do; None and () mean no limit but the server's own.

    `sha256` is the hexadecimal digest of the key, which itself is kept nowhere. `models` are names as a client gives
    them: a base stands for all techniques on it, a preset or a model with techniques for itself as it is. `techniques`
    are slugs; an empty list allows none. `rpm` requests and `tpm` tokens a minute, `tokens_per_day` tokens in a day of
    UTC, `max_in_flight` requests at once. `metrics` is whether the key opens /metrics; by default one that is not
    limited to some models does.
    """

    sha256: str
    models: tuple[str, ...] = ()
    techniques: tuple[str, ...] | None = None
    rpm: Positive | None = None
    tpm: Positive | None = None
    tokens_per_day: Positive | None = None
    max_in_flight: Positive = 64
    metrics: bool | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-fA-F]{64}", self.sha256):
            raise ValueError("sha256 must be the 64 hexadecimal digits that `shoal key NAME` prints, not a key")
        if self.sha256.lower() == sha256(b"").hexdigest():
            raise ValueError("sha256 is that of no key at all; make one with `shoal key NAME`")


class Preset(Struct, frozen=True):
    """A model with a name, and what its requests say where the client does not."""

    model: str
    system: str | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    max_tokens: Positive | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    description: str = ""


class Tables(Struct, frozen=True):
    """The [server] table. Seconds, bytes, tokens; see the module's head and docs/server.md."""

    models: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    cache: Literal["off", "key", "shared"] = "off"
    max_calls: Positive = 128
    max_tokens: Positive = 1_000_000
    max_seconds: Annotated[float, Meta(gt=0)] = 600.0
    max_body: Positive = 32 << 20
    max_messages: Positive = 2048
    max_n: Positive = 16
    state: str = ""
    max_file: Positive = 200_000_000
    max_stored: Positive = 10_000_000_000
    metrics: Literal["key", "open", "off"] = "key"
    log_format: Literal["text", "json"] = "text"
    log_content: bool = False
    keys: dict[str, KeySettings] = {}


class Settings(Tables, frozen=True):
    """All the server is told."""

    presets: dict[str, Preset] = {}
    prices: dict[str, Price] = {}


def default_state_path() -> str:
    """`shoal/server` in the user's state directory."""
    return str(Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "shoal" / "server")


def settings_of(config: Config) -> Settings:
    """The server's settings in a configuration; UsageError names the key that is wrong."""
    tables = dict(config.server)
    where = f"{config.file} ["
    keys = tables.pop("keys", {})
    tables.setdefault("state", default_state_path())
    given = table_as(Tables, tables, f"{where}server]")
    for origin in given.origins:
        if not _is_origin(origin):
            raise UsageError(
                f"{where}server]: origins: {origin!r} is not of the form https://host or https://host:port"
            )
    for host in given.hosts:
        if not HOST.fullmatch(host):
            raise UsageError(f"{where}server]: hosts: {host!r} is not a name or address alone, like lab.example")
    for name in keys if isinstance(keys, dict) else ():
        if not re.fullmatch(KEY_NAME, name):
            raise UsageError(f"{where}server.keys.{name}]: {KEY_NAME_RULE}")
    read = tables_as(KeySettings, _table_of(keys, f"{where}server.keys]"), f"{where}server.keys")
    _refuse_twice(read, f"{where}server.keys")
    for name in config.presets:
        if not name or "@" in name or "/" in name:
            raise UsageError(f"{where}presets.{name}]: a preset's name is not empty and holds no @ and no /")
        if name in config.models:
            raise UsageError(f"{where}presets.{name}]: {name} is one of [models] too; choose another name")
    return Settings(
        **{name: getattr(given, name) for name in Tables.__struct_fields__ if name != "keys"},
        keys=read,
        presets=tables_as(Preset, config.presets, f"{where}presets"),
        prices=prices_of(config),
    )


def _refuse_twice(keys: dict[str, KeySettings], where: str) -> None:
    """A key in two tables would be held to the limits of one of them."""
    first: dict[str, str] = {}
    for name, key in keys.items():
        other = first.setdefault(key.sha256.lower(), name)
        if other != name:
            raise UsageError(f"{where}.{name}]: sha256 is that of {other}, too; make another key with `shoal key`")


def _table_of(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: must be tables, one for each key")
    return value


def _is_origin(text: str) -> bool:
    """Whether a text is what a browser sends as `Origin`: scheme and host, nothing after them, in lower case."""
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.scheme in ("http", "https") and f"{parts.scheme}://{parts.netloc}" == text
    except ValueError:
        return False
