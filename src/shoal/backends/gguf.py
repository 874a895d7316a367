"""Reading GGUF files, and rewriting Q4_1 weights as Q8_0.

OpenVINO's reader rounds the minimum of a Q4_1 block to a whole step, which changes every third token of a small
model; its Q8_0 is exact to the last bit that matters. The file is rewritten once and kept in the user's cache.
"""

import os
import struct
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from msgspec import Struct

from shoal.errors import UsageError

Q4_1, Q8_0 = 3, 8
_BLOCK = 32  # weights in a block of either
_BYTES = {Q4_1: 20, Q8_0: 34}
_SCALARS = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_ROWS = 1 << 16  # blocks converted at once


class Tensor(Struct):
    name: bytes
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def weights(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


class Header(Struct):
    """What stands before the weights. `metadata` leaves arrays out; `fields` is the metadata as it is in the file."""

    version: int
    count: int
    metadata: dict[str, Any]
    fields: bytes
    tensors: list[Tensor]
    data: int

    @property
    def context(self) -> int | None:
        """Tokens the model was trained to see at once."""
        return self.metadata.get(f"{self.metadata.get('general.architecture')}.context_length")


def read_header(path: Path) -> Header:
    """UsageError where the file is cut short or is of another version."""
    try:
        with path.open("rb") as file:
            file.seek(4)
            version, tensors, count = struct.unpack("<IQQ", file.read(20))
            start = file.tell()
            metadata = dict(_field(file) for _ in range(count))
            end = file.tell()
            infos = [_tensor(file) for _ in range(tensors)]
            data = _aligned(file.tell(), metadata)
            file.seek(start)
            return Header(version, count, metadata, file.read(end - start), infos, data)
    except (struct.error, KeyError, UnicodeDecodeError, OverflowError, MemoryError):
        raise UsageError(f"{path}: not a whole GGUF file") from None


def _scalar(file: BinaryIO, kind: int) -> Any:
    form = struct.Struct(_SCALARS[kind])
    return form.unpack(file.read(form.size))[0]


def _bytes(file: BinaryIO) -> bytes:
    size = _scalar(file, 10)
    data = file.read(size)
    if len(data) < size:
        raise struct.error("cut short")
    return data


def _field(file: BinaryIO) -> tuple[str, Any]:
    name = _bytes(file).decode()
    kind = _scalar(file, 4)
    if kind == _STRING:
        return name, _bytes(file).decode("utf-8", "replace")
    if kind != _ARRAY:
        return name, _scalar(file, kind)
    inner, size = struct.unpack("<IQ", file.read(12))
    if inner == _STRING:
        for _ in range(size):
            _bytes(file)
    else:
        file.seek(size * struct.calcsize(_SCALARS[inner]), os.SEEK_CUR)
    return name, None


def _tensor(file: BinaryIO) -> Tensor:
    name = _bytes(file)
    shape = tuple(_scalar(file, 10) for _ in range(_scalar(file, 4)))
    kind, offset = struct.unpack("<IQ", file.read(12))
    return Tensor(name, shape, kind, offset)


def _aligned(position: int, metadata: dict[str, Any]) -> int:
    alignment = int(metadata.get("general.alignment") or 32)
    return -(-position // alignment) * alignment


def exact_weights(path: Path, name: str) -> Path:
    """`path`, or its copy with Q8_0 for Q4_1 where it has such weights: `name` in the cache directory."""
    header = read_header(path)
    if all(tensor.type != Q4_1 for tensor in header.tensors):
        return path
    copy = _directory() / f"{name}.gguf"
    if not copy.is_file():
        handle, temporary = tempfile.mkstemp(dir=copy.parent)
        try:
            with open(handle, "wb") as target, path.open("rb") as source:  # noqa: PTH123 - the handle is open already
                _rewrite(header, source, target)
            Path(temporary).replace(copy)
        finally:
            Path(temporary).unlink(missing_ok=True)
    return copy


def _directory() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shoal" / "weights"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError:
        pass
    else:
        if os.access(home, os.W_OK):
            return home
    return Path(tempfile.gettempdir())


def _rewrite(header: Header, source: BinaryIO, target: BinaryIO) -> None:
    infos, place, places = [], 0, []
    for tensor in header.tensors:
        kind = Q8_0 if tensor.type == Q4_1 else tensor.type
        infos.append(
            struct.pack("<Q", len(tensor.name))
            + tensor.name
            + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            + struct.pack("<IQ", kind, place)
        )
        places.append(place)
        place = _aligned(place + _size(tensor, kind, header), header.metadata)
    target.write(b"GGUF" + struct.pack("<IQQ", header.version, len(infos), header.count) + header.fields)
    target.write(b"".join(infos))
    start = _aligned(target.tell(), header.metadata)
    for tensor, place in zip(header.tensors, places, strict=True):
        source.seek(header.data + tensor.offset)
        target.seek(start + place)
        if tensor.type == Q4_1:
            _convert(source, target, tensor.weights // _BLOCK)
        else:
            target.write(source.read(_size(tensor, tensor.type, header)))


def _size(tensor: Tensor, kind: int, header: Header) -> int:
    if kind in _BYTES:
        return tensor.weights // _BLOCK * _BYTES[kind]
    ends = [other.offset for other in header.tensors if other.offset > tensor.offset]
    return min(ends) - tensor.offset if ends else tensor.weights * 4


def _convert(source: BinaryIO, target: BinaryIO, blocks: int) -> None:
    import numpy as np

    for done in range(0, blocks, _ROWS):
        count = min(_ROWS, blocks - done)
        rows = np.frombuffer(source.read(count * _BYTES[Q4_1]), np.uint8).reshape(count, _BYTES[Q4_1])
        scale, least = rows[:, :4].copy().view("<f2").astype(np.float32).T[:, :, None]
        steps = np.concatenate((rows[:, 4:] & 15, rows[:, 4:] >> 4), axis=1)
        weights = steps * scale + least
        unit = (np.abs(weights).max(axis=1, keepdims=True) / 127).astype("<f2")
        inverse = np.divide(1, unit, out=np.zeros_like(unit, np.float32), where=unit > 0, dtype=np.float32)
        whole = np.rint(weights * inverse).clip(-127, 127).astype(np.int8)
        target.write(np.concatenate((unit.view(np.uint8), whole.view(np.uint8)), axis=1).tobytes())
