"""A simulated replica behind the OpenAI API: one process, on a free port of loopback, which it prints.

python -m benchmarks.replica_server [--scale 0.1] [--slowness 1]    simulated seconds take `scale` real ones

With --tell it also prints a line for each draw that is asked for, and one when it is done: what happened, to which draw
(a hash of its text), and when. /metrics has vLLM's names for the prefix cache; /counts the engine's counts as JSON.
"""

import argparse
import asyncio
import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from pathlib import Path
from threading import Thread
from typing import IO, Any, NamedTuple

from benchmarks import technique_mock
from benchmarks.replica_engine import Replica, tokens_of
from benchmarks.replica_replies import rendered, replied

_ROOT = Path(__file__).resolve().parent.parent


class Server(NamedTuple):
    """A running replica."""

    port: int
    pid: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def counts(self) -> dict[str, float]:
        found: dict[str, float] = technique_mock.control(self.base_url, "/counts")
        return found


Hear = Callable[[list[str]], None]


@contextmanager
def servers(slowness: list[float], scale: float, hear: Hear | None = None) -> Iterator[list[Server]]:
    """A replica for each slowness, in processes of their own.

    `hear` is given what each says of its draws, from threads; all of it, once the context is left.
    """
    with ExitStack() as stack:
        started = []
        for slow in slowness:
            command = [sys.executable, "-m", "benchmarks.replica_server"]
            command += ["--scale", str(scale), "--slowness", str(slow), *(["--tell"] if hear else [])]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT)
            stack.enter_context(process)
            stack.callback(process.kill)
            started.append(process)
        found = []
        for process in started:
            if process.stdout is None or not (line := process.stdout.readline()):
                raise RuntimeError("a replica did not start")
            found.append(Server(int(line), process.pid))
            if hear is not None:
                listener = Thread(target=_listen, args=(process.stdout, hear))
                listener.start()
                stack.callback(listener.join)
                stack.callback(process.kill)
        yield found


def _listen(lines: IO[str], hear: Hear) -> None:
    for line in lines:
        hear(line.split())


def draw_id(text: str) -> str:
    """What a draw is called in what is told of it."""
    return blake2b(text.encode(), digest_size=8).hexdigest()


async def serve(replica: Replica, *, tell: bool = False) -> None:
    from aiohttp import web  # not needed by those who only start it

    def told(what: str, texts: list[str]) -> None:
        for text in texts if tell else ():
            print(what, draw_id(text), time.monotonic(), flush=True)

    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        messages, n = body["messages"], body.get("n") or 1
        said = [replied(body, i) for i in range(n)]
        told("asked", said)
        draws = await replica.draw(rendered(messages), said)
        told("done", said)
        written = sum(tokens_of(draw.reply) for draw in draws)
        choices = [
            {"index": i, "message": {"role": "assistant", "content": draw.reply}, "finish_reason": "stop"}
            for i, draw in enumerate(draws)
        ]
        usage = {
            "prompt_tokens": draws[0].tokens,
            "completion_tokens": written,
            "total_tokens": draws[0].tokens + written,
            "prompt_tokens_details": {"cached_tokens": draws[0].cached},
        }
        head = {"id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": "m"}
        return web.json_response({**head, "choices": choices, "usage": usage})

    async def metrics(_: web.Request) -> web.Response:
        engine = replica.engine
        values = {
            "vllm:prefix_cache_queries_total": engine.counts.prompt_tokens,
            "vllm:prefix_cache_hits_total": engine.counts.cached_tokens,
            "vllm:generation_tokens_total": engine.counts.completion_tokens,
            "vllm:num_requests_running": len(engine.prefilling) + len(engine.decoding),
            "vllm:num_requests_waiting": len(engine.waiting),
        }
        return web.Response(text="".join(f'{name}{{model_name="m"}} {value}\n' for name, value in values.items()))

    async def counts(_: web.Request) -> web.Response:
        return web.json_response(
            dataclasses.asdict(replica.engine.counts) | {"busy_s": replica.busy_s, "late_s": replica.late_s}
        )

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})

    app = web.Application(client_max_size=1 << 28)
    app.add_routes([web.post("/v1/chat/completions", complete), web.get("/v1/models", models)])
    app.add_routes([web.get("/metrics", metrics), web.get("/counts", counts)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address: Any = runner.addresses[0]
    print(address[1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--slowness", type=float, default=1.0)
    parser.add_argument("--tell", action="store_true")
    given = parser.parse_args()
    asyncio.run(serve(Replica(scale=given.scale, slowness=given.slowness), tell=given.tell))


if __name__ == "__main__":
    main()
