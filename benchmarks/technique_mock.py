"""A server of the OpenAI API whose replies let techniques take their usual path, and which counts what they ask.

The reply to a prompt holds what the prompt asks for: a score, a verdict, a list, a program, one step of several, tagged
output. It depends on the prompt and on how often this has been asked before, on nothing else. Every reply takes the
same time, so that wall time counts sequential steps.

python -m benchmarks.technique_mock [--delay-ms 100]    prints its port and serves until it is ended
"""

import argparse
import asyncio
import http.client
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

ROOT = Path(__file__).resolve().parent.parent
SOLUTION_STEPS = 3  # where a prompt asks for one step at a time, the last of these gives the final answer

QUESTION = "A harbour has 6 quays, and at each of them lie 7 boats. How many boats lie in the harbour?"
CODING = "Write a Python function boats(quays, each): how many boats lie in a harbour of quays with so many boats each?"
# Examples first, which the server gets wrong when it is asked about one of them alone.
EXAMPLES = (
    ("A lighthouse has 3 lamps of 4 wicks each. How many wicks has it?", "3 x 4 = 12. The answer is 12."),
    ("A lighthouse has 5 floors of 9 steps each. How many steps has it?", "5 x 9 = 45. The answer is 45."),
)
WITH_EXAMPLES = "\n\n".join([*(f"Q: {question}\nA: {answer}" for question, answer in EXAMPLES), f"Q: {QUESTION}"])

_SHOWN_STEP = re.compile(r"\bStep (\d+)\b", re.IGNORECASE)
_NEXT_STEP = re.compile(r"\bwrite (?:only )?the next (?:step|smaller question)", re.IGNORECASE)
_FUNCTION = "```python\ndef boats(quays, each):\n    return quays * each  # way {way}\n```"
_PROGRAM = "```python\nprint(6 * 7)  # way {way}\n```"
_SMT = "```smt2\n(declare-const boats Int)\n(assert (= boats (* 6 7)))\n(check-sat)\n(get-value (boats))\n```"
_BARE_NUMBER = re.compile(r"(?:only|just) (?:with )?(?:a|the|one) (?:single )?number|number only", re.IGNORECASE)
# A line that the reply shall have: `Score: <number>`, `Verdict: <A, B or tie>`.
_BLANK = re.compile(r"^(\w[\w ]*): <([^<>\n]+)>", re.MULTILINE)
# Other forms, and the line that gives them.
_FORMS = [
    (re.compile(r"^Score: \[", re.MULTILINE), "Score: {score}\nExplanation: the steps hold."),
    (re.compile(r"\bRating:"), "Rating: [[{score}]]"),
    (re.compile(r"\bBEST CANDIDATE:"), "BEST CANDIDATE: 1"),
    (re.compile(r"\bboats\(quays, each\)|\bdescription\b"), _FUNCTION),
    (re.compile(r"^(?!.*boats\(quays).*(?:\bpython\b|\bprogram\b)", re.IGNORECASE | re.DOTALL), _PROGRAM),
    (re.compile(r"\bFinal answer:"), "Final answer: {answer}"),
]


def _filled(label: str, hint: str, score: int) -> str:
    """A line as its blank asks for it: a score, a number, the first of the words to choose from, or a sentence."""
    if "number" in hint:
        return f"{label}: {score if label == 'Score' else 1}"
    choices = re.split(r", | or ", hint)
    return f"{label}: {choices[0] if len(choices) > 1 else 'multiply what repeats by how often it does.'}"


