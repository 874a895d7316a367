"""Running the server as a program: where it may listen, and its exit code."""

import signal
from collections.abc import Callable

from aiohttp import web

from shoal.server.http.guard import refuse_open
from shoal.server.http.listening import Listener, serve
from shoal.server.settings import Settings


async def run_server(app: web.Application, settings: Settings, ready: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT; `ready` is told the URL. The exit code: 0, or 130 after SIGINT."""
    refuse_open(settings)

    def listening(listener: Listener) -> None:
        host = f"[{listener.host}]" if ":" in listener.host else listener.host
        ready(f"http://{host}:{listener.port}")

    stopped = await serve(app, settings.host, settings.port, listening=listening)
    return 130 if stopped is signal.SIGINT else 0
