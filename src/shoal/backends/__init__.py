"""Opening a base model: the backend its name stands for, behind scheduler, budget, cache, journal and trace."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from msgspec import structs

from shoal.backends.config import OPENAI_URL, Config, Endpoint, endpoint_named
from shoal.backends.engines import loading
from shoal.backends.member import Member
from shoal.backends.prices import NoPrice, Price, prices_of, rates_of
from shoal.backends.router import Router
from shoal.backends.routing import PROVIDERS, Route
from shoal.errors import Unsupported, UsageError, did_you_mean
from shoal.runtime import dry
from shoal.runtime.backend import Backend, CountsTokens, Embeds, refuse_unsupported, scores
from shoal.runtime.budget import Budgeted, Rates, Tariff
from shoal.runtime.cache import Cached, DrawCache
from shoal.runtime.frames import placed
from shoal.runtime.limits import Limits
from shoal.runtime.model import Model, Observed
from shoal.runtime.registry import current
from shoal.runtime.replay import Online, Recorded
from shoal.runtime.retry import RetryBudget, RetryPolicy, retried
from shoal.runtime.scheduler import Scheduler
from shoal.runtime.types import Completion, Request

if TYPE_CHECKING:
    from shoal.backends.relay import Relays
    from shoal.backends.waves import WaveScheduler


class BaseModel:
    """A Model over a backend: what `open_model` gives where no technique is named.

    From the outside in: trace, journal, cache, budget, scheduler, backend. A journalled or cached draw costs nothing
    and reaches no further. `scheduler` has the counters, `limits` what the endpoint allows; `relay` passes requests on
    to the server as they are, where there is one. A router over several models is scheduler and backend in one.
    `discount` is what a token costs as it is asked for here, as a part of its price: 1.0, but `batch_price` where
    calls go by the provider's batch API, with `waves` as the scheduler; so many of these as `tail_live` says may be
    asked live all the same. `prices` are those of the configuration.
    """

    relay: "Relays | None" = None
    waves: "WaveScheduler | None" = None
    discount = 1.0
    batch_price = 0.5
    tail_live = 0
    prices: Mapping[str, Price] = MappingProxyType({})

    def __init__(
        self,
        backend: Backend | Router,
        *,
        cache: DrawCache | None = None,
        limits: Limits | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.backend: Backend | Router = backend
        self.name = backend.name
        self.cache = cache
        self.limits = limits or Limits()
        self._rates: Rates | None = None
        self._retry = retry or RetryPolicy()
        self._retry_budget = RetryBudget()
        if isinstance(backend, Router):
            self.limits = backend.limits
            self.stand_on(backend)
        else:
            self.stand_on(Scheduler(backend, limits=self.limits, retry=retry))

    def stand_on(self, scheduler: Scheduler | Router) -> None:
        """Ask by this scheduler from here on: one of the same backend's, whose answers pass for each other's."""
        self.scheduler = scheduler
        model: Model = Online(Budgeted(scheduler, self.tariff), self.name)
        if self.cache is not None:
            model = Cached(model, self.cache, self.backend.identity)
        self._model = Observed(Recorded(model, self.backend.identity), self.name)

    async def __call__(self, request: Request | str, /) -> Completion:
        if isinstance(request, str):
            request = Request.of(request)
        refuse_unsupported(request, self.backend.capabilities, self.name)
        standing_in = dry.stand_in.get()
        return await (self._model if standing_in is None else standing_in(self))(placed(request))

    def tariff(self, request: Request | None = None) -> Tariff:
        """What a call costs, at the most where it depends. UsageError where no price is known, saying how to give one.

        A call that may be asked live all the same, as those of a tail and those that score a reply, is so dear.
        """
        if self._rates is None:
            rates = rates_of(self, self.prices)
            if isinstance(rates, NoPrice):
                raise UsageError(f"a budget in dollars needs prices: {rates.reason}")
            self._rates = rates
        live = self.tail_live or request is None or scores(request)
        return Tariff(self._rates, by_batch=self.discount < 1.0 and not live)

    def with_cache(self, cache: DrawCache | None) -> "BaseModel":
        """A model over the same backend that keeps its draws in `cache`, if any. Whoever made the backend closes it."""
        model = BaseModel(self.backend, cache=cache, limits=self.limits, retry=self._retry)
        model.discount, model.batch_price, model.tail_live = self.discount, self.batch_price, self.tail_live
        model.prices = self.prices
        return model

    def register(self) -> None:
        """Make this the model that built-ins ask, in the registry that holds here."""
        current().register(self)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector a text, in order. Raises Unsupported where the backend has none. Not cached, not budgeted."""
        can = self.backend.capabilities
        if not can.embed:
            raise Unsupported(f"{self.name} cannot do embeddings")
        if (standing_in := dry.stand_in.get()) is not None:
            return await standing_in(self).embed(texts)
        embed = cast(Embeds, self.backend).embed
        vectors: list[list[float]] = []
        for start in range(0, len(texts), can.max_embed):
            part = texts[start : start + can.max_embed]
            vectors += await retried(partial(embed, part), self._retry, self._retry_budget)
        return vectors

    async def count_tokens(self, request: Request | str) -> int:
        """The tokens of the prompt as the model sees it, chat template included. Raises Unsupported where unknown."""
        if isinstance(request, str):
            request = Request.of(request)
        if not self.backend.capabilities.count_tokens:
            raise Unsupported(f"{self.name} cannot count tokens")
        refuse_unsupported(request, self.backend.capabilities, self.name)
        if (standing_in := dry.stand_in.get()) is not None:
            return await standing_in(self).count_tokens(request)
        count = cast(CountsTokens, self.backend).count_tokens
        return await retried(lambda: count(request), self._retry, self._retry_budget)

    async def aclose(self) -> None:
        """Let the backend's connections or engine go."""
        await self.backend.aclose()

    def __repr__(self) -> str:
        return self.name


