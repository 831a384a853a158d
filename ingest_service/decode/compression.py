"""Decompression of an object with limits, whatever its format. Magic bytes decide, names never do."""

from __future__ import annotations

from collections.abc import Iterator

from ingest_service.decode.codecs import LONGEST_MAGIC, Codec, codec_of
from ingest_service.decode.model import DecodeLimits, MalformedObject


class Decompressor:
    """Recognises the format by its first bytes and decompresses with limits.

    Raises MalformedObject: TRUNCATED_ and CORRUPT_ GZIP, ZSTD, BZIP2 and SNAPPY, DECOMPRESSED_TOO_LARGE.
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
