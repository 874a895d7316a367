"""LiteLLM's proxy as its documentation sets it up for production, without what would cost it more.

One worker, no log, no keys, no database, no retries, and granian for a server, the cheapest it offers.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.peer_scripts.optillm_proxy import free_port, wait_for

ENVIRONMENT = {
    "LITELLM_LOG": "ERROR",  # turns off a line for every request, uvicorn's too
    "LITELLM_MODE": "PRODUCTION",  # reads no .env file
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # no key is checked, as with the others
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # its start would otherwise fetch a table
}


def config(base_url: str) -> str:
    """Its config.yaml; JSON is YAML."""
    model = {"model": "openai/m", "api_base": base_url, "api_key": "x"}
    settings = {"set_verbose": False, "num_retries": 0, "request_timeout": 600, "telemetry": False, "callbacks": []}
    return json.dumps({"model_list": [{"model_name": "m", "litellm_params": model}], "litellm_settings": settings})


@contextmanager
def proxy(base_url: str, python: str) -> Iterator[tuple[int, int]]:
    """The port and process id of a proxy in front of `base_url`, run by its environment's interpreter."""
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LITELLM_", "DATABASE_"))}
    with TemporaryDirectory() as folder:
        Path(folder, "config.yaml").write_text(config(base_url))
        log = Path(folder, "log")
        options = ["--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
        command = [python, str(Path(python).with_name("litellm")), *options, "--run_granian"]
        environment |= {"HOME": folder, **ENVIRONMENT}
        with (
            log.open("w") as errors,
            subprocess.Popen(command, stdout=errors, stderr=errors, env=environment, cwd=folder) as server,
        ):
            try:
                wait_for(port, server, log)
                yield port, server.pid
            finally:
                server.terminate()
