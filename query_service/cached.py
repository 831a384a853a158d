"""Unary methods answered from a cache: in this process first, then the shared one, then by the handler behind.

Bypassed while nobody listens for versions, and where a caller demands a version that was not heard of yet. An answer
is kept only under the version that its own statement saw, so it is never mislabelled, only as old as the word of a
newer one takes to come.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from google.protobuf.message import Message
from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from query_service.cache import AnswerCache
from query_service.endpoint import Endpoint
from query_service.labels import labels_seen
from query_service.shared_cache import SharedCache
from query_service.versions import Standing
from shared.rpc.parsing import parsed

Handle = Callable[[Message, Any], Awaitable[bytes]]

_DEMAND = "at_least_version"
_HIT, _SHARED_HIT, _MISS, _JOINED, _BYPASS = (
    {"penstock.cache.result": result} for result in ("hit", "shared_hit", "miss", "joined", "bypass")
)


class Caching:
    """The caches of one process, and what is being asked for at this moment."""

    def __init__(
        self, memory: AnswerCache, shared: SharedCache | None, meter_provider: metrics.MeterProvider | None = None
    ) -> None:
        self.memory = memory
        self.shared = shared
        self.flights: dict[bytes, asyncio.Future[bytes | None]] = {}
        meter = metrics.get_meter(__name__, meter_provider=meter_provider)
        self.requests = meter.create_counter(
            "penstock.cache.requests", unit="{request}", description="Calls of methods that are cached, by result"
        )
        self.served = meter.create_counter(
            "penstock.cache.served", unit="By", description="Bytes of answers that came from a cache"
        )
        meter.create_observable_gauge(
            "penstock.cache.size", [self._size], unit="By", description="Bytes that the process keeps"
        )

    def hit(self, answer: bytes) -> bytes:
        """The answer, counted as one that the process had."""
        self.requests.add(1, _HIT)
        self.served.add(len(answer))
        return answer

    def _size(self, _options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self.memory.size_bytes)]


class CachedHandler:
    """One method of a service with its handler behind."""

    def __init__(self, endpoint: Endpoint, handle: Handle, caching: Caching) -> None:
        self._dataset = endpoint.dataset.name
        self._versions = endpoint.database.versions
        self._parse = endpoint.method.input_class.FromString
        self._demands = _DEMAND in endpoint.method.request_fields
        self._handle = handle
        self._caching = caching
        name = f"{endpoint.service}/{endpoint.method.name}\0{endpoint.dataset.fingerprint}"
        self._method = hashlib.blake2b(name.encode(), digest_size=16).digest()
        self._standing: Standing | None = None
        self._prefixed = b""

    async def handle(self, request: bytes, context: Any) -> bytes:
        """The answer, from wherever it comes first; raises what the handler raises, and InvalidRequest for a request
        that is no message."""
        caching = self._caching
        standing = self._versions.current(self._dataset)
        # A request that came as a key holds it is the one that was answered under it, so it need not be parsed.
        answer = None if standing is None else caching.memory.get(self._prefix(standing) + request)
        if answer is not None:
            return caching.hit(answer)
        message = parsed(request, self._parse)
        demand = getattr(message, _DEMAND) if self._demands else 0
        if standing is None or standing.version < demand or demand < 0:
            caching.requests.add(1, _BYPASS)
            return await self._handle(message, context)
        key = self._prefix(standing) + _canonical(message, demand)
        answer = caching.memory.get(key)
        return await self._ask(key, standing, message, context) if answer is None else caching.hit(answer)

    def _prefix(self, standing: Standing) -> bytes:
        """What an answer follows from beside the request: epoch, version, contract and method."""
        if standing is not self._standing:
            self._standing = standing
            self._prefixed = standing.epoch.bytes + standing.version.to_bytes(8, "big") + self._method
        return self._prefixed

    async def _ask(self, key: bytes, standing: Standing, message: Message, context: Any) -> bytes:
        """One call asks, and those that come meanwhile wait for its answer; without one they ask by themselves."""
        caching = self._caching
        flight = caching.flights.get(key)
        if flight is not None:
            answer = await asyncio.shield(flight)
            if answer is not None:
                caching.requests.add(1, _JOINED)
                caching.served.add(len(answer))
                return answer
            caching.requests.add(1, _MISS)
            return await self._handle(message, context)
        flight = caching.flights[key] = asyncio.get_running_loop().create_future()
        kept: bytes | None = None
        try:
            answer, kept = await self._fetch(key, standing, message, context)
            return answer
        finally:
            del caching.flights[key]
            flight.set_result(kept)

    async def _fetch(
        self, key: bytes, standing: Standing, message: Message, context: Any
    ) -> tuple[bytes, bytes | None]:
        """The answer, and the same where it may be kept under this key."""
        caching, shared = self._caching, self._caching.shared
        found = None if shared is None else await shared.get(key)
        if found is not None:
            caching.requests.add(1, _SHARED_HIT)
            caching.served.add(len(found))
            caching.memory.put(key, found)
            return found, found
        caching.requests.add(1, _MISS)
        with labels_seen() as seen:
            answer = await self._handle(message, context)
        if seen != {standing}:
            return answer, None
        caching.memory.put(key, answer)
        if shared is not None:
            shared.put(key, answer)
        return answer, answer


def _canonical(message: Message, demand: int) -> bytes:
    """One form for all ways to send a request, without the version that is demanded: the one in the key meets it."""
    if demand:
        wanted = type(message)()
        wanted.CopyFrom(message)
        wanted.ClearField(_DEMAND)
        message = wanted
    # Partial: proto2 may require a field, which parsing does not.
    return message.SerializePartialToString(deterministic=True)
