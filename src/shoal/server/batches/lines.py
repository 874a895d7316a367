"""The lines of an input file: reading them one by one, and saying what is wrong with them before anything is spent."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from shoal.server.batches.objects import Fault
from shoal.server.refusals import Refusal

MOST_LINES = 50_000
_MOST_FAULTS = 100
_TURN = 0.005  # seconds of checking before others have their turn
_BOM = b"\xef\xbb\xbf"


class Line(Struct, frozen=True):
    """One request of an input file."""

    custom_id: Annotated[str, Meta(min_length=1, max_length=512)]
    method: str
    url: str
    body: Raw


class _Streams(Struct):
    stream: bool | None = None
    model: str | None = None


def read_lines(path: Path, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """The lines that are not blank, by their numbers from 1; None where one is longer than `longest` bytes."""
    with path.open("rb") as file:
        number = 0
        while data := file.readline(longest + 1):
            number += 1
            whole: bytes | None = data
            while len(data) > longest and not data.endswith(b"\n"):
                whole = None
                data = file.readline(longest + 1)
            if number == 1 and whole is not None:
                whole = whole.removeprefix(_BOM)
            if whole is None or whole.strip():
                yield number, whole


def decoded(data: bytes) -> Line:
    """A line as a request; ValueError says what it is instead."""
    return msgspec.json.decode(data, type=Line)


class Checked(Struct):
    """What an input file turned out to be: its number of lines, and the one model they name, if it is one."""

    total: int = 0
    model: str | None = None
    faults: list[Fault] = []


class Checking:
    """Goes through an input file. `read` raises Refusal for a body that nobody here could answer."""

    def __init__(self, endpoint: str, read: Callable[[bytes], object]) -> None:
        self._endpoint = endpoint
        self._read = read
        self._ids: dict[str, int] = {}
        self._models: set[str | None] = set()

    async def file(self, path: Path, longest: int) -> Checked:
        """All of it, or up to a hundred faults. Others have their turn meanwhile."""
        checked = Checked()
        since = perf_counter()
        for number, data in read_lines(path, longest):
            checked.total += 1
            if checked.total > MOST_LINES:
                message = f"the file has more than {MOST_LINES} lines"
                checked.faults.append(Fault("too_many_lines", message, number))
                break
            fault = self._fault(number, data, longest)
            if fault is not None:
                checked.faults.append(fault)
                if len(checked.faults) == _MOST_FAULTS:
                    break
            if perf_counter() - since > _TURN:
                await asyncio.sleep(0)
                since = perf_counter()
        if not checked.total:
            checked.faults.append(Fault("empty_file", "the file has no lines"))
        if len(self._models) == 1:
            checked.model = self._models.pop()
        return checked

    def _fault(self, number: int, data: bytes | None, longest: int) -> Fault | None:
        if data is None:
            return Fault("line_too_long", f"the line is longer than the {longest} bytes allowed", number)
        try:
            line = decoded(data)
            asked = msgspec.json.decode(line.body, type=_Streams)
        except msgspec.ValidationError as error:
            return Fault("invalid_request", f"not a request of a batch: {error}", number)
        except RecursionError:
            return Fault("invalid_json_line", "nested too deeply", number)
        except ValueError as error:
            return Fault("invalid_json_line", f"not a JSON object: {error}", number)
        return self._fault_of(number, line, asked)

    def _fault_of(self, number: int, line: Line, asked: _Streams) -> Fault | None:
        first = self._ids.setdefault(line.custom_id, number)
        if first != number:
            message = f"custom_id {line.custom_id[:100]!r} stands in line {first} already"
            return Fault("duplicate_custom_id", message, number, "custom_id")
        if line.method != "POST":
            return Fault("invalid_method", "method: must be POST", number, "method")
        if line.url != self._endpoint:
            return Fault("invalid_url", f"url: must be the batch's endpoint, {self._endpoint}", number, "url")
        if asked.stream:
            return Fault("invalid_request", "body.stream: a batch does not stream", number, "body.stream")
        try:
            self._read(bytes(line.body))
        except Refusal as refusal:
            param = f"body.{refusal.param}" if refusal.param else "body"
            return Fault(refusal.code or "invalid_request", str(refusal), number, param)
        self._models.add(asked.model)
        return None
