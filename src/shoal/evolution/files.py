"""Files of folders that may come from somebody else: regular ones only, of bounded size."""

from pathlib import Path
from typing import Any

import msgspec

from shoal.errors import UsageError

_LARGEST = 16 << 20  # bytes


def read_bytes(path: Path) -> bytes:
    """What a file holds; UsageError where it cannot be read, is too large, or is a device or pipe without end."""
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: cannot be read: it is no regular file")
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > _LARGEST:
        raise UsageError(f"{path}: larger than {_LARGEST >> 20} MiB")
    return data


def read_text(path: Path) -> str:
    """The same as UTF-8 text."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def read_json(path: Path) -> Any:
    """The same as JSON."""
    try:
        return msgspec.json.decode(read_bytes(path).removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON ({error})") from None
