"""What a simulated replica replies: what the prompt asks for, as long as a real reply, and always the same."""

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from zlib import crc32

from benchmarks import technique_mock

_PHRASE = "so the quays counted first give the number which all others add to, with the boats at each taken together, "
_FILLER = " ".join(random.Random(0).choices(_PHRASE.split(), k=20_000))
_MEDIAN, _SIGMA, _MOST = 150, 0.6, 1000  # tokens a reply: log-normal


def rendered(messages: Sequence[dict[str, Any]]) -> str:
    """The prompt as a chat template writes it."""
    return "".join(f"<|{message['role']}|>{message.get('content') or ''}" for message in messages) + "<|assistant|>"


def reply(messages: Sequence[dict[str, Any]], draw: int) -> str:
    """The reply number `draw` to this conversation: the same in every replica and every run."""
    return _reply(tuple((message["role"], message.get("content") or "") for message in messages), draw)


def replied(body: dict[str, Any], choice: int) -> str:
    """The reply to a request of OpenAI's API: by its seed where it has one, so that each draw has its own wherever."""
    return reply(body["messages"], choice if body.get("seed") is None else body["seed"])


@lru_cache(50_000)  # every policy asks the same
def _reply(turns: tuple[tuple[str, str], ...], draw: int) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    said = technique_mock.reply(messages, draw)
    chance = random.Random(crc32(rendered(messages).encode()) * 1_000_003 + draw)
    tokens = min(_MOST, int(chance.lognormvariate(0.0, _SIGMA) * _MEDIAN))
    start = chance.randrange(len(_FILLER) - 4 * _MOST)
    words = _FILLER[start : start + 4 * tokens]
    place = said.find("way ")
    if place < 0:  # a bare score, a verdict, a list: as short as it is
        return said
    end = place + len(said[place:].split(maxsplit=2)[1]) + 4
    return f"{said[:end]} {words} {said[end:]}"
