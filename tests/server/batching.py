"""Files and batches, asked of a server plainly."""

import asyncio
import io
import json
from typing import Any

import aiohttp
from tests.server.serving import Client, Reply


def line(custom_id: str, text: str = "Q?", model: str = "m", **body: Any) -> dict[str, Any]:
    """One request of a batch of chats."""
    asked = {"model": model, "messages": [{"role": "user", "content": text}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": asked}


def jsonl(*lines: Any) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in lines)


async def upload(
    client: Client, data: bytes, key: str = "", purpose: str = "batch", filename: str = "in.jsonl"
) -> Reply:
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("purpose", purpose)
    form.add_field("file", io.BytesIO(data), filename=filename)
    async with client.session.post(client.url + "/v1/files", data=form, headers=auth(key)) as response:
        return Reply(response.status, response.headers, await response.text())


def auth(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


async def begin(client: Client, *lines: Any, key: str = "", **fields: Any) -> dict[str, Any]:
    """A batch of these lines, or of a file's bytes, as it was when it was made."""
    data = lines[0] if lines and isinstance(lines[0], bytes) else jsonl(*lines)
    file = await upload(client, data, key)
    assert file.status == 200, file.text
    asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": file.json["id"], **fields}
    reply = await client.post("/v1/batches", asked, headers=auth(key))
    assert reply.status == 200, reply.text
    batch: dict[str, Any] = reply.json
    return batch


async def until(client: Client, id_: str, *statuses: str, key: str = "") -> dict[str, Any]:
    """The batch, once its status is one of these; asked again and again."""
    async with asyncio.timeout(30):
        while True:
            batch: dict[str, Any] = (await client.get(f"/v1/batches/{id_}", headers=auth(key))).json
            if batch["status"] in statuses:
                return batch


ENDED = ("completed", "failed", "expired", "cancelled")


async def carried_out(client: Client, *lines: Any, key: str = "", **fields: Any) -> dict[str, Any]:
    """A batch of these lines once it has ended."""
    batch = await begin(client, *lines, key=key, **fields)
    return await until(client, batch["id"], *ENDED, key=key)


async def results(client: Client, batch: dict[str, Any], key: str = "") -> tuple[list[Any], list[Any]]:
    """The lines of a batch's output file, and those of its error file."""
    found = []
    for id_ in (batch["output_file_id"], batch["error_file_id"]):
        text = (await client.get(f"/v1/files/{id_}/content", headers=auth(key))).text if id_ else ""
        found.append([json.loads(item) for item in text.splitlines()])
    return found[0], found[1]


def text_of(item: dict[str, Any]) -> str:
    """The answer in a line of an output file."""
    return str(item["response"]["body"]["choices"][0]["message"]["content"])
