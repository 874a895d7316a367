"""Running the server as a program: where it may listen, and its exit code."""

import signal
from collections.abc import Callable

from aiohttp import web

from shoal.errors import UsageError
from shoal.server.guard import is_loopback
from shoal.server.listening import Listener, serve
from shoal.server.settings import Settings


def refuse_open_doors(settings: Settings) -> None:
    """UsageError where others could reach the server and no key is asked of them."""
    if not is_loopback(settings.host) and not settings.keys:
        raise UsageError(f"{settings.host} can be reached by others, so keys are needed: --key, or `shoal key NAME`")


async def run_server(app: web.Application, settings: Settings, ready: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT; `ready` is told the URL. The exit code: 0, or 130 after SIGINT."""

    def listening(listener: Listener) -> None:
        host = f"[{listener.host}]" if ":" in listener.host else listener.host
        ready(f"http://{host}:{listener.port}")

    stopped = await serve(app, settings.host, settings.port, listening=listening)
    return 130 if stopped is signal.SIGINT else 0
