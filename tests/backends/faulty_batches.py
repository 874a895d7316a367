"""A server of OpenAI's files and batches on loopback, that fails as it is told to and knows what it was paid for.

    server = FaultyBatches(directory, reply=lambda body, choice: "4")
    await server.start()
    backend = OpenAIBackend("m", base_url=server.base_url, api_key=server.key)

A batch goes one status further each time it is retrieved: validating, in_progress, finalizing, completed. What it
carries out is decided by `Order`s, one for each batch that comes (then none), and by marks in the bodies of its lines
(`[[500*2]]`, see batch_orders); what befalls requests by HTTP, by `disturb(route, *faults)`.

    server.order(Order(reorder=1, expire_after=3))
    server.disturb("POST /v1/files", "413", "429:1.5", "drop-after")

`paid(directory)` lists the requests that were carried out, `asked(directory)` those that came by HTTP. All is kept in
the directory: after `stop()`, a kill or `die-after`, a server of the same directory goes on, on that port if asked.
`BatchesProcess` (batches_process.py) is the same server in a process of its own. Live requests are answered, too.
"""

import asyncio
import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import BodyPartReader, web
from tests.backends.batch_orders import (
    ENDED,
    ENDPOINTS,
    FATES,
    PAID,
    Asked,
    BatchRecord,
    Body,
    Kept,
    Order,
    Paid,
    Reply,
    answer,
    append,
    asked,
    echo,
    fate_of,
    faults_of,
    page,
    paid,
    result_lines,
)

__all__ = ["ENDED", "FaultyBatches", "Order", "asked", "paid"]
_MOST_UPLOAD = 200_000_000


