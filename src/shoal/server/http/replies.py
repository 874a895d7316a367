"""Whole replies of JSON."""

import msgspec
from aiohttp import web


def json_reply(value: object) -> web.Response:
    """A value as JSON; bytes are taken for JSON already."""
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return web.Response(body=body, content_type="application/json")
