"""Serialised rows as they travel: walks framed messages without decoding them, to count and to hash. Pure.

A row is field 1 of a response, length-delimited: 0x0A, a varint, the message.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROW_TAG = 0x0A
_COPY_HEADER_BYTES = 19
_TUPLE = struct.Struct("!hi")
_LENGTH = struct.Struct("!I")


class CheckFailed(Exception):
    """What was measured did not do the work: its time means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """How many rows, and the SHA-256 of their framed bytes."""

    rows: int
    sha256: str


def digest(responses: Iterable[bytes]) -> Digest:
    """The rows of serialised responses; what comes after the rows in a response is left out."""
    rows, hashed = 0, hashlib.sha256()
    for response in responses:
        count, end = row_prefix(response)
        rows += count
        hashed.update(memoryview(response)[:end])
    return Digest(rows=rows, sha256=hashed.hexdigest())


def row_prefix(response: bytes) -> tuple[int, int]:
    """How many rows a response begins with, and where they end."""
    count = position = 0
    size = len(response)
    while position < size and response[position] == ROW_TAG:
        position += 1
        length = shift = 0
        while (byte := response[position]) & 0x80:
            length |= (byte & 0x7F) << shift
            shift += 7
            position += 1
        position += 1 + (length | byte << shift)
        count += 1
    if position > size:
        raise CheckFailed(f"a response of {size} bytes breaks off in row {count}")
    return count, position


def pack_messages(messages: Iterable[bytes]) -> bytes:
    """Messages one behind the other, to be kept in a file."""
    return b"".join(_LENGTH.pack(len(message)) + message for message in messages)


def unpack_messages(packed: bytes) -> Sequence[bytes]:
    """The reverse."""
    messages: list[bytes] = []
    position = 0
    while position < len(packed):
        (length,) = _LENGTH.unpack_from(packed, position)
        position += _LENGTH.size + length
        messages.append(packed[position - length : position])
    return messages


def copy_digest(path: Path) -> Digest:
    """The rows of a binary COPY of one bytea column."""
    return digest(_copied(path.read_bytes()))


def _copied(data: bytes) -> Iterator[bytes]:
    position = _COPY_HEADER_BYTES
    while data[position : position + 2] != b"\xff\xff":
        _, length = _TUPLE.unpack_from(data, position)
        position += _TUPLE.size + length
        yield data[position - length : position]
