"""Many streams at once through `shoal serve`: are they whole, is memory flat, are those that were left ended at once?

python -m benchmarks.soak [--streams 1000] [--seconds 60] [--stream-seconds 20] [--events-per-second 2]
                          [--settle-seconds 120]

Clients ask for one stream after another on a connection of its own each, from a mock server that sends an event now
and then. Every stream must hold exactly the text that the mock server gives without a proxy. Then all ask once more,
and half of them leave in the middle. Prints a JSON line for each part; README.md defines the columns.
"""

import argparse
import asyncio
import json
import resource
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import linear_regression, quantiles
from typing import Any

import aiohttp
import uvloop
from benchmarks.load import cpu_s, shoal_serve, status_kib
from benchmarks.mock import Mock, mock_server

Row = dict[str, Any]
ENOUGH = 8  # files that a server may open in its life and rightly keep


def body_of(client: int, **fields: Any) -> bytes:
    question = {"role": "user", "content": f"Question {client}. What is the answer?"}
    return json.dumps({"model": "m", "messages": [question], **fields}).encode()


async def expected_texts(count: int) -> list[str]:
    """What the mock server says to each client without a proxy."""
    with mock_server() as mock:
        async with aiohttp.ClientSession() as session:

            async def text(client: int) -> str:
                async with session.post(f"{mock.base_url}/chat/completions", data=body_of(client)) as reply:
                    said: str = (await reply.json())["choices"][0]["message"]["content"]
                return said

            return [await text(client) for client in range(count)]


class Client:
    """Asks for streams and checks each to the letter."""

    def __init__(self, number: int, port: int, text: str) -> None:
        self.number = number
        self.port = port
        self.text = text
        self.begun = asyncio.Event()  # the first event of the stream has come
        self.events = 0

    async def stream(self) -> str | None:
        """One stream on a fresh connection: None where all of it came, or what is wrong with it."""
        self.begun.clear()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                body = body_of(self.number, stream=True, stream_options={"include_usage": True})
                head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
                head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                return self._fault(await self._read(reader))
            finally:
                writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError) as error:
            return f"{type(error).__name__}: {error}"

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            return head
        data = bytearray()
        while size := int(await reader.readline(), 16):
            data += (await reader.readexactly(size + 2))[:-2]
            self.events += 1
            self.begun.set()
        return bytes(data)

    def _fault(self, data: bytes) -> str | None:
        blocks = data.decode().split("\n\n")
        events = [block.removeprefix("data: ") for block in blocks if block.startswith("data: ")]
        if not events or events.pop() != "[DONE]":
            return f"no end: {data[-200:]!r}"
        chunks = [json.loads(event) for event in events]
        choices = [choice for chunk in chunks for choice in chunk.get("choices", ())]
        if "".join(choice["delta"].get("content") or "" for choice in choices) != self.text:
            return "another text than the server's own"
        if not any(choice["finish_reason"] == "stop" for choice in choices):
            return "no finish_reason"
        return None if any(chunk.get("usage") for chunk in chunks) else "no usage"


def anon_kib(pid: int) -> int:
    return status_kib(pid, "RssAnon") + status_kib(pid, "VmSwap")


def open_files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def sampled(pid: int, samples: list[tuple[float, int, int]]) -> None:
    """Until cancelled: the time, the memory in KiB and the open files, each second."""
    while True:
        samples.append((time.monotonic(), anon_kib(pid), open_files(pid)))
        await asyncio.sleep(1)


