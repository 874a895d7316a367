import asyncio

from tests.backends.faulty_server import faulty_server
from tests.scripting import run

from shoal.backends import BaseModel
from shoal.backends.config import Config, Endpoint
from shoal.backends.scripted import ScriptedBackend
from shoal.errors import EngineError
from shoal.runtime.types import Request
from shoal.server.http.running import load
from shoal.server.names import open_models


class Engine(ScriptedBackend):
    """Says when it is asked to count, which loads an engine."""

    def __init__(self, name: str) -> None:
        super().__init__(lambda request: "x", name=name)
        self.loaded = asyncio.Event()

    async def count_tokens(self, request: Request) -> int:
        self.loaded.set()
        if self.name == "broken":
            raise EngineError("no weights", endpoint=self.name)
        return await super().count_tokens(request)


def test_models_of_this_process_are_loaded_and_servers_are_not_asked() -> None:
    async def main() -> tuple[list[bool], int]:
        engines = [Engine("broken"), Engine("whole")]
        async with faulty_server() as upstream:
            remote = open_models(["up/m"], Config({"up": Endpoint(upstream.base_url, constraints="vllm")}), None)
            models = [*map(BaseModel, engines), *remote.values()]
            await load(model for model in models if isinstance(model, BaseModel))
            return [engine.loaded.is_set() for engine in engines], len(upstream.requests)

    assert run(main()) == ([True, True], 0)