def reply(messages: Sequence[dict[str, Any]], time: int) -> str:
    """What is said to these messages when they are asked for the `time`-th time, from 0."""
    said = "\n".join(_text(message) for message in messages)
    way = f"{crc32(said.encode()) % 10_000}.{time}"  # no two replies are the same, so that none can be left out
    last = _text(messages[-1]) if messages else ""
    if _BARE_NUMBER.search(said):
        return "0.7" if re.search(r"0 (?:to|and) 1\b", said) else str(5 + time % 4)
    if "Respond with:\nSOLVER_CAN_BE_APPLIED" in said:
        return "SOLVER_CAN_BE_APPLIED: True\n\nSOLVER_FORMULATION:\n```python\nprint(6 * 7)\n```\n"
    if "JSON array of objects" in said:  # examples are to be read out of the prompt
        pairs = re.findall(r"\bQ: (.+)\n\s*A: .*?(\d+)\.$", said, re.MULTILINE)
        return f"<output>\n{json.dumps([{'question': q, 'answer': a} for q, a in pairs])}\n</output>"
    if "JSON array of numbers" in said:
        return "[1, 2, 3]"
    answer = 41 if time % 8 == 7 or ("lighthouse" in said and "harbour" not in said) else 42
    if "Solver: yes" in last:
        return f"Solver: yes\n{_SMT if 'smt2' in last else _PROGRAM.format(way=way)}"
    if "calls of it" in last:  # that would show whether a program is right
        return "```python\nboats(6, 7)\nboats(0, 7)\n```"
    if _NEXT_STEP.search(last):
        number = max((int(n) for n in _SHOWN_STEP.findall(last)), default=0) + 1
        if number >= SOLUTION_STEPS:
            return f"Final answer: way {way}: 6 quays of 7 boats make 6 x 7 = {answer}. The answer is {answer}."
        return f"Step {number}, way {way}: count the boats of quays {2 * number - 1} and {2 * number}: 7 + 7 = 14."
    score = 5 + time % 4
    forms = [line.format(score=score, way=way, answer=answer) for form, line in _FORMS if form.search(said)]
    forms += [_filled(label, hint, score) for label, hint in _BLANK.findall(last)]
    body = [
        f"This is way {way} to look at it.",
        f"1. There are 6 quays, counted in way {way}.",
        "2. At each of them lie 7 boats.",
        f"3. So 6 x 7 = {answer} boats lie there.",
        *forms,
        f"The answer is {answer}.",
    ]
    text = "\n".join(body)
    if "<output>" in said:
        return f"<thinking>\n{text}\n</thinking>\n<output>{answer}</output>"
    return text


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content)


class Counts(NamedTuple):
    """What the server was asked since it was last reset.

    `steps` is the longest chain of requests each of which began after the one before had been answered.
    """

    requests: int
    completions: int
    completion_tokens: int
    max_concurrent: int
    steps: int


def chain(spans: Sequence[tuple[float, float]]) -> int:
    """The most spans (begin, end) that lie one after another."""
    length, free = 0, float("-inf")
    for begin, end in sorted(spans, key=lambda span: span[1]):
        if begin >= free:
            length, free = length + 1, end
    return length


def most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    """The most spans that overlap."""
    edges = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    most = running = 0
    for _, change in edges:
        running += change
        most = max(most, running)
    return most


class Mock(NamedTuple):
    """A running server."""

    port: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def reset(self) -> None:
        control(self.base_url, "/reset")

    def counts(self) -> Counts:
        return Counts(**control(self.base_url, "/counts"))


def control(base_url: str, path: str) -> Any:
    """Ask the server about itself; for the scripts of other systems too, so standard library only."""
    address = base_url.removesuffix("/v1").removeprefix("http://")
    with closing(http.client.HTTPConnection(address, timeout=30)) as connection:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())


@contextmanager
def technique_mock(delay_ms: float) -> Iterator[Mock]:
    """The server in a process of its own, on a free port of loopback."""
    command = [sys.executable, "-m", "benchmarks.technique_mock", "--delay-ms", str(delay_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            if server.stdout is None or not (line := server.stdout.readline()):
                raise RuntimeError("the mock server did not start")
            yield Mock(int(line))
        finally:
            server.terminate()


async def serve(delay: float) -> None:
    from aiohttp import web  # not needed by those who only talk to the server

    spans: list[tuple[float, float]] = []
    asked: Counter[str] = Counter()
    completions = tokens = 0

    async def complete(request: web.Request) -> web.Response:
        nonlocal completions, tokens
        loop = asyncio.get_running_loop()
        begin = loop.time()
        body = await request.json()
        n = body.get("n") or 1
        question = json.dumps(body["messages"])
        ways = range(asked[question], asked[question] + n)
        asked[question] += n
        texts = [reply(body["messages"], way) for way in ways]
        await asyncio.sleep(begin + delay - loop.time())
        used = sum(len(text.split()) for text in texts)
        spans.append((begin, loop.time()))
        completions += n
        tokens += used
        choices = [
            {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            for i, text in enumerate(texts)
        ]
        prompt = len(question.split())
        usage = {"prompt_tokens": prompt, "completion_tokens": used, "total_tokens": prompt + used}
        head = {"id": f"chatcmpl-{len(spans)}", "object": "chat.completion", "created": 0, "model": "m"}
        return web.json_response({**head, "choices": choices, "usage": usage})

    async def reset(_: web.Request) -> web.Response:
        nonlocal completions, tokens
        spans.clear()
        asked.clear()
        completions = tokens = 0
        return web.json_response({})

    async def counts(_: web.Request) -> web.Response:
        found = Counts(len(spans), completions, tokens, most_at_once(spans), chain(spans))
        return web.json_response(found._asdict())

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})

    app = web.Application(client_max_size=1 << 28)
    app.add_routes([web.post("/v1/chat/completions", complete), web.get("/v1/models", models)])
    app.add_routes([web.get("/reset", reset), web.get("/counts", counts)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay-ms", type=float, default=100)
    asyncio.run(serve(parser.parse_args().delay_ms / 1000))
