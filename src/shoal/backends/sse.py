"""Server-sent events: bytes as they come, events out, however the bytes are cut."""

import re

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"


class SseParser:
    """Feed it bytes; it gives the data of each event that is whole. An event cut off at the end is no event."""

    def __init__(self) -> None:
        self._rest = bytearray()  # an unfinished line
        self._scanned = 0  # how much of it holds no line end
        self._data: list[bytes] = []
        self._after_cr = False
        self._first = True

    def feed(self, chunk: bytes) -> list[bytes]:
        if not chunk:
            return []
        if self._after_cr:  # the second half of a CRLF
            chunk = chunk.removeprefix(b"\n")
        rest = self._rest
        rest += chunk
        events: list[bytes] = []
        start = 0
        for end in _LINE_END.finditer(rest, self._scanned):
            self._line(bytes(rest[start : end.start()]), events)
            start = end.end()
        self._after_cr = rest.endswith(b"\r")
        if start:
            del rest[:start]
        self._scanned = len(rest)
        return events

    def _line(self, line: bytes, events: list[bytes]) -> None:
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._data = []
            return
        name, _, value = line.partition(b":")
        if name == b"data":  # comments, ids, names and retry times say nothing about the answer
            self._data.append(value.removeprefix(b" "))
