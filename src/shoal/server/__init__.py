"""The server: every model, and every technique on one, behind the endpoints that clients know."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.server.app import create_app as create_app


def __getattr__(name: str) -> Any:
    if name != "create_app":
        raise AttributeError(f"module 'shoal.server' has no attribute {name!r}")
    from shoal.server.app import create_app

    return create_app