class FaultyBatches:
    """The server in the loop of a test; made again on the same directory it goes on where it stood."""

    def __init__(self, directory: Path, reply: Reply = echo, key: str = "key") -> None:
        self.directory, self.reply, self.key = directory, reply, key
        self.base_url = ""
        self.port = 0
        (directory / "files").mkdir(parents=True, exist_ok=True)
        state = directory / "state.json"
        self._kept = msgspec.json.decode(state.read_bytes(), type=Kept) if state.exists() else Kept()
        self._carried = {(each.batch, each.custom_id) for each in paid(directory) if each.batch}
        self._came: list[str] = [each.route for each in asked(directory)]
        self._changed = asyncio.Condition()
        self._let_go = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        """Listen; also again after `stop()`, on the same port unless another is given."""
        app = web.Application(middlewares=[self._serve], client_max_size=_MOST_UPLOAD + (1 << 20))
        for route, endpoint in self._routes().items():
            method, path = route.split(" ")
            app.router.add_route(method, path, endpoint, name=None)
        app.router.add_post("/control", self._control)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01, access_log=None, handle_signals=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port or self.port).start()
        self.port = self._runner.addresses[0][1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"

    async def stop(self) -> None:
        """Be gone, connections and all. What was held is dropped."""
        if self._runner is not None:
            for connection in self._runner.server.connections if self._runner.server else ():
                if connection.transport is not None:
                    connection.transport.abort()
            await self._runner.cleanup()
            self._runner = None

    # What a test says

    def order(self, *orders: Order) -> None:
        """What becomes of the next batches that are created, one each."""
        unknown = {fate for order in orders for fate in order.fates.values()} - set(FATES)
        assert not unknown, unknown
        self._kept.orders += orders
        self._keep()

    def disturb(self, route: str, *faults: str) -> None:
        """What befalls the next requests of a route, such as `GET /v1/files/{id}/content`, one each; "" is nothing.

        A status, with or without seconds for Retry-After (`429:1.5`). `drop`, `die`: the connection breaks, or the
        process ends, before anything was done; `drop-after`, `die-after`: afterwards, so that the client never learns
        what came of it; `hold-after`: the reply waits to be let go. `cut`: half of the reply, then the connection
        breaks. `empty`: a list that does not have the latest yet.
        """
        assert route in self._routes(), route
        self._kept.disturbances.setdefault(route, []).extend(faults)
        self._keep()

    def release(self) -> None:
        """Batches held in progress go on, and those to come are not held."""
        for record in self._kept.batches.values():
            record.order.hold = False
        for order in self._kept.orders:
            order.hold = False
        self._keep()

    def let_go(self) -> None:
        """Replies that are held, or will be, are sent."""
        self._let_go.set()

    async def until(self, route: str, count: int = 1) -> None:
        """Wait until so many requests of a route have come and been carried out, replied to or not."""
        async with asyncio.timeout(30), self._changed:
            await self._changed.wait_for(lambda: self._came.count(route) >= count)

    @property
    def batches(self) -> list[Body]:
        """The batches as the API tells of them, oldest first."""
        return [record.told for record in self._kept.batches.values()]

    @property
    def files(self) -> list[str]:
        """The ids of the files that are kept."""
        return list(self._kept.files)

    async def _control(self, request: web.Request) -> web.Response:
        """Commands to a process: `{"do": "order", "orders": [...]}` and so on, by the names of the methods."""
        said = await request.json()
        match said["do"]:
            case "order":
                self.order(*msgspec.convert(said["args"], list[Order], str_keys=True))
            case "until":
                await self.until(*said["args"])
            case "disturb":
                self.disturb(*said["args"])
            case "key":
                self.key = said["args"][0]
            case "release" | "let_go":
                getattr(self, said["do"])()
        return web.json_response(self.batches)

    # Requests by HTTP

    @web.middleware
    async def _serve(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        if request.path == "/control":
            response: web.StreamResponse = await handler(request)
            return response
        resource = request.match_info.route.resource
        route = f"{request.method} {resource.canonical if resource else request.path}"
        fault = self._fault(route)
        status = 0
        try:
            response = await self._disturbed(request, handler, fault, route)
            status = response.status
            return response
        except web.HTTPException as refusal:
            status = refusal.status
            raise
        finally:
            append(self.directory / "asked.jsonl", [Asked(route, request.path_qs, status)])
            if "after" not in fault:
                await self._note(route)

    async def _disturbed(self, request: web.Request, endpoint: Any, fault: str, route: str) -> web.StreamResponse:
        if fault in ("drop", "die"):
            self._break(request, die=fault == "die")
        status, _, wait = fault.partition(":")
        if status.isdigit():
            await request.read()
            return _error(int(status), "disturbed", headers={"retry-after": wait} if wait else {})
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return _error(401, "Incorrect API key provided.", "invalid_api_key")
        if fault == "empty":
            return web.json_response(page([], None, 1))
        response: web.Response = await endpoint(request)
        if "after" in fault:
            await self._note(route)
        if fault == "hold-after":
            await self._let_go.wait()
        elif fault in ("drop-after", "die-after"):
            self._break(request, die=fault == "die-after")
        elif fault == "cut":
            return await self._cut(request, response)
        return response

    def _fault(self, route: str) -> str:
        waiting = self._kept.disturbances.get(route)
        if not waiting:
            return ""
        fault = waiting.pop(0)
        self._keep()
        return fault

    def _break(self, request: web.Request, *, die: bool) -> None:
        if die:
            os._exit(9)
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError

    async def _cut(self, request: web.Request, whole: web.Response) -> web.StreamResponse:
        data = whole.body
        assert isinstance(data, bytes)
        response = web.StreamResponse(headers={"content-length": str(len(data))})
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        self._break(request, die=False)
        return response

    async def _note(self, route: str) -> None:
        async with self._changed:
            self._came.append(route)
            self._changed.notify_all()

    def _routes(self) -> dict[str, Any]:
        return {
            "POST /v1/files": self._upload,
            "GET /v1/files": functools.partial(self._list, "files"),
            "GET /v1/files/{id}": self._file,
            "GET /v1/files/{id}/content": self._content,
            "DELETE /v1/files/{id}": self._delete,
            "POST /v1/batches": self._create,
            "GET /v1/batches": functools.partial(self._list, "batches"),
            "GET /v1/batches/{id}": self._retrieve,
            "POST /v1/batches/{id}/cancel": self._cancel,
            "POST /v1/chat/completions": self._live,
            "POST /v1/completions": self._live,
        }

    async def _upload(self, request: web.Request) -> web.Response:
        purpose, data, name = None, None, None
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader)
            if part.name == "file":
                data, name = bytes(await part.read()), part.filename
            elif part.name == "purpose":
                purpose = await part.text()
        if data is None or purpose != "batch":
            return _error(400, "purpose and file are needed")
        return web.json_response(self._new_file(data, "batch", name))

    def _new_file(self, data: bytes, purpose: str, name: str | None = None) -> Body:
        told = {"id": self._new_id("file"), "object": "file", "bytes": len(data), "created_at": int(time.time())}
        told |= {"filename": name or f"{purpose}.jsonl", "purpose": purpose, "status": "processed"}
        (self.directory / "files" / told["id"]).write_bytes(data)
        self._kept.files[told["id"]] = told
        self._keep()
        return told

    async def _list(self, kind: str, request: web.Request) -> web.Response:
        kept = list(self._kept.files.values()) if kind == "files" else self.batches
        return web.json_response(page(kept[::-1], request.query.get("after"), int(request.query.get("limit", 20))))

    async def _file(self, request: web.Request) -> web.Response:
        return web.json_response(_of(self._kept.files, request))

    async def _content(self, request: web.Request) -> web.Response:
        return web.Response(body=self._read(_of(self._kept.files, request)["id"]))

    async def _delete(self, request: web.Request) -> web.Response:
        gone = _of(self._kept.files, request)["id"]
        del self._kept.files[gone]
        (self.directory / "files" / gone).unlink()
        self._keep()
        return web.json_response({"id": gone, "object": "file", "deleted": True})

    async def _create(self, request: web.Request) -> web.Response:
        said = await request.json()
        metadata = said.get("metadata") or {}
        if said.get("input_file_id") not in self._kept.files:
            return _error(400, f"no file {said.get('input_file_id')}", "invalid_request")
        if said.get("endpoint") not in ENDPOINTS or said.get("completion_window") != "24h":
            return _error(400, "endpoint or completion_window is wrong", "invalid_request")
        if len(metadata) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in metadata.items()):
            return _error(400, "metadata is too long", "invalid_request")
        now = int(time.time())
        told = {"id": self._new_id("batch"), "object": "batch", "endpoint": said["endpoint"], "errors": None}
        told |= {"input_file_id": said["input_file_id"], "completion_window": "24h", "status": "validating"}
        told |= {"output_file_id": None, "error_file_id": None, "created_at": now, "expires_at": now + 86400}
        told |= {"request_counts": {"total": 0, "completed": 0, "failed": 0}, "metadata": said.get("metadata")}
        order = self._kept.orders.pop(0) if self._kept.orders else Order()
        self._kept.batches[told["id"]] = BatchRecord(told, order)
        self._keep()
        return web.json_response(told)

    async def _retrieve(self, request: web.Request) -> web.Response:
        record = _of(self._kept.batches, request)
        match record.told["status"]:
            case "validating":
                self._validate(record)
            case "in_progress" if not record.order.hold:
                self._work(record)
            case "finalizing" if record.order.late:
                self._becomes(record, "completed")
            case "completed" if record.order.late and not record.told["output_file_id"]:
                self._finish(record, "completed")
            case "finalizing" | "cancelling":
                self._finish(record, "completed" if record.told["status"] == "finalizing" else "cancelled")
        self._keep()
        return web.json_response(record.told)

    async def _cancel(self, request: web.Request) -> web.Response:
        record = _of(self._kept.batches, request)
        if record.told["status"] in ENDED:
            return _error(409, f"Cannot cancel a batch with status '{record.told['status']}'.")
        if record.told["status"] == "validating":
            self._validate(record)
        if record.told["status"] != "failed":
            self._becomes(record, "cancelling")
        self._keep()
        return web.json_response(record.told)

    async def _live(self, request: web.Request) -> web.Response:
        body = await request.json()
        fate = fate_of(json.dumps({"body": body}).encode(), self._kept.seen)
        if not PAID.get(fate) and fate.isdigit():
            self._keep()
            return _error(int(fate), "this request is to fail")
        reply = answer(body, self.reply)
        append(self.directory / "paid.jsonl", [Paid(None, None, body, reply)])
        return web.json_response(reply)

    # Batches

    def _validate(self, record: BatchRecord) -> None:
        lines = self._lines(record)
        faults = faults_of(lines, record.told["endpoint"])
        if not faults:
            record.fates = [record.order.fates.get(i) or fate_of(raw, self._kept.seen) for i, raw in enumerate(lines)]
        for number, fate in enumerate(record.fates, 1):
            if fate == "invalid":
                faults.append({"code": "invalid_request", "message": "ordered", "line": number, "param": "body"})
        if record.order.fail:
            said = {"code": record.order.fail, "message": record.order.fail, "param": None}
            faults = [said | {"line": record.order.fail_line}]
        if faults:
            record.told["errors"] = {"object": "list", "data": faults}
            return self._becomes(record, "failed")
        record.custom_ids = [json.loads(raw)["custom_id"] for raw in lines]
        record.told["request_counts"]["total"] = len(lines)
        self._becomes(record, "in_progress")
        return self._carry_out(record, record.order.done)

    def _work(self, record: BatchRecord) -> None:
        total, least = len(record.fates), record.order.expire_after
        self._carry_out(record, total if least is None else min(total, max(least, record.done)))
        if least is not None and least < total:
            self._finish(record, "expired")
        else:
            self._becomes(record, "finalizing")

    def _carry_out(self, record: BatchRecord, up_to: int) -> None:
        """Lines before that one are done: those whose fate it is are paid, once, however often a server is killed."""
        batch, done = record.told["id"], []
        for number, raw in enumerate(self._lines(record)[:up_to]):
            line = json.loads(raw)
            place = batch, line["custom_id"]
            if PAID.get(record.fates[number]) and place not in self._carried:
                self._carried.add(place)
                done.append(Paid(batch, line["custom_id"], line["body"], answer(line["body"], self.reply)))
        if done:
            append(self.directory / "paid.jsonl", done)
        record.done = max(record.done, min(up_to, len(record.fates)))
        answered = sum(PAID.get(fate, False) for fate in record.fates[: record.done])
        record.told["request_counts"] |= {"completed": answered, "failed": record.done - answered}

    def _finish(self, record: BatchRecord, status: str) -> None:
        for name, lines in zip(
            ("output_file_id", "error_file_id"), result_lines(record, self._lines(record), self.reply), strict=True
        ):
            if lines:
                record.told[name] = self._new_file(b"\n".join(lines) + b"\n", "batch_output")["id"]
        self._becomes(record, status)

    def _becomes(self, record: BatchRecord, status: str) -> None:
        record.told["status"] = status
        record.told[f"{status}_at"] = int(time.time())

    def _lines(self, record: BatchRecord) -> list[bytes]:
        return [raw for raw in self._read(record.told["input_file_id"]).splitlines() if raw.strip()]

    def _read(self, file: str) -> bytes:
        return (self.directory / "files" / file).read_bytes()

    def _new_id(self, kind: str) -> str:
        self._kept.made += 1
        return f"{kind}-{self._kept.made}" if kind == "file" else f"{kind}_{self._kept.made}"

    def _keep(self) -> None:
        new = self.directory / "state.json.new"
        new.write_bytes(msgspec.json.encode(self._kept))
        new.replace(self.directory / "state.json")


def _of(kept: dict[str, Any], request: web.Request) -> Any:
    found = kept.get(request.match_info["id"])
    if found is None:
        said = json.dumps({"error": {"message": "not found", "type": "invalid_request_error", "code": None}})
        raise web.HTTPNotFound(text=said, content_type="application/json")
    return found


def _error(status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None) -> web.Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    said = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return web.json_response(said, status=status, headers=headers)
