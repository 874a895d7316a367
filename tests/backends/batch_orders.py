"""What `faulty_batches` keeps on disk, and how it answers a request line: fates, files, pages."""

import hashlib
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec import json as msgjson

Body = dict[str, Any]
Reply = Callable[[Body, int], str]  # a request's body and the number of the choice, to the choice's text
ENDED = ("completed", "failed", "expired", "cancelled")
ENDPOINTS = ("/v1/chat/completions", "/v1/completions")
_MARK = re.compile(rb"\[\[([\w-]+)(?:\*(\d+))?\]\]")

# What may become of a line, and whether it is carried out, which is to say paid.
PAID = {"ok": True, "lost": True, "malformed": True, "cut": True, "twice": True, "unknown-id": True, "no-choices": True}
UNPAID = {"429": False, "500": False, "503": False, "400": False, "left-out": False, "expired": False, "invalid": False}
FATES = PAID | UNPAID


class Order(Struct):
    """What becomes of one batch. A line not named in `fates` does as its body says: `[[500]]`, `[[500*2]]`, else ok.

    - ok: answered in the output file; `twice` stands in it twice; `no-choices` has an answer of no use
    - 429, 500, 503, 400: in the error file with that status, not carried out
    - left-out: in neither file, and not carried out; `lost`: in neither file, but carried out and paid
    - malformed, cut: its output line is no JSON, or half of it; `unknown-id`: has a custom_id that nobody sent
    - expired: in the error file with code batch_expired
    - invalid: the whole batch fails, and its errors name the line
    """

    reorder: int | None = None  # the seed of the output file's order; None: the order of the input
    expire_after: int | None = None  # the window ends when so many lines were carried out
    fates: dict[int, str] = {}  # by line, from 0
    fail: str | None = None  # the code of an error of the whole batch, such as token_limit_exceeded
    fail_line: int | None = None  # the line that this error names
    says: str | None = None  # the message of lines that fail
    hold: bool = False  # stay in_progress until released
    done: int = 0  # lines that are carried out as soon as it is in progress
    late: bool = False  # the files have no names yet when it is first said to be completed
    unlisted: bool = False  # lines that were not carried out are in no file


class BatchRecord(Struct):
    """A batch: what the API tells of it, what was ordered, and what becomes of each line."""

    told: Body
    order: Order
    fates: list[str] = []
    custom_ids: list[str] = []
    done: int = 0


class Kept(Struct):
    """All a server knows; written at each change, so that another can go on with it."""

    files: dict[str, Body] = {}
    batches: dict[str, BatchRecord] = {}
    orders: list[Order] = []
    disturbances: dict[str, list[str]] = {}
    seen: dict[str, int] = {}
    made: int = 0


class Paid(Struct):
    """A request that was carried out; `batch` is None for a live one."""

    batch: str | None
    custom_id: str | None
    body: Body
    reply: Body


class Asked(Struct):
    """A request by HTTP; `status` 0 where it got no reply."""

    route: str
    path: str
    status: int


def paid(directory: Path) -> list[Paid]:
    """Every request that a server of this directory carried out, in order."""
    return _read(directory / "paid.jsonl", Paid)


def asked(directory: Path) -> list[Asked]:
    """Every request by HTTP that came to servers of this directory, in order of their ends."""
    return _read(directory / "asked.jsonl", Asked)


def _read(path: Path, kind: Any) -> list[Any]:
    return [msgjson.decode(line, type=kind) for line in path.read_bytes().splitlines()] if path.exists() else []


def append(path: Path, entries: list[Any]) -> None:
    """All in one write, so that a kill leaves all or nothing."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, b"".join(msgjson.encode(entry) + b"\n" for entry in entries))
    finally:
        os.close(file)


def echo(body: Body, choice: int) -> str:
    """The reply where a test gives none: other for another body or choice, always the same for the same."""
    said = json.dumps(body, sort_keys=True)
    return f"answer {hashlib.blake2b(f'{choice} {said}'.encode(), digest_size=4).hexdigest()}"


def answer(body: Body, reply: Reply) -> Body:
    """The whole reply to a request; a word is a token."""
    chat = "messages" in body
    texts = [reply(body, i) for i in range(body.get("n") or 1)]
    choices = [
        {"index": i, "finish_reason": "stop", **_said(chat, text), "logprobs": None} for i, text in enumerate(texts)
    ]
    prompt = json.dumps(body.get("messages") or body.get("prompt"))
    given, made = len(prompt.split()), sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
    kind = "chat.completion" if chat else "text_completion"
    return {"id": "cmpl-1", "object": kind, "created": 1, "model": body["model"], "choices": choices, "usage": usage}


def _said(chat: bool, text: str) -> Body:
    return {"message": {"role": "assistant", "content": text}} if chat else {"text": text}


def fate_of(line: bytes, seen: dict[str, int]) -> str:
    """What a line's own mark says; `[[500*2]]` holds for the first two times that such a body comes."""
    found = _MARK.search(line)
    if found is None or found[1].decode() not in FATES:
        return "ok"
    if found[2] is not None:
        place = hashlib.blake2b(json.dumps(json.loads(line)["body"], sort_keys=True).encode()).hexdigest()
        seen[place] = seen.get(place, 0) + 1
        if seen[place] > int(found[2]):
            return "ok"
    return found[1].decode()


