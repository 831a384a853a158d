"""The cache that pods share, in Redis. Whatever it does, a call is answered: slow or wrong it is as good as empty.

Trusts no value: each carries the digest of the whole key that it was stored under, its length and a checksum.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import struct
import time
import zlib
from collections.abc import Callable

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from shared.errors import ConfigError

logger = logging.getLogger(__name__)

# The number changes with the layout of values, so that releases side by side do not read each other's.
PREFIX = "penstock:1:"
_HEADER = struct.Struct(">32sII")  # digest of the key, length and CRC-32 of the answer
# An answer of a version that is long gone is of no use to anybody.
KEEP_S = 3600
LARGEST_BYTES = 4 * 1024 * 1024
_FAILURES, _PAUSE_S = 3, 5.0
_MOST_WRITES = 64
_ERRORS = (RedisError, OSError, TimeoutError)


def pack(key: bytes, answer: bytes) -> bytes:
    """The value that is stored for an answer."""
    return _HEADER.pack(_digest(key), len(answer), zlib.crc32(answer)) + answer


def unpack(key: bytes, value: bytes) -> bytes | None:
    """The answer; None where the value is damaged, cut short or was stored under another key."""
    if len(value) < _HEADER.size:
        return None
    digest, length, checksum = _HEADER.unpack_from(value)
    answer = value[_HEADER.size :]
    intact = digest == _digest(key) and length == len(answer) and checksum == zlib.crc32(answer)
    return answer if intact else None


class SharedCache:
    """After three failures in a row Redis is left alone for five seconds, and then tried with one call."""

    def __init__(self, url: str, *, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            # Without the client's own retries: a call that has to wait is better answered by the database.
            self._redis: Redis = Redis.from_url(
                url, socket_connect_timeout=timeout_s, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
            )
        except ValueError as exc:
            message = "PENSTOCK_CACHE_URL is not a Redis URL: write redis://host:6379/0, or rediss:// for TLS"
            raise ConfigError(message, reason="CACHE_CONFIG") from exc
        self._timeout_s = timeout_s
        self._clock = clock
        self._failures = 0
        self._paused_until = 0.0
        self._writes: set[asyncio.Task[None]] = set()

    async def get(self, key: bytes) -> bytes | None:
        """The answer that a pod has stored; None where there is none in time."""
        if not self._may_ask():
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                value = await self._redis.get(_name(key))
        except _ERRORS as exc:
            self._failed(exc)
            return None
        self._worked()
        return unpack(key, value) if isinstance(value, bytes) else None

    def put(self, key: bytes, answer: bytes) -> None:
        """Stores an answer in the background, unless many wait to be stored already."""
        if len(answer) > LARGEST_BYTES or len(self._writes) >= _MOST_WRITES or not self._may_ask():
            return
        task = asyncio.create_task(self._write(key, answer))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def close(self) -> None:
        """Gives up what is still to be stored."""
        for task in self._writes:
            task.cancel()
        await asyncio.gather(*self._writes, return_exceptions=True)
        await self._redis.aclose()

    async def _write(self, key: bytes, answer: bytes) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._redis.set(_name(key), pack(key, answer), ex=KEEP_S)
        except _ERRORS as exc:
            self._failed(exc)
        else:
            self._worked()

    def _may_ask(self) -> bool:
        if self._failures < _FAILURES:
            return True
        now = self._clock()
        if now < self._paused_until:
            return False
        self._paused_until = now + _PAUSE_S  # this call tries it, the others go on without
        return True

    def _failed(self, exc: BaseException) -> None:
        self._failures += 1
        self._paused_until = self._clock() + _PAUSE_S
        if self._failures == _FAILURES:
            logger.warning("the shared cache does not answer, going on without: %s: %s", type(exc).__name__, exc)

    def _worked(self) -> None:
        if self._failures >= _FAILURES:
            logger.info("the shared cache answers again")
        self._failures = 0


def _name(key: bytes) -> str:
    return PREFIX + hashlib.blake2b(key, digest_size=20).hexdigest()


def _digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=32).digest()
