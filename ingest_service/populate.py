"""Populate requests: work that belongs to the service, not to the call that asked for it.

One process owns a request at a time (penstock.populates); a caller follows it here, or through the ledger where
another process is at it. A request whose process vanished is taken over.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
from penstock.ingest.v1 import ingest_pb2

from ingest_service.backoff import Backoff
from ingest_service.ledger import listing, populates
from ingest_service.ledger.populates import Claim, ClaimKind
from ingest_service.ledger.records import Load, LoadPhase, LoadTrigger
from ingest_service.load import Loader, LoadJob, Progress
from ingest_service.objects import ObjectStore
from ingest_service.routing import choose_dataset, parse_prefix, parse_uri, require_readable
from shared.contract.model import Dataset
from shared.errors import FieldViolation, InvalidRequest, PenstockError, Unavailable
from shared.postgres.errors import translated

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulateLimits:
    """`attempts` at one object before its failure is reported; `poll_s` between two looks at progress."""

    attempts: int = 5
    backoff: Backoff = field(default_factory=lambda: Backoff(base_s=0.5, cap_s=30))
    poll_s: float = 0.2
    heartbeat_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulateRequest:
    """A checked request. `key` is a whole key, or a prefix where `is_prefix`."""

    request_id: UUID
    dataset: Dataset
    bucket: str
    key: str
    is_prefix: bool
    force: bool
    validate_only: bool
    wire: bytes


@dataclass(slots=True, kw_only=True)
class _Operation:
    """A request in work in this process."""

    task: asyncio.Task[None] | None = None
    progress: dict[str, Progress] = field(default_factory=dict)


def check_request(
    message: ingest_pb2.PopulateRequest,
    request_id: UUID,
    datasets: Mapping[str, Dataset],
    buckets: Collection[str],
) -> PopulateRequest:
    """The request's meaning. Raises InvalidRequest or PermissionDenied, naming the field."""
    if bool(message.uri) == bool(message.prefix):
        raise InvalidRequest(
            [FieldViolation(field="uri", description="set exactly one of uri and prefix")], reason="INVALID_SOURCE"
        )
    source = parse_uri(message.uri) if message.uri else parse_prefix(message.prefix)
    require_readable(source.bucket, buckets)
    name = choose_dataset(source.key, requested=message.dataset, known=datasets.keys())
    canonical = ingest_pb2.PopulateRequest()
    canonical.CopyFrom(message)
    canonical.ClearField("request_id")
    return PopulateRequest(
        request_id=request_id,
        dataset=datasets[name],
        bucket=source.bucket,
        key=source.key,
        is_prefix=not message.uri,
        force=message.force,
        validate_only=message.validate_only,
        wire=canonical.SerializeToString(deterministic=True),
    )


