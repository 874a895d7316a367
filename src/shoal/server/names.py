"""From the name of a model, as a client gives it, to the Model: a base, techniques on one, or a preset.

A name that is a model the server has is that model, whatever it looks like. Otherwise it is read as a spec
(`self_consistency(n=8)@base`), and then in optillm's way (`moa-base`, `a&b-base`). Bases are those the operator named:
no name a client gives opens a file, a script or a server of its own choosing.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from shoal.backends import BaseModel
from shoal.errors import UsageError, did_you_mean
from shoal.runtime.cache import DrawCache
from shoal.runtime.model import Applied, Model
from shoal.server.optillm import spec_of
from shoal.server.refusals import Refusal, invalid, unknown_model
from shoal.server.settings import Preset
from shoal.techniques import TECHNIQUES
from shoal.techniques.configuring import configured, stages
from shoal.techniques.opening import bases, open_model
from shoal.techniques.opening import names as parts_of
from shoal.techniques.spec import parse_spec

_LONGEST = 512
_LONGEST_OPTIONS = 4096
_MOST_STAGES = 8
_MOST_BRACKETS = 32
_KEPT = 1024  # readings of names that are kept


class Served(Struct, frozen=True):
    """What a name stands for. `base` is the model itself where no technique is on it, `slugs` name those that are."""

    name: str
    model: Model
    base: BaseModel | None = None
    base_name: str = ""
    technique: str | None = None
    slugs: tuple[str, ...] = ()
    preset: Preset | None = None


class Names:
    """The models that are served, by their names."""

    def __init__(self, models: Mapping[str, BaseModel | Applied], presets: Mapping[str, Preset]) -> None:
        self._models = {**_short_names(models), **models}
        self._presets = presets
        self._read: dict[str, Served] = {}
        self._own = dict(models)
        self.hints = True  # whether who asks for an unknown model is told of those there are
        for name, preset in presets.items():
            try:
                self.resolve(name)
            except Refusal as refusal:
                raise UsageError(f"[presets.{name}] model = {preset.model!r}: {refusal}") from None

    @property
    def own(self) -> list[str]:
        """The names of the models as the operator gave them, and of the presets."""
        return [*self._own, *self._presets]

    def bases(self) -> dict[str, BaseModel]:
        """Those of the models on which techniques can be put."""
        return {name: model for name, model in self._own.items() if isinstance(model, BaseModel)}

    def all_bases(self) -> Iterator[BaseModel]:
        """Every base model that some name comes down to, each once."""
        return bases(list(self._own.values()))

    def listed(self) -> list[str]:
        """What `GET /v1/models` tells: the models, and every technique on each base."""
        return [*self.own, *(f"{slug}@{base}" for base in self.bases() for slug in TECHNIQUES)]

    def resolve(self, name: str, technique: str | None = None, options: Mapping[str, Any] | None = None) -> Served:
        """What a request means by a name, with a technique and options that its body gives.

        Raises Refusal: 404 for a model that is not served, 400 for a technique or option that does not exist.
        """
        served = self._resolve(f"{spec_of(technique)}@{self._canonical(name)}" if technique else name)
        if options:
            _check_size(options)
            try:
                model = configured(served.model, options, self._open)
            except UsageError as error:
                raise invalid(str(error)) from None
            return _served(served.name, model, served.preset)
        return served

    def _resolve(self, name: str) -> Served:
        if name not in self._read:
            if len(self._read) >= _KEPT:
                self._read.clear()
            self._read[name] = self._reading(name)
        return self._read[name]

    def _reading(self, name: str) -> Served:
        if name in self._presets:
            preset = self._presets[name]
            if preset.model in self._presets:
                raise invalid("a preset's model is a spec, not a preset")
            return _served(name, self._reading(preset.model).model, preset)
        if name in self._models:
            return _served(name, self._models[name], None)
        if (
            len(name) > _LONGEST
            or sum(name.count(sign) for sign in "@&|") > _MOST_STAGES
            or name.count("(") > _MOST_BRACKETS
        ):
            raise invalid(
                f"The model's name is longer than {_LONGEST} characters or {_MOST_STAGES} techniques", "model"
            )
        try:
            return _served(name, parse_spec(self._canonical(name), self._open), None)
        except Refusal:
            raise
        except UsageError as error:
            raise invalid(str(error), "model") from None

    def _open(self, base: str) -> Model:
        if base not in self._models:
            raise unknown_model(
                base, did_you_mean(base, self.own) if self.hints else "GET /v1/models lists those there are"
            )
        return self._models[base]

    def _canonical(self, name: str) -> str:
        """optillm's `techniques-base` as a spec, where what follows a dash is a model that the server has."""
        if "@" in name or name in self._models:
            return name
        for i, character in enumerate(name):
            if character == "-" and name[i + 1 :] in self._models:
                return f"{spec_of(name[:i])}@{name[i + 1 :]}" if name[:i] != "none" else name[i + 1 :]
        return name


def _check_size(options: Mapping[str, Any]) -> None:
    """Options hold specs, too, and are no longer than a name that would hold them."""
    written = msgspec.json.encode(options)
    if len(written) > _LONGEST_OPTIONS or sum(map(written.count, (b"@", b"&", b"|", b"("))) > _MOST_BRACKETS:
        raise invalid(f"The techniques' options are longer than {_LONGEST_OPTIONS} characters, or too much is in them")


def _served(name: str, model: Model, preset: Preset | None) -> Served:
    if isinstance(model, BaseModel):
        return Served(name, model, model, model.name, preset=preset)
    base, technique = parts_of(model)
    return Served(name, model, None, base, technique, tuple(slug for slug, _ in stages(model)), preset)


def _short_names(models: Mapping[str, BaseModel | Applied]) -> dict[str, BaseModel | Applied]:
    """`openai/gpt-x` is `gpt-x`, too, unless two models would be."""
    short: dict[str, list[str]] = {}
    for name, model in models.items():
        if isinstance(model, BaseModel) and "/" in name:
            short.setdefault(name.partition("/")[2], []).append(name)
    return {name: models[full[0]] for name, full in short.items() if len(full) == 1}


def open_models(specs: Iterable[str], config: Any, cache: DrawCache | None) -> dict[str, BaseModel | Applied]:
    """The models that specs name. A base that several of them use is opened once."""
    opened: dict[str, BaseModel] = {}
    models: dict[str, BaseModel | Applied] = {}
    for spec in specs:
        model = parse_spec(spec, lambda base: _opened_once(base, config, cache, opened))
        assert isinstance(model, BaseModel | Applied)
        models[spec] = model
    return models


def _opened_once(base: str, config: Any, cache: DrawCache | None, opened: dict[str, BaseModel]) -> BaseModel:
    if base not in opened:
        model = open_model(base, config=config, cache=cache)
        assert isinstance(model, BaseModel)
        opened[base] = model
    return opened[base]
