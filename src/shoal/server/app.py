"""The application: routes, and what they share."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from aiohttp import web

from shoal.backends.config import Config, load_config
from shoal.errors import UsageError
from shoal.runtime.cache import UNKEPT, DrawCache, default_cache_path
from shoal.server import playground
from shoal.server.access.callers import Caller
from shoal.server.access.keys import Keys
from shoal.server.access.ledger import Ledger
from shoal.server.batches.endpoints import add_batches
from shoal.server.batches.running import Batches
from shoal.server.endpoints.chat import chat_completions
from shoal.server.endpoints.completions import completions
from shoal.server.endpoints.messages import count_tokens, messages
from shoal.server.endpoints.responses import kept_response, responses
from shoal.server.http.guard import CALLER, Guard
from shoal.server.http.replies import json_reply
from shoal.server.metrics import CONTENT_TYPE, Metrics
from shoal.server.names import Names, open_models
from shoal.server.openapi import document
from shoal.server.service import Service
from shoal.server.settings import Settings, settings_of
from shoal.techniques.bounds import bound

SERVICE: web.AppKey[Service] = web.AppKey("service", Service)
KEYS: web.AppKey[Keys] = web.AppKey("keys", Keys)
_OPEN = frozenset(("/health", *playground.pages()))


def create_app(
    config: Config | None = None, *, settings: Settings | None = None, models: Names | None = None
) -> web.Application:
    """The server as an aiohttp application. Nothing is loaded or connected before the first request.

    `config` is what a shoal.toml says, by default that of `load_config()`; `settings` stand in for what it says of the
    server. Run it with `shoal.server.http.listening.serve`, or in another way that cancels a handler whose client went
    away.
    """
    config = load_config() if config is None else config
    settings = settings_of(config) if settings is None else settings
    names = models or _names(settings, config)
    service = Service(settings, names)
    names.hints = not any(key.models for key in settings.keys.values())
    ledger = _ledger(settings)
    metrics = Metrics(names.all_bases)
    opened = _OPEN | {"/metrics"} if settings.metrics == "open" else _OPEN
    keys = Keys(settings.keys, names, ledger)
    guard = Guard(settings, keys, metrics, opened)
    app = web.Application(middlewares=[guard.middleware], client_max_size=settings.max_body)
    app[SERVICE] = service
    app[KEYS] = keys
    app.router.add_get("/health", _health)
    app.router.add_get("/openapi.json", _openapi)
    app.router.add_get("/v1/models", partial(_called, _models))
    app.router.add_get("/v1/models/{name:.+}", partial(_called, _model))
    for method, path, endpoint in (*_ROUTES, *playground.ROUTES):
        app.router.add_route(method, path, partial(_called, endpoint))
    for path in playground.pages():
        app.router.add_get(path, playground.page)
    if settings.metrics != "off":
        app.router.add_get("/metrics", partial(_metrics, metrics))
    app.on_response_prepare.append(guard.prepare)
    app.cleanup_ctx.append(partial(_closing, ledger))
    add_batches(app, Batches(service, keys))
    return app


def _ledger(settings: Settings) -> Ledger | None:
    """Where the day's tokens are counted; None where no key is limited by them."""
    if not any(key.tokens_per_day for key in settings.keys.values()):
        return None
    return Ledger(Path(settings.state).expanduser() / "usage.sqlite" if settings.state else None)


def _names(settings: Settings, config: Config) -> Names:
    specs = settings.models or ("local",)
    cache = None if settings.cache == "off" else DrawCache(default_cache_path(), unkept=UNKEPT | {"length"})
    try:
        models = open_models(specs, config, cache)
    except UsageError as error:
        if list(specs) != config.server.get("models") or str(error).startswith(config.file):
            raise
        raise UsageError(f"{config.file} [server]: models: {error}") from None
    names = Names(models, settings.presets)
    for name in names.own:
        _refuse_useless(name, bound(names.resolve(name).model).calls, settings.max_calls)
    return names


def _refuse_useless(name: str, calls: int, most: int) -> None:
    """UsageError for a model of the operator's that no request could use as it is."""
    if calls > most:
        message = f"may take {calls} calls, and a request may take {most}; smaller options, or a larger max_calls"
        raise UsageError(f"{name}: {message} in [server]")
    if calls < 1:
        raise UsageError(f"{name}: its options leave no call to make; use larger ones")


async def _closing(ledger: Ledger | None, app: web.Application) -> AsyncIterator[None]:
    yield
    if ledger is not None:
        await ledger.aclose()
    for base in app[SERVICE].names.all_bases():
        await base.aclose()


async def _called(endpoint: playground.Endpoint, request: web.Request) -> web.StreamResponse:
    return await endpoint(request, request.app[SERVICE], request[CALLER])


async def _metrics(metrics: Metrics, request: web.Request) -> web.Response:
    if CALLER in request:
        request[CALLER].check_metrics()
    return web.Response(body=metrics.told(), headers={"content-type": CONTENT_TYPE})


async def _health(_: web.Request) -> web.Response:
    return json_reply({"status": "ok"})


async def _openapi(_: web.Request) -> web.Response:
    return json_reply(document())


async def _models(_: web.Request, service: Service, caller: Caller) -> web.Response:
    return json_reply({"object": "list", "data": [_listed(name) for name in await service.listed(caller)]})


async def _model(request: web.Request, service: Service, caller: Caller) -> web.Response:
    name = request.match_info["name"]
    caller.check(service.names.resolve(name))
    return json_reply(_listed(name))


def _listed(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "shoal"}


_ROUTES: tuple[tuple[str, str, playground.Endpoint], ...] = (
    ("POST", "/v1/chat/completions", chat_completions),
    ("POST", "/v1/completions", completions),
    ("POST", "/v1/responses", responses),
    ("*", "/v1/responses/{id:.+}", kept_response),
    ("POST", "/v1/messages", messages),
    ("POST", "/v1/messages/count_tokens", count_tokens),
)
