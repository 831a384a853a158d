"""The compression formats: each decompresses piece by piece with bounded output, and knows a broken object."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Iterator
from typing import Protocol

import cramjam
import zstandard

from ingest_service.decode.model import MalformedObject

PIECE_BYTES = 64 * 1024
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# Skippable frames: 0x184D2A50 to 0x184D2A5F, little-endian (RFC 8878 3.1.2). pzstd writes one first.
ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
BZIP2_MAGIC = b"BZh"
# What follows "BZh" and the level: pi at the head of a block, or its root at the end of a stream that holds none.
BZIP2_BLOCKS = (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")
# The stream identifier of the framing format (google/snappy, framing_format.txt). Raw snappy has no magic bytes.
SNAPPY_MAGIC = b"\xff\x06\x00\x00sNaPpY"
LONGEST_MAGIC = 10
# One zstd block holds up to 128 KiB and may take 4 bytes; decompressobj() cannot bound its output, so its input is
# bounded: 1 KiB gives at most 32 MiB at once.
ZSTD_INPUT_BYTES = 1024
# The window is memory: 128 MiB is what the zstd command accepts without --long.
ZSTD_WINDOW_BYTES = 128 * 1024 * 1024
# A snappy chunk holds at most 64 KiB, which compressed take 32 + n + n/6 bytes at worst, and 4 of checksum.
SNAPPY_CHUNK_BYTES = 32 + PIECE_BYTES + PIECE_BYTES // 6 + 4


class Codec(Protocol):
    """One compression format."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decompressed bytes in pieces of at most PIECE_BYTES."""

    def finish(self) -> None:
        """Raises MalformedObject where the object ends too early."""


def codec_of(head: bytes) -> Codec:
    """The codec whose magic bytes `head` begins with."""
    if head.startswith(GZIP_MAGIC):
        return Gzip()
    if head.startswith(ZSTD_MAGIC) or (head[1:4] == ZSTD_SKIPPABLE and head[0] >> 4 == 5):
        return Zstd()
    if _begins_bzip2(head):
        return Bzip2()
    if head.startswith(SNAPPY_MAGIC):
        return Snappy()
    return Plain()


def _begins_bzip2(head: bytes) -> bool:
    """Text may begin with BZh9 as well, so what follows counts; of a shorter object as far as it goes."""
    if not head.startswith(BZIP2_MAGIC) or head[3:4] not in b"123456789" or len(head) < 4:
        return False
    return any(block.startswith(head[4:10]) for block in BZIP2_BLOCKS)


class Plain:
    """Bytes as they are, in pieces."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Slices of the data."""
        for start in range(0, len(data), PIECE_BYTES):
            yield data[start : start + PIECE_BYTES]

    def finish(self) -> None:
        """Plain bytes end anywhere."""


class Gzip:
    """RFC 1952, concatenated members included; zero bytes after the last member are padding, as gzip(1) has it."""

    def __init__(self) -> None:
        self._member = _gzip_member()
        self._begun = False
        self._first = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The members' content in pieces of at most PIECE_BYTES."""
        while data:
            if not self._begun:
                data = data if self._first else data.lstrip(b"\0")
                if not data:
                    return
                self._member, self._begun, self._first = _gzip_member(), True, False
            yield from self._inflate(data)
            if self._member.eof:
                data, self._begun = self._member.unused_data, False
            else:
                data = b""

    def _inflate(self, data: bytes) -> Iterator[bytes]:
        """All that the member gives for this input; a full piece means that zlib may hold back more."""
        full = True
        while (data or full) and not self._member.eof:
            try:
                piece = self._member.decompress(data, PIECE_BYTES)
            except zlib.error as exc:
                raise MalformedObject(f"the gzip data is corrupt: {exc}", reason="CORRUPT_GZIP") from exc
            data, full = self._member.unconsumed_tail, len(piece) == PIECE_BYTES
            if piece:
                yield piece

    def finish(self) -> None:
        """Raises where a member has not ended."""
        if self._begun and not self._member.eof:
            raise MalformedObject("the gzip data ends in the middle of a member", reason="TRUNCATED_GZIP")


def _gzip_member() -> zlib._Decompress:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)


