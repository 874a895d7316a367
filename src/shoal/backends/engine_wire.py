"""What an engine's process is asked and what it answers: frames of msgpack on a pipe."""

import struct
from typing import IO

import msgspec
from msgspec import Struct

from shoal.runtime.types import Completion, Request, SamplingParams

LENGTH = struct.Struct("<I")


class Ask(Struct, tag="ask", array_like=True):
    """`n` draws of one prompt: a conversation as (role, text) pairs, or bare text.

    With `score` there is nothing to draw: how likely is the only choice?
    """

    id: int
    prompt: str | list[tuple[str, str]]
    n: int
    seed: int
    params: SamplingParams
    stream: bool
    score: bool = False


class Count(Struct, tag="count", array_like=True):
    """How many tokens a prompt has."""

    id: int
    prompt: str | list[tuple[str, str]]


class Draw(Struct, tag="draw", array_like=True):
    """`n` draws of a whole request, as programs of that age ask them; with `adapter` by the model that it names."""

    id: int
    request: Request
    n: int = 1
    stream: bool = False
    age: int = 0
    adapter: str = ""


class Measure(Struct, tag="measure", array_like=True):
    """How many tokens the prompt of a whole request has."""

    id: int
    request: Request


class Drop(Struct, tag="drop", array_like=True):
    """Nobody waits for this call any more."""

    id: int


class Output(Struct, array_like=True):
    """One draw. `logprobs` names each token of the text with its log-probability, where asked for."""

    text: str
    finish_reason: str
    tokens: int
    logprobs: list[tuple[str, float]] | None = None


class Piece(Struct, tag="piece", array_like=True):
    """The next characters of a call that streams: of its text, of the model's thoughts."""

    id: int
    text: str
    reasoning: str = ""


class Done(Struct, tag="done", array_like=True):
    id: int
    prompt_tokens: int
    outputs: list[Output]


class Drawn(Struct, tag="drawn", array_like=True):
    """The answer to Draw; the prompt is paid for with the first."""

    id: int
    completions: list[Completion]


class Counted(Struct, tag="counted", array_like=True):
    id: int
    tokens: int


class Refused(Struct, tag="refused", array_like=True):
    """A call that gets no answer. `kind` is "request", "context", "engine" or "ended"."""

    id: int
    kind: str
    message: str


class Fatal(Struct, tag="fatal", array_like=True):
    """The engine does not start, or has failed for good: no call gets an answer."""

    message: str


Call = Ask | Count | Draw | Measure
Order = Call | Drop
Answer = Piece | Done | Drawn | Counted | Refused
Reply = Answer | Fatal

encode = msgspec.msgpack.Encoder().encode
decode_orders = msgspec.msgpack.Decoder(list[Order]).decode
decode_replies = msgspec.msgpack.Decoder(list[Reply]).decode


def write_frame(file: IO[bytes], data: bytes) -> None:
    file.write(LENGTH.pack(len(data)) + data)
    file.flush()


def read_frame(file: IO[bytes]) -> bytes | None:
    """The next frame, or None where the other side has ended."""
    head = file.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    data = file.read(size)
    return data if len(data) == size else None
