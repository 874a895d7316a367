"""Rows assigned to parts by a hash of the row: adding rows moves none, and the order does not matter."""

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import accumulate

import msgspec

from shoal.batch.rows import Row
from shoal.errors import UsageError

_encode = msgspec.json.Encoder(order="sorted", enc_hook=str).encode
_TOLERANCE = 1e-9


def parse_shares(text: str) -> dict[str, float]:
    """`train=0.5,test=0.5` as parts and their shares; UsageError where they are not above 0 and at most 1 together."""
    shares: dict[str, float] = {}
    for item in text.split(","):
        name, _, share = (part.strip() for part in item.partition("="))
        try:
            value = float(share)
        except ValueError:
            value = 0.0
        if not name.isidentifier() or name in shares or not 0 < value <= 1:
            raise UsageError(f"--split {text}: expected parts and their shares, as in train=0.5,test=0.5")
        shares[name] = value
    if sum(shares.values()) > 1 + _TOLERANCE:
        raise UsageError(f"--split {text}: the shares are more than 1 together")
    return shares


def split(rows: Iterable[Row], shares: Mapping[str, float], seed: int = 0) -> Iterator[tuple[str, Row]]:
    """Each row with its part; rows beyond the shares are left out. Equal rows go to the same part."""
    ends = list(accumulate(shares.values()))
    if ends[-1] > 1 - _TOLERANCE:
        ends[-1] = 1.0  # all there is, whatever the rounding of the sum
    for row in rows:
        place = _place(row, seed)
        for name, end in zip(shares, ends, strict=True):
            if place < end:
                yield name, row
                break


def _place(row: Row, seed: int) -> float:
    """Where in [0, 1) a row lies."""
    digest = blake2b(b"%d:" % seed + _encode(row), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / (1 << 53)
