"""A server of both APIs on loopback that repeats what it was asked: choice j of a prompt says "PROMPT#j".

Usage is nested as servers nest it today, and absent from every third reply. A prompt with "bad" in it is refused, and
with it whatever shares its request.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class EchoServer(ThreadingHTTPServer):
    """`bodies` holds the requests that came."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.base_url = f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: EchoServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        number = len(self.server.bodies)
        status, reply = _reply(body, number)
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _reply(body: dict[str, Any], number: int) -> tuple[int, dict[str, Any]]:
    chat = "messages" in body
    prompts = [body["messages"][-1]["content"]] if chat else body["prompt"]
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if any("bad" in prompt for prompt in prompts):
        return 400, {"error": {"message": "a bad prompt", "type": "invalid_request_error"}}
    n = body.get("n", 1)
    said = [f"{prompt}#{j}" for prompt in prompts for j in range(n)]
    pieces = [{"message": {"role": "assistant", "content": text}} if chat else {"text": text} for text in said]
    choices = [{"index": i, "finish_reason": "stop", **piece} for i, piece in enumerate(pieces)]
    choices.reverse()  # their indices count, not their places
    usage = {"prompt_tokens": 5 * len(prompts), "completion_tokens": 2 * len(said), "total_tokens": 0}
    usage["prompt_tokens_details"] = {"cached_tokens": 1, "audio_tokens": None}  # type: ignore[assignment]
    reply = {"id": f"cmpl-{number}", "model": "served", "choices": choices}
    return 200, reply if number % 3 == 0 else reply | {"usage": usage}


@contextmanager
def echo_server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
