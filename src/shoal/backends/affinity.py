"""Which member has seen how much of a prompt, so that what shares a beginning goes where it is in the engine's cache.

A prompt is cut into blocks, and each block's hash holds all that is before it. The sizes are llm-d's (its prefix
scorer: blocks of 64 tokens, here 256 characters; the first 256 blocks; 31,250 blocks remembered for each server). The
rule is that of SGLang's cache-aware policy: a warm server is preferred where it has seen at least 0.3 of the prompt,
unless its load is above the least by more than a margin and by more than half. SGLang's margin is 64 requests at a
server; a request here may hold a hundred draws, so that it is 8.
"""

from collections import OrderedDict
from collections.abc import Iterator

from shoal.runtime.types import Request

_BLOCK, _MOST_BLOCKS = 256, 256
_REMEMBERED = 31_250  # blocks a member
_WARM = 0.3
_MARGIN, _RATIO = 8.0, 1.5


def text_of(request: Request) -> str:
    """The beginning of the prompt, in the order in which chat templates write it."""
    room = _BLOCK * _MOST_BLOCKS
    pieces: list[str] = []
    for piece in _pieces(request):
        pieces.append(piece)
        room -= len(piece)
        if room <= 0:
            break
    return "\0".join(pieces)


def _pieces(request: Request) -> Iterator[str]:
    yield from (tool.text for tool in request.tools)
    if request.prompt is not None:
        yield request.prompt
    for message in request.messages:
        yield message.role
        if message.content is not None:
            yield message.content if isinstance(message.content, str) else message.content.text
        yield from (call.text for call in message.tool_calls)


def blocks_of(text: str | bytes) -> list[int]:
    """The hashes of the prompt's growing beginnings, in whole blocks."""
    blocks = []
    before = 0
    for start in range(0, min(len(text) // _BLOCK, _MOST_BLOCKS) * _BLOCK, _BLOCK):
        before = hash((before, text[start : start + _BLOCK]))
        blocks.append(before)
    return blocks


class Prefixes:
    """The beginnings that each of `members` members has seen, the latest ones."""

    def __init__(self, members: int, most: int | None = None) -> None:
        self._most = most or members * _REMEMBERED
        self._seen: OrderedDict[int, int] = OrderedDict()  # from a block to the members that saw it, as bits

    def __len__(self) -> int:
        return len(self._seen)

    def note(self, blocks: list[int], member: int) -> None:
        """The member is given a prompt. The first blocks are the last to be forgotten: without them no other counts."""
        for block in reversed(blocks):
            self._seen[block] = self._seen.get(block, 0) | 1 << member
            self._seen.move_to_end(block)
        while len(self._seen) > self._most:
            self._seen.popitem(last=False)

    def warmest(self, blocks: list[int]) -> int:
        """The members that have seen most of the prompt, as bits; 0 where none has seen enough of it."""
        most, depth = 0, 0
        seen = -1
        for block in blocks:
            seen &= self._seen.get(block, 0)
            if not seen:
                break
            most, depth = seen, depth + 1
        return most if depth and depth >= _WARM * len(blocks) else 0


def overloaded(load: float, least: float) -> bool:
    """Whether being warm is not worth the wait."""
    return load - least > _MARGIN and load > _RATIO * least