class Populates:
    """Starts, follows and resumes Populate requests. An async context: leaving it cancels what is still in work."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool[asyncpg.Record],
        store: ObjectStore,
        loader: Loader,
        owner: str,
        limits: PopulateLimits | None = None,
    ) -> None:
        self._pool = pool
        self._store = store
        self._loader = loader
        self._owner = owner
        self._limits = limits or PopulateLimits()
        self._operations: dict[UUID, _Operation] = {}

    async def __aenter__(self) -> Populates:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self, drain_s: float = 0.0) -> None:
        """Waits up to `drain_s` for what is in work, then cancels it: another process takes it over."""
        tasks = [operation.task for operation in self._operations.values() if operation.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=drain_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def follow(self, request: PopulateRequest) -> AsyncIterator[Progress | list[Load]]:
        """Progress whenever it changed, and at last every load of the request.

        Starts the work unless it was started before. Closing the iterator stops following, not the work.
        """
        while True:
            claim = await self._claim(request)
            operation = self._operations.get(request.request_id)
            if claim.kind is ClaimKind.DONE and operation is None:
                break
            if operation is None and claim.owner == self._owner:
                operation = self._start(request)  # new, taken over, or given up by this process after a failure
            if operation is not None:
                async for progress in self._follow_here(operation):
                    yield progress
                break
            for progress in await self._elsewhere(request.request_id):
                yield progress
            await asyncio.sleep(self._limits.poll_s)
        yield await self._loads(request.request_id)

    def resume(self, request: PopulateRequest) -> None:
        """Works on a request that this process has just claimed, without a caller."""
        if request.request_id not in self._operations:
            self._start(request)

    async def _claim(self, request: PopulateRequest) -> Claim:
        with translated():
            async with self._pool.acquire() as connection:
                return await populates.claim(connection, request.request_id, request.wire, self._owner)

    def _start(self, request: PopulateRequest) -> _Operation:
        operation = _Operation()
        operation.task = asyncio.create_task(self._work(request, operation), name=f"populate {request.request_id}")
        operation.task.add_done_callback(_log_failure)
        self._operations[request.request_id] = operation
        return operation

    async def _follow_here(self, operation: _Operation) -> AsyncIterator[Progress]:
        assert operation.task is not None
        seen: dict[str, tuple[object, ...]] = {}
        while True:
            done = operation.task.done()
            for key, progress in list(operation.progress.items()):
                state = _state(progress)
                if progress.load_id is not None and seen.get(key) != state:
                    seen[key] = state
                    yield progress
            if done:
                break
            await asyncio.wait([operation.task], timeout=self._limits.poll_s)
        if operation.task.cancelled():
            raise Unavailable("this server is stopping; call again with the same request_id", reason="SHUTDOWN")
        operation.task.result()

    async def _elsewhere(self, request_id: UUID) -> list[Progress]:
        return [_progress_of(load) for load in await self._loads(request_id) if load.phase is not LoadPhase.DONE]

    async def _loads(self, request_id: UUID) -> list[Load]:
        with translated():
            async with self._pool.acquire() as connection:
                return await listing.loads_of_request(connection, request_id)

    async def _work(self, request: PopulateRequest, operation: _Operation) -> None:
        beat = asyncio.create_task(self._beat(request.request_id))
        try:
            for key in await self._keys(request):
                await self._load(request, key, operation)
            with translated():
                async with self._pool.acquire() as connection:
                    await populates.finish(connection, request.request_id, self._owner)
        finally:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)
            # Whoever calls from now on is answered from the ledger, or starts the work again.
            self._operations.pop(request.request_id, None)

    async def _keys(self, request: PopulateRequest) -> list[str]:
        """Oldest first: rows are upserted in commit order, so the newest object must come last."""
        if not request.is_prefix:
            return [request.key]
        return [listed.key async for listed in self._store.list_prefix(request.bucket, request.key)]

    async def _load(self, request: PopulateRequest, key: str, operation: _Operation) -> None:
        job = LoadJob(
            dataset=request.dataset,
            bucket=request.bucket,
            key=key,
            trigger=LoadTrigger.POPULATE,
            request_id=request.request_id,
            force=request.force,
            validate_only=request.validate_only,
        )
        for attempt in range(1, self._limits.attempts + 1):
            progress = Progress(uri=f"s3://{request.bucket}/{key}")
            operation.progress[f"{key} {attempt}"] = progress
            try:
                await self._loader.load(job, progress)
            except PenstockError as exc:
                progress.phase = LoadPhase.DONE
                if attempt == self._limits.attempts:
                    raise
                delay_s = self._limits.backoff.delay_s(attempt, random.random)
                logger.warning("%s, next attempt in %.1f s: %s", progress.uri, delay_s, exc.message)
                await asyncio.sleep(delay_s)
            else:
                return

    async def _beat(self, request_id: UUID) -> None:
        while True:
            await asyncio.sleep(self._limits.heartbeat_s)
            try:
                with translated():
                    async with self._pool.acquire() as connection:
                        await populates.heartbeat(connection, request_id, self._owner)
            except PenstockError as exc:
                logger.warning("no sign of life for Populate %s: %s", request_id, exc.message)


def _log_failure(task: asyncio.Task[None]) -> None:
    """There may be no caller left to tell."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("%s failed: %s", task.get_name(), error, exc_info=error)


def _state(progress: Progress) -> tuple[object, ...]:
    reading = progress.reading
    return progress.phase, reading.bytes_read, reading.rows_read, reading.rows_rejected


def _progress_of(load: Load) -> Progress:
    """What the ledger says of a load that another process runs."""
    progress = Progress(uri=load.object.uri, load_id=load.id, phase=load.phase, bytes_total=load.object.size_bytes)
    progress.reading.bytes_read = load.read.bytes_read
    progress.reading.rows_read = load.read.rows_read
    progress.reading.rows_rejected = load.read.rows_rejected
    return progress