def open_base(
    spec: str,
    config: Config,
    *,
    cache: DrawCache | None = None,
    max_in_flight: int | None = None,
    retry: RetryPolicy | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    queries_per_batch: int | None = None,
) -> BaseModel:
    """The model a base spec names; UsageError names what is unknown. Nothing is loaded or connected yet."""
    if spec in config.models:
        if base_url is not None:
            raise UsageError(f"model {spec!r} is several models; base_url is for one")
        model = _routed(spec, config, cache, max_in_flight, retry, queries_per_batch)
    else:
        of_all = Route(spec, max_in_flight=max_in_flight)
        given = Endpoint(base_url, api_key) if base_url else None
        model = _one(of_all, config, given=given, cache=cache, retry=retry, queries_per_batch=queries_per_batch)
    model.prices = prices_of(config)
    return model


def _one(
    route: Route,
    config: Config,
    *,
    given: Endpoint | None = None,
    cache: DrawCache | None = None,
    retry: RetryPolicy | None = None,
    queries_per_batch: int | None = None,
) -> BaseModel:
    """The model that no others are behind; what the route says of limits holds before what its endpoint says."""
    spec = route.model
    provider, slash, name = spec.partition("/")
    if provider in _ENGINES:
        if (slash and not name) or (not slash and provider != "local"):
            raise UsageError(f"model {spec!r}: expected {_FORMS[provider]}")
        limits = Limits(route.rpm, route.tpm, route.max_in_flight)
        retry = retry or _PATIENT.get(provider)
        return BaseModel(_ENGINES[provider](name, config), cache=cache, limits=limits, retry=retry)
    endpoint = given or endpoint_named(provider, config)
    if endpoint is None or not name:
        raise _no_such(spec, config) if endpoint is None else UsageError(f"model {spec!r}: expected {provider}/MODEL")
    if endpoint.base_url == OPENAI_URL and not endpoint.api_key:
        raise UsageError(f"model {spec!r} needs OPENAI_API_KEY, or OPENAI_BASE_URL for another server")
    if queries_per_batch is not None:
        endpoint = structs.replace(endpoint, queries_per_batch=queries_per_batch)
    limits = Limits(route.rpm or endpoint.rpm, route.tpm or endpoint.tpm, route.max_in_flight or endpoint.max_in_flight)
    try:
        return _openai(provider, name, endpoint, cache, limits, retry or RetryPolicy(deadline=endpoint.timeout))
    except UsageError as error:
        if given or provider not in config.endpoints:
            raise
        raise UsageError(f"{config.file} [endpoints.{provider}]: {error}") from None


