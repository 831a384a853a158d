"""What Arrow reads a Parquet file through: refuses what is too large to be held, and keeps the error that it met.

Arrow takes sizes as they are declared, and may make an error of its own of what was raised beneath it.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Protocol

from ingest_service.decode.model import MIB, MalformedObject
from ingest_service.decode.page_headers import NoHeader, PagesSeen

# A page is held as it is in the file and decompressed, one of each column at once.
MOST_PAGE_BYTES = 64 * MIB
MOST_PAGES_BYTES = 128 * MIB
_SMALLER = "write the file with smaller pages or fewer rows a row group"


class RandomAccess(Protocol):
    """A readable, seekable file of known size."""

    size_bytes: int

    def expect(self, ranges: Sequence[tuple[int, int]], step_bytes: int) -> None:
        """These ranges (begin, end) are read next, each from its beginning and in steps of `step_bytes`."""


class GuardedFile(io.RawIOBase):
    """The same file. Raises MalformedObject: PARQUET_TOO_LARGE, and CORRUPT_PARQUET where a page has no header."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self.size_bytes: int = file.size_bytes
        self.failure: Exception | None = None
        self._file = file
        self._begins: list[int] = []
        self._chunks: list[PagesSeen] = []

    def expect(self, ranges: Sequence[tuple[int, int]], step_bytes: int) -> None:
        """These are column chunks: see RandomAccess."""
        self._file.expect(ranges, step_bytes)
        self._chunks = [PagesSeen(begin, end) for begin, end in sorted(ranges)]
        self._begins = [chunk.begin for chunk in self._chunks]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def read(self, size: int = -1) -> bytes:
        """The next bytes; what that raises is `failure` from then on."""
        try:
            return self._read(size)
        except Exception as exc:
            self.failure = self.failure or exc
            raise

    def _read(self, size: int) -> bytes:
        position = self.tell()
        wanted = max(0, self.size_bytes - position) if size < 0 else size
        if wanted > MOST_PAGE_BYTES:
            raise _too_large(f"{wanted} bytes are to be read at once, {MOST_PAGE_BYTES} may be")
        data: bytes = self._file.read(wanted)
        place = bisect_right(self._begins, position) - 1
        if place >= 0 and position < self._chunks[place].end:
            self._see(self._chunks[place], position, data)
        return data

    def _see(self, chunk: PagesSeen, position: int, data: bytes) -> None:
        try:
            chunk.see(position, data)
        except NoHeader as exc:
            message = (
                f"the Parquet file cannot be read: a page header of the column at byte {chunk.begin} is none: {exc}"
            )
            raise MalformedObject(message, reason="CORRUPT_PARQUET") from exc
        if chunk.largest_bytes > MOST_PAGE_BYTES:
            where = f"a page of the column at byte {chunk.begin}"
            raise _too_large(f"{where} takes {chunk.largest_bytes} bytes, it may take {MOST_PAGE_BYTES}")
        at_once = sum(chunk.largest_bytes for chunk in self._chunks)
        if at_once > MOST_PAGES_BYTES:
            where = f"the pages of {len(self._chunks)} columns, one of each,"
            raise _too_large(f"{where} take {at_once} bytes, they may take {MOST_PAGES_BYTES}")


def _too_large(problem: str) -> MalformedObject:
    return MalformedObject(f"{problem}: {_SMALLER}", reason="PARQUET_TOO_LARGE")
