"""Parts of one version of an object, each over as many connections as it takes.

Must never give a byte of another version, nor fewer bytes than were asked for.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ingest_service.objects.errors import S3_ERRORS, Call, is_transient, translate
from ingest_service.objects.model import ReadPolicy
from shared.errors import FailedPrecondition, PenstockError, Unavailable

logger = logging.getLogger(__name__)

# Gets the bytes of the range (begin, end), of the version that was opened; raises ObjectChanged where it is gone.
GetRange = Callable[[int, int], Awaitable[Mapping[str, Any]]]


class Ranges:
    """Reads any part of an object, at most `policy.parallel_ranges` at once. Raises what ObjectStore raises."""

    def __init__(self, get: GetRange, *, call: Call, policy: ReadPolicy) -> None:
        self._get = get
        self._call = call
        self._policy = policy
        self._places = asyncio.Semaphore(policy.parallel_ranges)
        self.bytes_read = 0

    async def read(self, begin: int, size: int) -> bytes:
        """Exactly these bytes."""
        async with self._places:
            return await self._read(begin, size)

    async def _read(self, begin: int, size: int) -> bytes:
        read = bytearray()
        failures = 0
        while len(read) < size:
            had = len(read)
            try:
                await self._fill(read, begin, size)
            except (*S3_ERRORS, Unavailable) as exc:
                failures = 1 if len(read) > had else failures + 1
                await self._after_cut(exc, failures)
            finally:
                self.bytes_read += len(read) - had
        return bytes(read)

    async def _fill(self, read: bytearray, begin: int, size: int) -> None:
        position = begin + len(read)
        answer = await self._get(position, begin + size)
        stream = answer["Body"]
        try:
            if not str(answer.get("ContentRange", "")).startswith(f"bytes {position}-"):
                problem = (
                    "the server reads no ranges; Parquet needs them, other files with PENSTOCK_OBJECT_PARTS=1 do not"
                )
                raise FailedPrecondition(f"{self._call.uri}: {problem}", reason="S3_REFUSED")
            while len(read) < size:
                piece = await stream.read(min(self._policy.chunk_bytes, size - len(read)))
                if not piece:
                    raise ConnectionError(f"the range ended {size - len(read)} bytes early")
                read += piece
        finally:
            stream.close()

    async def _after_cut(self, exc: Exception, failures: int) -> None:
        error = exc if isinstance(exc, PenstockError) else translate(exc, self._call)
        if failures > self._policy.resume_attempts or not is_transient(error):
            raise error from exc
        logger.warning("reading a range of %s broke off: %s", self._call.uri, error.message)
        await asyncio.sleep(self._policy.resume_backoff.delay_s(failures, random.random))
