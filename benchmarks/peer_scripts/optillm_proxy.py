"""optillm's proxy, asked by 32 clients at once: its "none" approach, and self_consistency by the model's name.

The proxy has no option for the number of samples; its default of 5 is set to the workload's 8, so that the work is the
same. CPU time is the proxy's and the clients' together; the clients are the cheapest the standard library has.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.workload import COMPLETIONS, SAMPLES, arguments, measured

CLIENTS = 32
LAUNCH = f"""
from optillm.self_consistency import AdvancedSelfConsistency
first, *rest = AdvancedSelfConsistency.__init__.__defaults__
AdvancedSelfConsistency.__init__.__defaults__ = ({SAMPLES}, *rest)
from optillm.server import main
main()
"""


@contextmanager
def proxy(base_url: str, launch: str = LAUNCH, python: str = sys.executable) -> Iterator[tuple[int, int]]:
    """The port and process id of a proxy in front of `base_url`, started by the program `launch` in `python`."""
    port = free_port()
    options = ["--base-url", base_url, "--model", "m", "--port", str(port), "--host", "127.0.0.1", "--log", "error"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OPTILLM_", "CEREBRAS_"))}
    with TemporaryDirectory() as folder:
        environment.update(OPENAI_API_KEY="x", HOME=folder)
        log = Path(folder, "log")
        with (
            log.open("w") as errors,
            subprocess.Popen(
                [python, "-c", launch, *options], stdout=errors, stderr=errors, env=environment, cwd=folder
            ) as server,
        ):
            try:
                wait_for(port, server, log)
                yield port, server.pid
            finally:
                server.terminate()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit(f"the proxy did not start: {log.read_text()[-500:]}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the proxy did not listen within 60 s")


def run(port: int, model: str, prompts: list[str]) -> list[str]:
    local = threading.local()

    def item(question: str) -> str:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": question}]})
        headers = {"Content-Type": "application/json", "Authorization": "Bearer x"}
        local.connection.request("POST", "/v1/chat/completions", body, headers)
        reply: str = json.loads(local.connection.getresponse().read())["choices"][0]["message"]["content"]
        return reply

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(item, prompts))


if __name__ == "__main__":
    base_url, workload = arguments()
    model = "none-m" if workload == COMPLETIONS else "self_consistency-m"
    with proxy(base_url) as (port, pid):
        measured(workload, base_url, lambda prompts: run(port, model, prompts), pids=[pid])
