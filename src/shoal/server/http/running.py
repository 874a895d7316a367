"""Running the server as a program: what it loads at once, and its exit code."""

import asyncio
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress

from aiohttp import web

from shoal.backends import BaseModel
from shoal.errors import ShoalError
from shoal.server.http.listening import Listener, serve
from shoal.server.settings import Settings


async def run_server(
    app: web.Application, settings: Settings, models: Iterable[BaseModel], ready: Callable[[str], None]
) -> int:
    """Serve until SIGTERM or SIGINT; `ready` is told the URL. The exit code: 0, or 130 after SIGINT."""
    loading: list[asyncio.Task[None]] = []

    def listening(listener: Listener) -> None:
        host = f"[{listener.host}]" if ":" in listener.host else listener.host
        ready(f"http://{host}:{listener.port}")
        loading.append(asyncio.ensure_future(load(models)))

    try:
        stopped = await serve(app, settings.host, settings.port, listening=listening)
    finally:
        for task in loading:
            task.cancel()
    return 130 if stopped is signal.SIGINT else 0


async def load(models: Iterable[BaseModel]) -> None:
    """Load the models of this process now, not with the first question. What is wrong with one, its asker is told."""
    for model in models:
        if model.relay is None and model.backend.capabilities.count_tokens:
            with suppress(ShoalError):
                await model.count_tokens("Hello")
