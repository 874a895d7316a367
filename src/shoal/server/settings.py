"""What the server is told: its tables of the configuration, and what the command line puts over them.

[server]
models = ["local", "openai/gpt-x"]   # what is served; default: local
host = "127.0.0.1"                   # another address needs keys
port = 8000
max_calls = 128                      # what one request may spend; a request may ask for less, never for more
max_tokens = 1_000_000
max_seconds = 600
cache = "off"                        # or "key": the draws of each key's requests are kept; "shared": of all together
state = "~/.local/state/shoal/server" # where files and batches are kept; "" for none
max_file = 200_000_000               # bytes of one file, and of all files of a key
max_stored = 10_000_000_000

[server.keys.alice]                  # printed by `shoal key alice`
sha256 = "9f86d0..."

[presets.careful]                    # a model of its own by that name
model = "self_consistency(n=8)@local"
system = "Answer in one sentence."
temperature = 0.7

[prices."openai/gpt-x"]              # dollars a million tokens
input = 0.15
output = 0.60
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from shoal.backends.config import Config
from shoal.backends.tables import table_as, tables_as

Positive = Annotated[int, Meta(ge=1)]
Amount = Annotated[float, Meta(ge=0)]


class KeySettings(Struct, frozen=True):
    """What the holder of a key may do; None and () mean no limit but the server's own.

    `sha256` is the hexadecimal digest of the key, which itself is kept nowhere. `models` are names as a client gives
    them (a base stands for all techniques on it), `techniques` slugs. `rpm` requests and `tpm` tokens a minute,
    `tokens_per_day` tokens in a day of UTC, `max_in_flight` requests at once.
    """

    sha256: str
    models: tuple[str, ...] = ()
    techniques: tuple[str, ...] | None = None
    rpm: Positive | None = None
    tpm: Positive | None = None
    tokens_per_day: Positive | None = None
    max_in_flight: Positive | None = None


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


class Price(Struct, frozen=True):
    """Dollars a million tokens."""

    input: Amount
    output: Amount


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
    return Settings(
        **{name: getattr(given, name) for name in Tables.__struct_fields__ if name != "keys"},
        keys=tables_as(KeySettings, keys, f"{where}server.keys"),
        presets=tables_as(Preset, config.presets, f"{where}presets"),
        prices=tables_as(Price, config.prices, f"{where}prices"),
    )
