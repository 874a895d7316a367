"""The lines of a batch's files: requests as they are written, replies as they are read. Pure, no connection."""

from asyncio import Future, get_running_loop
from enum import Enum
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Raw, Struct, structs

from shoal.backends.openai_wire import Server, error_of
from shoal.errors import DeadlineExceeded, ModelError, ShoalError
from shoal.runtime.backend import Draws, Outcome
from shoal.runtime.types import Request

Endpoint = Literal["/v1/chat/completions", "/v1/completions"]
_encode = msgspec.json.Encoder().encode


def endpoint_of(request: Request) -> Endpoint:
    return "/v1/chat/completions" if request.prompt is None else "/v1/completions"


def custom_id(keys: list[bytes]) -> str:
    """The name of a request in its file: the same for the same draws, in every process."""
    return blake2b(b"\0".join(keys), digest_size=16).hexdigest()


def request_line(name: str, endpoint: Endpoint, body: bytes) -> bytes:
    return _encode({"custom_id": name, "method": "POST", "url": endpoint, "body": Raw(body)}) + b"\n"


class Reply(Struct, frozen=True, omit_defaults=True):
    """What a batch's files say to one request: a status and a body, or the provider's reason why there is none."""

    status: int = 0
    body: Raw = Raw(b"null")
    code: str = ""
    message: str = ""


class _Response(Struct):
    status_code: int
    body: Raw = Raw(b"null")


class _Error(Struct):
    code: Any = None
    message: Any = None


class _Line(Struct):
    custom_id: str
    response: _Response | None = None
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Line).decode


def read_line(line: bytes) -> tuple[str, Reply] | None:
    """Which request a line is about, and what it says; None where it is no such line."""
    try:
        read = _decode(line)
    except (ValueError, RecursionError):
        return None
    if read.response is not None and read.response.status_code:
        return read.custom_id, Reply(read.response.status_code, read.response.body)
    if read.error is None:
        return None
    return read.custom_id, Reply(code=str(read.error.code or "")[:100], message=str(read.error.message or "")[:500])


def drawn(reply: Reply) -> bool:
    """Whether the reply is one that was paid for."""
    return 200 <= reply.status < 300


def failure(reply: Reply, server: Server) -> ModelError:
    """The error that a reply without an answer tells of."""
    if reply.status:
        return error_of(reply.status, {}, bytes(reply.body), server)
    if reply.code == "batch_expired":
        return DeadlineExceeded("not answered within the batch's completion window", endpoint=server.name)
    if reply.code == "batch_cancelled":
        return cancelled(server)
    said = {"error": {"code": reply.code, "message": reply.message}}
    return error_of(200, {}, _encode(said), server)


def cancelled(server: Server) -> ModelError:
    return ModelError("the batch was cancelled before this call was made", endpoint=server.name, retryable=False)


class Turn(Enum):
    """What becomes of a request that did not travel to an end."""

    AGAIN = "again"  # it travels in another wave
    LIVE = "live"  # it is to be asked at once


class Joined(NamedTuple):
    """A request that travels in another of its wave, whose draws from `start` on are its own."""

    line: "Line"
    start: int


Landed = Reply | ShoalError | Turn | Joined


class Line:
    """One request of a wave, and where those wait who want its draws.

    `draws` is the question and how many draws of it; None for one that an earlier process sent. `keys` are the draws'.
    """

    __slots__ = ("draws", "id", "keys", "landed", "waiting")

    def __init__(self, keys: list[bytes], draws: Draws | None, id_: int = 0) -> None:
        self.id = id_
        self.keys = keys
        self.draws = draws
        self.waiting = 0
        self.landed: Future[Landed] = get_running_loop().create_future()

    def land(self, outcome: Landed) -> None:
        if not self.landed.done():
            self.landed.set_result(outcome)


def draws_of(request: Request, samples: list[tuple[int, ...]]) -> Draws:
    """The question, asked for the draws of these paths."""
    return Draws(structs.replace(request, sample=samples[0]), len(samples), tuple(samples))


def together(lines: list[Line], most: int) -> list[Line]:
    """The same draws in fewer requests: those of a question in one, of `most` at most, which pays for the prompt once.

    Who waits for a line that is no more is told where its draws travel.
    """
    found: dict[object, list[list[Line]]] = {}
    for line in lines:
        assert line.draws is not None
        question = line.draws.request.question()
        alone = question.params.seed is not None  # names one draw
        groups = found.setdefault(line if alone else question, [[]])
        if sum(len(each.keys) for each in groups[-1]) + len(line.keys) > most:
            groups.append([])
        groups[-1].append(line)
    return [_one(group) for groups in found.values() for group in groups if group]


def _one(lines: list[Line]) -> Line:
    if len(lines) == 1:
        return lines[0]
    assert lines[0].draws is not None
    drawn = [line.draws for line in lines if line.draws is not None]
    samples = [sample for draws in drawn for sample in (draws.samples or (draws.request.sample,))]
    one = Line([key for line in lines for key in line.keys], draws_of(lines[0].draws.request, samples))
    start = 0
    for line in lines:
        line.land(Joined(one, start))
        start += len(line.keys)
    return one


def at_batch_price(outcome: Outcome) -> Outcome:
    """The answers of a line, with usages that say how they were asked for."""
    if isinstance(outcome, ModelError):
        return outcome
    return [structs.replace(completion, usage=completion.usage.by_batch()) for completion in outcome]