def faults_of(lines: list[bytes], endpoint: str) -> list[Body]:
    """What is wrong with an input file, as the API tells of it: lines count from 1."""
    faults: list[Body] = []
    ids: set[str] = set()
    model: str | None = None
    for number, raw in enumerate(lines, 1):
        code, message, param = _fault(raw, endpoint, ids, model)
        if code:
            faults.append({"code": code, "message": message, "line": number, "param": param})
        elif model is None:
            model = json.loads(raw)["body"]["model"]
    if not lines:
        faults.append({"code": "empty_file", "message": "The input file is empty.", "line": None, "param": None})
    if len(lines) > 50_000:
        faults.append({"code": "too_many_tasks", "message": "Too many requests.", "line": None, "param": None})
    return faults


def _fault(raw: bytes, endpoint: str, ids: set[str], model: str | None) -> tuple[str, str, str | None]:
    try:
        line = json.loads(raw)
        custom_id, method, url, body = line["custom_id"], line["method"], line["url"], line["body"]
        named = body["model"]
    except ValueError:
        return "invalid_json_line", "This line is not parseable as valid JSON.", None
    except (KeyError, TypeError) as error:
        return "missing_required_parameter", f"Missing required parameter: {error}.", str(error).strip("'")
    checks = [
        (not isinstance(custom_id, str) or not custom_id, "invalid_type", "custom_id"),
        (custom_id in ids, "duplicate_custom_id", "custom_id"),
        (method != "POST", "invalid_method", "method"),
        (url != endpoint, "invalid_url", "url"),
        (bool(body.get("stream")), "invalid_request", "body.stream"),
        (model is not None and named != model, "mismatched_model", "body.model"),
    ]
    ids.add(str(custom_id))
    return next(((code, f"{param}: {code}", param) for wrong, code, param in checks if wrong), ("", "", None))


def result_lines(record: BatchRecord, lines: list[bytes], reply: Reply) -> tuple[list[bytes], list[bytes]]:
    """The lines of the output file and of the error file of a batch that is at its end."""
    output: list[bytes] = []
    errors: list[bytes] = []
    ending = "batch_cancelled" if record.told["status"] == "cancelling" else "batch_expired"
    for number, (raw, fate) in enumerate(zip(lines, record.fates, strict=True)):
        line = json.loads(raw)
        if number >= record.done or fate == "expired":
            if not record.order.unlisted:
                code = ending if number >= record.done else "batch_expired"
                errors.append(_line(number, line["custom_id"], None, {"code": code, "message": "not carried out"}))
        elif PAID.get(fate):
            output += _output(number, line, fate, answer(line["body"], reply))
        elif fate != "left-out":
            says = record.order.says or f"this line is to get {fate}"
            said = {"error": {"message": says, "type": None, "param": None, "code": None}}
            errors.append(_line(number, line["custom_id"], {"status_code": int(fate), "body": said}, None))
    if record.order.reorder is not None:
        random.Random(record.order.reorder).shuffle(output)
    return output, errors


def _output(number: int, line: Body, fate: str, body: Body) -> list[bytes]:
    if fate == "lost":
        return []
    if fate == "no-choices":
        body = {**body, "choices": []}
    custom_id = "nobody-sent-this" if fate == "unknown-id" else line["custom_id"]
    whole = _line(number, custom_id, {"status_code": 200, "body": body}, None)
    if fate == "malformed":
        return [b'{"id": oops']
    if fate == "cut":
        return [whole[: len(whole) // 2]]
    return [whole] * (2 if fate == "twice" else 1)


def _line(number: int, custom_id: str, response: Body | None, error: Body | None) -> bytes:
    if response is not None:
        response = {"request_id": f"req_{number}", **response}
    said = {"id": f"batch_req_{number}", "custom_id": custom_id, "response": response, "error": error}
    return json.dumps(said).encode()


def page(newest_first: list[Body], after: str | None, limit: int) -> Body:
    """A page of a list, from behind the entry `after`."""
    ids = [each["id"] for each in newest_first]
    start = ids.index(after) + 1 if after in ids else 0
    data = newest_first[start : start + limit]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": len(newest_first) > start + limit}
