"""optillm's techniques at their defaults, each asked once and alone: what reaches the server, and how long it takes.

Called with the server's base URL and a JSON object of approaches and the question for each; one JSON line an approach.
"""

import http.client
import json
import sys
import time
from contextlib import closing
from typing import Any

from benchmarks.peer_scripts.optillm_proxy import proxy
from benchmarks.technique_mock import control

LAUNCH = "from optillm.server import main\nmain()"


def ask(port: int, approach: str, question: str) -> dict[str, Any]:
    """The proxy's reply, or its error."""
    body = json.dumps({"model": f"{approach}-m", "messages": [{"role": "user", "content": question}]})
    headers = {"Content-Type": "application/json", "Authorization": "Bearer x"}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=280)) as connection:
        connection.request("POST", "/v1/chat/completions", body, headers)
        text = connection.getresponse().read().decode()
    try:
        reply: dict[str, Any] = json.loads(text)
    except ValueError:
        return {"error": text}
    return reply


def main(base_url: str, questions: dict[str, str]) -> None:
    with proxy(base_url, LAUNCH) as (port, _):
        for approach in ["none", *questions]:  # the first is what is imported and connected at first use
            control(base_url, "/reset")
            start = time.perf_counter()
            reply = ask(port, approach, questions.get(approach, "Hi"))
            row = {
                "approach": approach,
                "wall_s": round(time.perf_counter() - start, 4),
                **control(base_url, "/counts"),
            }
            if "choices" in reply:
                row["reported_tokens"] = reply["usage"]["completion_tokens"]
                row["answer"] = str(reply["choices"][0]["message"]["content"])[-60:]
            else:
                row["error"] = str(reply.get("error"))[:200]
            if approach in questions:
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
