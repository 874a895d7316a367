"""From the tokens of one draw to its text: whole characters, nothing from a stop string on."""

import codecs
from collections.abc import Sequence

from shoal.backends.engine_wire import Output


class Draft:
    """A draw under way. `pieces` gives the bytes of each token: a token can end within a character."""

    def __init__(self, pieces: Sequence[bytes], stops: Sequence[str]) -> None:
        self.ids: list[int] = []
        self.finish_reason = ""
        self._pieces = pieces
        self._stops = [stop.encode() for stop in stops if stop]
        self.logprobs: list[float] = []
        self._raw = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._shown = 0

    def extend(self, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        self.ids += ids
        self.logprobs += logprobs
        for token in ids:
            self._raw += self._pieces[token]

    @property
    def stopped(self) -> bool:
        """Whether a stop string is there."""
        return bool(self._stops) and self._cut() is not None

    def new_text(self) -> str:
        """What has come since the last time and can no longer become part of a stop string or of a character."""
        cut = self._cut()
        end = max(self._shown, len(self._raw) - self._held() if cut is None else cut)
        text = self._decoder.decode(bytes(self._raw[self._shown : end]), final=bool(self.finish_reason))
        self._shown = end
        return text

    def output(self, *, logprobs: bool) -> Output:
        """The finished draw."""
        cut = self._cut()
        text = bytes(self._raw[:cut]).decode("utf-8", "replace")
        reason = self.finish_reason if cut is None else "stop"
        return Output(text, reason, len(self.ids), self._named() if logprobs else None)

    def shown(self) -> list[int]:
        """Which of the tokens are in the text, in part at least."""
        cut, place, shown = self._cut(), 0, []
        for i, token in enumerate(self.ids):
            piece = self._pieces[token]
            if piece and (cut is None or place < cut):
                shown.append(i)
            place += len(piece)
        return shown

    def _named(self) -> list[tuple[str, float]]:
        return [(self._pieces[self.ids[i]].decode("utf-8", "replace"), self.logprobs[i]) for i in self.shown()]

    def _cut(self) -> int | None:
        """Where the first stop string begins."""
        return min((at for stop in self._stops if (at := self._raw.find(stop)) >= 0), default=None)

    def _held(self) -> int:
        """Bytes at the end that may be the beginning of a stop string."""
        if self.finish_reason:
            return 0
        return max((_overlap(self._raw, stop) for stop in self._stops), default=0)


def _overlap(raw: bytearray, stop: bytes) -> int:
    return next((size for size in range(min(len(stop) - 1, len(raw)), 0, -1) if raw.endswith(stop[:size])), 0)
