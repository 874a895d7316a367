"""`model_args`: how a prompt of a batch is sampled, how often, and by which model."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct, structs

from shoal.batch.rows import Row
from shoal.batch.tables import plain, rows_of
from shoal.errors import UsageError, did_you_mean
from shoal.runtime.types import Json, Request, SamplingParams

_OTHERS = ("model", "n", "tools")


class Settings(Struct, frozen=True):
    """One of the `model_args`: `given` as it was written, and what it means."""

    given: Row
    params: SamplingParams
    n: int = 1
    model: str | None = None
    tools: tuple[Json, ...] = ()

    def of(self, request: Request) -> Request:
        """The request, sampled so."""
        return structs.replace(request, params=self.params, tools=self.tools)

    def resolved(self, model: str) -> Row:
        """Everything that is asked for, as plain data; what is not there is the model's own default."""
        params = plain(msgspec.to_builtins(self.params))
        for name in ("json_schema", "extra"):
            if (value := getattr(self.params, name)) is not None:
                params[name] = value.value()
        asked = {"model": model, "n": self.n, **params}
        return asked | {"tools": [tool.value() for tool in self.tools]} if self.tools else asked


def settings_of(model_args: Any) -> list[Settings]:
    """The settings in `model_args`: one dict, or a list or table of them. UsageError names what is wrong where."""
    if model_args is None:
        return [Settings({}, SamplingParams())]
    if isinstance(model_args, Mapping):
        return [_settings(plain(model_args), "model_args")]
    return [_settings(row, f"model_args[{i}]") for i, row in enumerate(rows_of(model_args, "model_args"))]


def _settings(given: Row, where: str) -> Settings:
    known = (*_OTHERS, *SamplingParams.__struct_fields__)
    for name in given:
        if name not in known:
            advice = "further fields of the wire go in extra={...}"
            raise UsageError(f"{where}: unknown {name!r}; {did_you_mean(name, known)} {advice}")
    args = {name: value for name, value in given.items() if value is not None}
    n, model, tools = args.pop("n", 1), args.pop("model", None), args.pop("tools", [])
    if type(n) is not int or n < 1:
        raise UsageError(f"{where}: n must be a whole number of at least 1, not {n!r}")
    if not isinstance(model, str | None):
        raise UsageError(f"{where}: model must be a spec, not {model!r}")
    return Settings(given, _params(args, where), n, model, tuple(map(Json.of, tools)))


def _params(args: Row, where: str) -> SamplingParams:
    frozen = {name: Json.of(args.pop(name)) for name in ("json_schema", "extra") if name in args}
    if isinstance(args.get("stop"), str):
        args["stop"] = [args["stop"]]
    if type(args.get("logprobs")) is int:  # the text-completions API's spelling: how many alternatives
        args["top_logprobs"] = max(args["logprobs"], args.get("top_logprobs", 0))
        args["logprobs"] = True
    try:
        params = msgspec.convert(args, SamplingParams)
        return structs.replace(params, **frozen)
    except (msgspec.ValidationError, UsageError) as error:
        raise UsageError(f"{where}: {error}") from None
