"""The server: every model, and every technique on one, behind the endpoints that clients know."""

from shoal.server.app import create_app as create_app
