"""Listening, and stopping without losing what is under way."""

import asyncio
import signal
from collections.abc import Callable

from aiohttp import web

from shoal.errors import UsageError
from shoal.server.guard import is_loopback
from shoal.server.settings import Settings

_DRAIN_SECONDS = 30.0


async def listen(app: web.Application, settings: Settings, ready: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT; `ready` is told the URL. The exit code."""
    if not is_loopback(settings.host) and not settings.keys:
        raise UsageError(f"{settings.host} can be reached by others, so keys are needed: --key, or `shoal key NAME`")
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=_DRAIN_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            raise UsageError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from None
        host, port = runner.addresses[0][:2]
        ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await _told_to_stop()
    finally:
        await runner.cleanup()
    return 0


async def _told_to_stop() -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