def memory(samples: Sequence[tuple[float, int, int]], settled_from: float) -> Row:
    """The memory's peak, and its slope and samples from `settled_from` on."""
    settled = [(when, kib) for when, kib, _ in samples if when >= settled_from]
    row: Row = {"rss_peak_mb": round(max(kib for _, kib, _ in samples) / 1024, 1)}
    if len(settled) > 2:
        slope = linear_regression(*zip(*settled, strict=True)).slope
        row |= {"rss_slope_kib_per_min": round(slope * 60, 1)}
        step = max(1, len(settled) // 20)
        row |= {"rss_samples_mb": [round(kib / 1024, 1) for _, kib in settled[::step]]}
    return row


async def soak(clients: list[Client], pid: int, seconds: float, stream_seconds: float) -> Row:
    """Streams one after another on every client, for a time."""
    samples: list[tuple[float, int, int]] = []
    faults: Counter[str] = Counter()
    late: list[float] = []
    before, cpu, start = anon_kib(pid), cpu_s(pid), time.monotonic()

    async def one_after_another(client: Client) -> None:
        await asyncio.sleep(stream_seconds / 4 * client.number / len(clients))
        while time.monotonic() - start < seconds:
            begun = time.monotonic()
            if fault := await client.stream():
                faults[fault] += 1
            late.append(time.monotonic() - begun - stream_seconds)

    sampling = asyncio.create_task(sampled(pid, samples))
    try:
        await asyncio.gather(*map(one_after_another, clients))
    finally:
        sampling.cancel()
    events = sum(client.events for client in clients)
    row = {"part": "streams", "at_once": len(clients), "seconds": round(time.monotonic() - start, 1)}
    row |= {"streams": len(late), "errors": faults.total(), "first_errors": dict(faults.most_common(3))}
    row |= {"late_p50_ms": round(quantiles(late, n=100)[49] * 1000, 1)}
    row |= {"late_p99_ms": round(quantiles(late, n=100)[98] * 1000, 1)}
    row |= {"events": events, "cpu_us_per_event": round((cpu_s(pid) - cpu) / max(events, 1) * 1e6, 1)}
    row |= {"rss_before_mb": round(before / 1024, 1), **memory(samples, start + seconds / 4)}
    row["kib_per_stream"] = round((max(kib for _, kib, _ in samples) - before) / len(clients), 1)
    row["open_files_peak"] = max(files for _, _, files in samples)
    return row


async def leave(clients: list[Client], mock: Mock) -> Row:
    """All ask once more; half of them leave while their streams run."""
    running = [asyncio.create_task(client.stream()) for client in clients]
    await asyncio.gather(*(client.begun.wait() for client in clients))
    leaving, staying = running[::2], running[1::2]
    before, start = mock.stats()["aborted"], time.monotonic()
    for stream in leaving:
        stream.cancel()
    freed = 0
    while freed < len(leaving) and time.monotonic() - start < 30:
        await asyncio.sleep(0.005)
        freed = mock.stats()["aborted"] - before
    took = time.monotonic() - start
    await asyncio.gather(*leaving, return_exceptions=True)
    faults = Counter(fault for fault in await asyncio.gather(*staying) if fault)
    row = {"part": "leave", "left": len(leaving), "freed": freed, "freed_s": round(took, 3)}
    row |= {"stayed": len(staying), "errors": faults.total(), "first_errors": dict(faults.most_common(3))}
    return row | {"aborted_of_those_that_stayed": mock.stats()["aborted"] - before - freed}


async def settle(pid: int, files_before: int, seconds: float) -> Row:
    """After all have gone: until the server has as few files open as in the beginning, for so many seconds at most."""
    start = time.monotonic()
    while True:
        files = open_files(pid)
        if files <= files_before + ENOUGH or time.monotonic() - start >= seconds:
            break
        await asyncio.sleep(0.5)
    row = {"part": "after", "open_files_before": files_before, "open_files": files}
    return row | {"settled_s": round(time.monotonic() - start, 1), "rss_mb": round(anon_kib(pid) / 1024, 1)}


async def run(options: argparse.Namespace) -> None:
    def tell(row: Row) -> None:
        print(json.dumps({"benchmark": "soak", **row}), flush=True)

    texts = await expected_texts(options.streams)
    delay_ms = options.stream_seconds * 1000
    pieces = max(1, round(options.stream_seconds * options.events_per_second))
    with mock_server(delay_ms=delay_ms, pieces=pieces) as mock, shoal_serve(mock.base_url) as (port, pid):
        clients = [Client(number, port, text) for number, text in enumerate(texts)]
        files = open_files(pid)
        tell(await soak(clients, pid, options.seconds, options.stream_seconds))
        tell(await leave(clients, mock))
        tell(await settle(pid, files, options.settle_seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--stream-seconds", type=float, default=20)
    parser.add_argument("--events-per-second", type=float, default=2)
    parser.add_argument("--settle-seconds", type=float, default=120)
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 3 * options.streams + 200
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))
    uvloop.run(run(options))


if __name__ == "__main__":
    main()
