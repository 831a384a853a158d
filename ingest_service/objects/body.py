"""One body, read to its end over as many connections as it takes, all pinned to the same version of the object.

Must never give a byte twice or of another version, nor end early without an error.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import random
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from botocore.exceptions import FlexibleChecksumError

from ingest_service.objects.errors import S3_ERRORS, Call, is_transient, translate
from ingest_service.objects.model import ReadPolicy
from shared.errors import PenstockError, Unavailable

logger = logging.getLogger(__name__)

Reopen = Callable[[int], Awaitable[Mapping[str, Any]]]


class Whole:
    """Holds the bytes of an object, as they come, against what S3 says of all of them; botocore checks only a body that
    came in one piece."""

    def __init__(self, response: Mapping[str, Any], *, call: Call, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._call = call
        self._expected_crc = _whole_crc32(response)
        self._crc = 0
        self._seen_bytes = 0

    def add(self, piece: bytes) -> None:
        """The next bytes."""
        self._seen_bytes += len(piece)
        if self._expected_crc is not None:
            self._crc = zlib.crc32(piece, self._crc)

    def verify(self) -> None:
        """After the last one. Raises Unavailable."""
        if self._seen_bytes != self.size_bytes:
            raise self.corrupt(f"{self._seen_bytes} bytes instead of {self.size_bytes}")
        if self._expected_crc not in (None, self._crc):
            raise self.corrupt("its CRC32 differs from the object's")

    def corrupt(self, detail: str) -> Unavailable:
        """The error. The bytes are with the caller by now, so there is nothing to resume: the load starts again."""
        return Unavailable(f"{self._call.uri} arrived corrupted ({detail})", reason="S3_CHECKSUM_MISMATCH")


class Body:
    """Async iterator over a body in chunks of `policy.chunk_bytes`; the last, and those before a cut, are shorter.

    `reopen(offset)` gets the rest from there on, of the same version. With `end_bytes` it ends there and leaves it to
    others to verify the whole. Raises ObjectChanged when that version is no longer to be had, Unavailable when the
    connection keeps breaking or the checksum does not match.
    """

    def __init__(
        self,
        response: Mapping[str, Any],
        reopen: Reopen,
        *,
        call: Call,
        whole: Whole,
        policy: ReadPolicy,
        end_bytes: int | None = None,
    ) -> None:
        self._stream: Any = response["Body"]
        self._reopen = reopen
        self._call = call
        self._whole = whole
        self._end_bytes = whole.size_bytes if end_bytes is None else end_bytes
        self._policy = policy
        self._failures = 0
        self.offset_bytes = 0
        self.resumes = 0

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        while self.offset_bytes < self._end_bytes or self._stream is not None:
            chunk = await self._next_chunk()
            if chunk:
                return chunk
        if self._end_bytes == self._whole.size_bytes:
            self._whole.verify()
        raise StopAsyncIteration

    def close(self) -> None:
        """Lets go of the connection; a body that was not read to its end closes it."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    async def _next_chunk(self) -> bytes:
        """What comes next; empty at the end, and after a cut that left nothing usable."""
        pieces: list[bytes] = []
        try:
            await self._fill(pieces)
        except FlexibleChecksumError as exc:
            self.close()
            raise self._whole.corrupt(str(exc)) from exc
        except (*S3_ERRORS, Unavailable) as exc:
            self._account(pieces)
            await self._after_cut(exc)
        else:
            self._account(pieces)
            if self.offset_bytes == self._end_bytes < self._whole.size_bytes:
                self.close()
        return b"".join(pieces)

    async def _fill(self, pieces: list[bytes]) -> None:
        if self._stream is None:
            await self._resume()
        wanted = self._policy.chunk_bytes
        if self._end_bytes < self._whole.size_bytes:
            wanted = min(wanted, self._end_bytes - self.offset_bytes)
        while wanted > 0:
            piece = await self._stream.read(wanted)
            if not piece:
                self._at_end(sum(map(len, pieces)))
                return
            pieces.append(piece)
            wanted -= len(piece)

    async def _resume(self) -> None:
        rest = await self._reopen(self.offset_bytes)
        self._stream = rest["Body"]
        self.resumes += 1
        if str(rest.get("ContentRange", "")).startswith(f"bytes {self.offset_bytes}-"):
            return
        # A server may ignore a range and answer with everything (RFC 9110, 14.2): pass over what is known already.
        to_skip = self.offset_bytes
        while to_skip > 0:
            piece = await self._stream.read(min(to_skip, self._policy.chunk_bytes))
            if not piece:
                raise ConnectionError("the body ended before the byte it was to be resumed from")
            to_skip -= len(piece)

    def _at_end(self, unaccounted_bytes: int) -> None:
        missing = self._whole.size_bytes - self.offset_bytes - unaccounted_bytes
        if missing:
            raise ConnectionError(f"the body ended {missing} bytes early")
        self.close()

    def _account(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self.offset_bytes += len(piece)
            self._failures = 0
            self._whole.add(piece)

    async def _after_cut(self, exc: Exception) -> None:
        self.close()
        self._failures += 1
        error = exc if isinstance(exc, PenstockError) else translate(exc, self._call)
        exhausted = self._failures > self._policy.resume_attempts or self.resumes >= self._policy.max_resumes
        if exhausted or not is_transient(error):
            raise error from exc
        delay_s = self._policy.resume_backoff.delay_s(self._failures, random.random)
        logger.warning("reading %s broke off at byte %d: %s", self._call.uri, self.offset_bytes, error.message)
        await asyncio.sleep(delay_s)


def _whole_crc32(response: Mapping[str, Any]) -> int | None:
    """The object's CRC32 where S3 tells one over all bytes (a `-N` suffix marks one over parts' checksums)."""
    text = response.get("ChecksumCRC32")
    if not text or "-" in text or response.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    return int.from_bytes(base64.b64decode(text), "big")
