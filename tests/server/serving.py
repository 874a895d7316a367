"""The real server on a free port of loopback, and a client that asks it plainly."""

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web
from tests.scripting import AT_ONCE

from shoal.backends import BaseModel
from shoal.backends.scripted import Script, ScriptedBackend
from shoal.runtime.model import Applied
from shoal.server.app import create_app
from shoal.server.http.listening import listen
from shoal.server.names import Names
from shoal.server.settings import Settings


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> dict[str, Any]:
        """The error of a refusal, which has the API's four keys and no other."""
        (error,) = self.json.values()
        assert error.keys() == {"message", "type", "param", "code"}
        return error

    @property
    def events(self) -> list[Any]:
        """The data of the events of a stream; [DONE] as text."""
        data = [line.removeprefix("data: ") for line in self.text.splitlines() if line.startswith("data: ")]
        return [item if item == "[DONE]" else json.loads(item) for item in data]


class Client:
    """Asks one server. `url` is where it is, without /v1."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def get(self, path: str, **options: Any) -> Reply:
        async with self.session.get(self.url + path, **options) as response:
            return Reply(response.status, response.headers, await response.text())

    async def post(self, path: str, body: Any, **options: Any) -> Reply:
        """`body` as JSON, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", **options.pop("headers", {})}
        async with self.session.post(self.url + path, data=io.BytesIO(data), headers=headers, **options) as response:
            return Reply(response.status, response.headers, await response.text())

    async def chat(
        self, model: str, text: str = "Q?", *, headers: Mapping[str, str] | None = None, **body: Any
    ) -> Reply:
        asked = {"model": model, "messages": [{"role": "user", "content": text}], **body}
        return await self.post("/v1/chat/completions", asked, headers=headers or {})


def scripted_model(script: Script, **options: Any) -> BaseModel:
    """A base model that answers from a script; its `backend` remembers what it was asked."""
    return BaseModel(ScriptedBackend(script, **options), retry=AT_ONCE)


@asynccontextmanager
async def serving(models: Mapping[str, BaseModel | Applied], **settings: Any) -> AsyncIterator[Client]:
    """A server of these models, with the settings given."""
    told = Settings(**settings)
    async with running(create_app(settings=told, models=Names(models, told.presets))) as client:
        yield client


@asynccontextmanager
async def running(app: web.Application) -> AsyncIterator[Client]:
    """The application on a free port, as `shoal serve` runs it."""
    listener = await listen(app, "127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session:
            yield Client(f"http://127.0.0.1:{listener.port}", session)
    finally:
        await listener.close()
