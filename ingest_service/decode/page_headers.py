"""The sizes that a Parquet file's pages declare, seen as a column chunk's bytes pass by. Pure.

Arrow reads and decompresses a page as a whole, and the footer does not tell how large pages are, nor need it be honest.
Format: https://parquet.apache.org/docs/file-format/ ; Thrift's compact protocol.
"""

from __future__ import annotations

from dataclasses import dataclass

# As Arrow has it. A header holds the smallest and the largest value of its page, so it can be long.
MAX_HEADER_BYTES = 16 * 1024 * 1024
_STRUCT, _BINARY, _DOUBLE, _BYTE = 12, 8, 7, 3
_FLAGS, _INTEGERS = (1, 2), (4, 5, 6)
_UNCOMPRESSED_SIZE, _COMPRESSED_SIZE = 2, 3
# The statistics of a data page are a struct in a struct in the header.
_DEEPEST = 8


class NoHeader(Exception):
    """The bytes are no page header."""


class _TooShort(Exception):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class PageHeader:
    """What a page takes, before and after decompression, and its header before it."""

    header_bytes: int
    compressed_bytes: int
    uncompressed_bytes: int


def read_page_header(data: bytes, begin: int = 0) -> PageHeader | None:
    """The header that begins there; None where `data` ends within it. Raises NoHeader."""
    sizes: dict[int, int] = {}
    try:
        end = _struct(data, begin, sizes)
    except _TooShort:
        if len(data) - begin > MAX_HEADER_BYTES:
            raise NoHeader(f"longer than {MAX_HEADER_BYTES} bytes") from None
        return None
    uncompressed, compressed = sizes.get(_UNCOMPRESSED_SIZE, -1), sizes.get(_COMPRESSED_SIZE, -1)
    if uncompressed < 0 or compressed < 0:
        raise NoHeader("it tells no sizes")
    return PageHeader(header_bytes=end - begin, compressed_bytes=compressed, uncompressed_bytes=uncompressed)


class PagesSeen:
    """The pages of one chunk, which lies at `begin` to `end` in its file; `largest_bytes` of those seen so far."""

    def __init__(self, begin: int, end: int) -> None:
        self.begin = begin
        self.end = end
        self.largest_bytes = 0
        self._next_header = begin
        self._held = b""

    def see(self, position: int, data: bytes) -> None:
        """These bytes are read: every byte at least once, none before those ahead of it. Raises NoHeader."""
        reach = self._next_header + len(self._held)
        if self._next_header >= self.end or position + len(data) <= reach:
            return
        if position > reach:
            raise NoHeader("it was passed over")
        self._held += data[reach - position :]
        while self._held and self._next_header < self.end:
            header = read_page_header(self._held)
            if header is None:
                return
            self.largest_bytes = max(self.largest_bytes, header.compressed_bytes, header.uncompressed_bytes)
            whole_bytes = header.header_bytes + header.compressed_bytes
            self._next_header += whole_bytes
            self._held = self._held[whole_bytes:]
        self._held = b""


def _struct(data: bytes, at: int, integers: dict[int, int], depth: int = 1) -> int:
    """Where the struct ends; its own integer fields go into `integers` by number."""
    if depth > _DEEPEST:
        raise NoHeader("structs in structs")
    number = 0
    while head := _byte(data, at):
        at += 1
        kind = head & 0x0F
        if head >> 4:
            number += head >> 4
        else:
            number, at = _zigzag(data, at)
        if kind in _INTEGERS:
            integers[number], at = _zigzag(data, at)
        else:
            at = _passed(data, at, kind, depth)
    return at + 1


def _passed(data: bytes, at: int, kind: int, depth: int) -> int:
    """Where a value that is no integer ends."""
    if kind in _FLAGS:
        return at
    if kind == _BYTE:
        return at + 1
    if kind == _DOUBLE:
        return at + 8
    if kind == _BINARY:
        size, at = _varint(data, at)
        return at + size
    if kind == _STRUCT:
        return _struct(data, at, {}, depth + 1)
    raise NoHeader(f"a field of type {kind}, which no page header has")


def _byte(data: bytes, at: int) -> int:
    if at >= len(data):
        raise _TooShort
    return data[at]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = _byte(data, at)
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise NoHeader("an integer without an end")


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at