def _no_such(spec: str, config: Config) -> UsageError:
    """What to say of a spec that begins with no provider."""
    provider, slash, name = spec.partition("/")
    if not (slash and name):
        return UsageError(
            f"unknown model {spec!r}; {did_you_mean(provider, {*PROVIDERS, *config.endpoints, *config.models})}"
        )
    near = did_you_mean(provider, {*PROVIDERS, *config.endpoints} - {"local"})  # what may stand before a slash
    return UsageError(f"unknown model {spec!r}; {near} (a server needs its [endpoints.{provider}] in {config.file})")


def _openai(  # all that an endpoint's model is made of
    provider: str, name: str, endpoint: Endpoint, cache: DrawCache | None, limits: Limits, retry: RetryPolicy
) -> BaseModel:
    from shoal.backends.openai import OpenAIBackend
    from shoal.backends.relay import Relay

    backend = OpenAIBackend(
        name,
        endpoint=provider,
        base_url=endpoint.base_url,
        api_key=endpoint.api_key,
        queries_per_batch=endpoint.queries_per_batch,
        max_n=endpoint.max_n,
        constraints=endpoint.constraints,
        timeout=endpoint.timeout,
    )
    model = BaseModel(backend, cache=cache, limits=limits, retry=retry)
    assert isinstance(model.scheduler, Scheduler)
    model.relay = Relay(backend, model.scheduler.admission)
    model.batch_price = endpoint.batch_price
    return model


def _routed(
    name: str,
    config: Config,
    cache: DrawCache | None,
    max_in_flight: int | None,
    retry: RetryPolicy | None,
    queries_per_batch: int | None,
) -> BaseModel:
    """The model over all members of [models.NAME]."""
    members = []
    for route in config.models[name].endpoints:
        if route.model in config.models:
            raise UsageError(f"[models.{name}]: {route.model} is one of [models] too; name what is behind it")
        try:
            opened = _one(route, config, retry=retry, queries_per_batch=queries_per_batch)
        except UsageError as error:
            raise UsageError(f"[models.{name}]: {error}") from None
        members.append(Member(opened, weight=route.weight, fallback=route.fallback))
    affinity = config.models[name].affinity
    router = Router(name, members, affinity=affinity, max_in_flight=max_in_flight, retry=retry)
    model = BaseModel(router, cache=cache, retry=retry)
    if all(member.model.relay is not None for member in members):  # else what has none would never be asked
        from shoal.backends.router_relay import RouterRelay

        model.relay = RouterRelay(router)
    return model


def _local(_: str, __: Config) -> Backend:
    from shoal.backends.embedded import EmbeddedBackend

    return EmbeddedBackend()


def _gguf(path: str, _: Config) -> Backend:
    from shoal.backends.llama import LlamaBackend

    return LlamaBackend(Path(path))


def _scripted(spec: str, _: Config) -> Backend:
    from shoal.backends.scripted import open_scripted

    return open_scripted(spec)


def _transformers(name: str, config: Config) -> Backend:
    from shoal.backends.hf import TransformersBackend

    asked = loading("transformers", name, config.engines, config.file)
    return TransformersBackend(asked.model, asked.options, asked.lora, asked.name)


def _vllm(name: str, config: Config) -> Backend:
    from shoal.backends.vllm import VllmBackend

    return VllmBackend(loading("vllm", name, config.engines, config.file))


_ENGINES: dict[str, Callable[[str, Config], Backend]] = {
    "local": _local,
    "gguf": _gguf,
    "vllm": _vllm,
    "scripted": _scripted,
    "transformers": _transformers,
}
# A call that waits for its turn in an engine of our own has not hung: a batch on a slow machine takes hours.
_PATIENT = dict.fromkeys(("local", "gguf", "vllm", "transformers"), RetryPolicy(deadline=7 * 24 * 3600.0))
_FORMS = {
    "local": "local",
    "gguf": "gguf/PATH",
    "vllm": "vllm/MODEL",
    "scripted": "scripted/FILE.py:function",
    "transformers": "transformers/MODEL",
}