class Zstd:
    """RFC 8878, several frames included."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
        self._frame: zstandard.ZstdDecompressionObj | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames' content."""
        for start in range(0, len(data), ZSTD_INPUT_BYTES):
            rest = data[start : start + ZSTD_INPUT_BYTES]
            while rest:
                self._frame = self._frame or self._decompressor.decompressobj()
                try:
                    piece = self._frame.decompress(rest)
                except zstandard.ZstdError as exc:
                    raise MalformedObject(f"the zstd data is corrupt: {exc}", reason="CORRUPT_ZSTD") from exc
                rest = b""
                if self._frame.eof:
                    rest, self._frame = self._frame.unused_data, None
                yield from Plain().feed(piece)

    def finish(self) -> None:
        """Raises where a frame has not ended."""
        if self._frame is not None:
            raise MalformedObject("the zstd data ends in the middle of a frame", reason="TRUNCATED_ZSTD")


class Bzip2:
    """bzip2, concatenated streams included, as its parallel writers make them."""

    def __init__(self) -> None:
        self._stream: bz2.BZ2Decompressor | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The streams' content."""
        while data:
            stream = self._stream = self._stream or bz2.BZ2Decompressor()
            yield from _pieces(stream, data)
            data = b""
            if stream.eof:
                data, self._stream = stream.unused_data, None

    def finish(self) -> None:
        """Raises where a stream has not ended."""
        if self._stream is not None:
            raise MalformedObject("the bzip2 data ends in the middle of a stream", reason="TRUNCATED_BZIP2")


def _pieces(stream: bz2.BZ2Decompressor, data: bytes) -> Iterator[bytes]:
    """All that the stream gives for this input."""
    while True:
        try:
            piece = stream.decompress(data, PIECE_BYTES)
        except OSError as exc:
            raise MalformedObject(f"the bzip2 data is corrupt: {exc}", reason="CORRUPT_BZIP2") from exc
        data = b""
        if piece:
            yield piece
        if stream.eof or stream.needs_input:
            return


class Snappy:
    """The framing format of snappy: chunks of at most 64 KiB, each with its CRC-32C, which is checked.

    The format has no end mark: an object that is cut off between two chunks cannot be told from a whole one. Only one
    that holds no chunk of data at all is refused; whoever has no rows uploads an empty object.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._to_skip = 0
        self._has_data = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The chunks' content."""
        if self._to_skip:
            skipped = min(self._to_skip, len(data))
            data, self._to_skip = data[skipped:], self._to_skip - skipped
        data = self._rest + data
        position = 0
        while len(data) - position >= 4 and not self._to_skip:
            kind, end = data[position], position + 4 + int.from_bytes(data[position + 1 : position + 4], "little")
            if kind >= 0x80 and kind != SNAPPY_MAGIC[0]:  # padding, or what later versions may add
                self._to_skip = max(0, end - len(data))
                position = min(end, len(data))
                continue
            _check_chunk(kind, end - position - 4)
            if end > len(data):
                break
            self._has_data = self._has_data or kind != SNAPPY_MAGIC[0]
            if piece := _content_of(data[position:end]):
                yield piece
            position = end
        self._rest = data[position:]

    def finish(self) -> None:
        """Raises where a chunk has not ended, or none of data came."""
        if self._rest or self._to_skip:
            raise MalformedObject("the snappy data ends in the middle of a chunk", reason="TRUNCATED_SNAPPY")
        if not self._has_data:
            raise MalformedObject("the snappy data ends before its first chunk", reason="TRUNCATED_SNAPPY")


def _check_chunk(kind: int, size_bytes: int) -> None:
    if 2 <= kind < 0x80 or size_bytes > SNAPPY_CHUNK_BYTES:
        raise MalformedObject(
            f"the snappy data is corrupt: a chunk of type {kind} and {size_bytes} bytes", reason="CORRUPT_SNAPPY"
        )


def _content_of(chunk: bytes) -> bytes:
    """One chunk's content, empty for another stream identifier."""
    try:
        return bytes(cramjam.snappy.decompress(chunk if chunk[0] == SNAPPY_MAGIC[0] else SNAPPY_MAGIC + chunk))
    except cramjam.DecompressionError as exc:
        raise MalformedObject(f"the snappy data is corrupt: {exc}", reason="CORRUPT_SNAPPY") from exc
