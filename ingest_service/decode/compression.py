"""Incremental decompression of plain, gzip and zstd bytes with bounded output. Magic bytes decide, never names."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

import zstandard

from ingest_service.decode.model import DecodeLimits, MalformedObject

PIECE_BYTES = 64 * 1024
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# Skippable frames: 0x184D2A50 to 0x184D2A5F, little-endian (RFC 8878 3.1.2). pzstd writes one first.
ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
LONGEST_MAGIC = 4
# One zstd block holds up to 128 KiB and may take 4 bytes; decompressobj() cannot bound its output, so its input is
# bounded: 1 KiB gives at most 32 MiB at once.
ZSTD_INPUT_BYTES = 1024
# The window is memory: 128 MiB is what the zstd command accepts without --long.
ZSTD_WINDOW_BYTES = 128 * 1024 * 1024


class Codec(Protocol):
    """One compression format."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decompressed bytes, piece by piece."""

    def finish(self) -> None:
        """Raises MalformedObject where the object ends too early."""


class Decompressor:
    """Recognises the format by its first bytes and decompresses with limits.

    Raises MalformedObject: TRUNCATED_GZIP, CORRUPT_GZIP, TRUNCATED_ZSTD, CORRUPT_ZSTD, DECOMPRESSED_TOO_LARGE.
    """

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._head = b""
        self._codec: Codec | None = None
        self._bytes_in = 0
        self._bytes_out = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The next decompressed pieces; none is longer than PIECE_BYTES."""
        self._bytes_in += len(data)
        if self._codec is None:
            self._head += data
            if len(self._head) < LONGEST_MAGIC:
                return
            data, self._head = self._head, b""
            self._codec = codec_of(data)
        for piece in self._codec.feed(data):
            self._account(piece)
            yield piece

    def finish(self) -> Iterator[bytes]:
        """What is left; raises MalformedObject where the compressed data is incomplete."""
        if self._codec is None:
            self._codec = codec_of(self._head)
            for piece in self._codec.feed(self._head):
                self._account(piece)
                yield piece
        self._codec.finish()

    def _account(self, piece: bytes) -> None:
        self._bytes_out += len(piece)
        limits = self._limits
        dense = self._bytes_out > max(limits.ratio_grace_bytes, self._bytes_in * limits.max_ratio)
        if dense or self._bytes_out > limits.max_decompressed_bytes:
            raise MalformedObject(
                f"the object grows beyond the limit when decompressed: {self._bytes_out} bytes out of {self._bytes_in}",
                reason="DECOMPRESSED_TOO_LARGE",
            )


def codec_of(head: bytes) -> Codec:
    """The codec whose magic bytes `head` begins with."""
    if head.startswith(GZIP_MAGIC):
        return Gzip()
    if head.startswith(ZSTD_MAGIC) or (head[1:4] == ZSTD_SKIPPABLE and head[0] >> 4 == 5):
        return Zstd()
    return Plain()


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
