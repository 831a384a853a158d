"""Populate requests: work that belongs to the service, not to the call that asked for it.

One process owns a request at a time (penstock.populates); a caller follows it here, or through the ledger where
another process is at it. A request whose process vanished is taken over.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID

import asyncpg
from penstock.ingest.v1 import ingest_pb2

from ingest_service.backoff import Backoff
from ingest_service.failures import is_retryable
from ingest_service.heartbeat import kept_alive
from ingest_service.ledger import listing, populates
from ingest_service.ledger.connection import Connection
from ingest_service.ledger.populates import Claim, ClaimKind
from ingest_service.ledger.records import Load, LoadPhase, LoadState, LoadTrigger
from ingest_service.load import Loader, LoadJob, Progress
from ingest_service.objects import ListedObject, ObjectStore
from ingest_service.reconcile.comparison import newest_snapshot
from ingest_service.rejects_request import require_merge
from ingest_service.routing import ObjectUri, Role, is_folder_marker, is_hidden, parse_prefix, parse_uri
from ingest_service.sources import Source, Sources
from shared.contract.model import Dataset, FilePolicy
from shared.errors import FailedPrecondition, FieldViolation, InvalidRequest, PenstockError, Unavailable
from shared.postgres.errors import translated

logger = logging.getLogger(__name__)

RECENT_LOADS = 16
# How the claim on a request is answered for: connection, request_id, owner.
_Question: TypeAlias = Callable[[Connection, UUID, str], Awaitable[bool]]
# Loads in one message: within the 4 MiB that clients accept, also when every one failed with the longest message.
LOADS_PER_MESSAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulateLimits:
    """`attempts` at one object before its failure is reported; `poll_s` between two looks at progress; `farewell_s`:
    what a request that is given up may still take for saying so."""

    attempts: int = 5
    backoff: Backoff = field(default_factory=lambda: Backoff(base_s=0.5, cap_s=30))
    poll_s: float = 0.2
    heartbeat_s: float = 10.0
    farewell_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulateRequest:
    """A checked request. `key` is a whole key, or a prefix where `is_prefix`. `only_sourced`: of what is under the
    prefix only objects whose events go to the dataset too. `rejects_of`: only the rows that this load rejected."""

    request_id: UUID
    dataset: Dataset
    bucket: str
    key: str
    is_prefix: bool
    only_sourced: bool
    force: bool
    validate_only: bool
    trigger: LoadTrigger
    wire: bytes
    rejects_of: UUID | None = None


@dataclass(slots=True, kw_only=True)
class _Operation:
    """A request in work in this process. `recent`: the load in work and the last ones before it; a prefix may have a
    quarter of a million. `lost`: another process took the work over."""

    task: asyncio.Task[None] | None = None
    recent: deque[Progress] = field(default_factory=lambda: deque(maxlen=RECENT_LOADS))
    lost: bool = False

    def lose(self) -> None:
        """Two processes must not work on one request."""
        self.lost = True
        if self.task is not None:
            self.task.cancel()


def check_request(
    message: ingest_pb2.PopulateRequest,
    request_id: UUID,
    datasets: Mapping[str, Dataset],
    sources: Sources,
) -> PopulateRequest:
    """The request's meaning. Raises InvalidRequest or PermissionDenied, naming the field."""
    if bool(message.uri) == bool(message.prefix):
        raise InvalidRequest(
            [FieldViolation(field="uri", description="set exactly one of uri and prefix")], reason="INVALID_SOURCE"
        )
    source = parse_uri(message.uri) if message.uri else parse_prefix(message.prefix)
    sources.require_readable(source.bucket)
    name = sources.choose_dataset(
        source, requested=message.dataset, known=datasets.keys(), is_prefix=bool(message.prefix)
    )
    if message.uri:
        _refuse_part(sources.of_dataset(source, name), source)
    if message.rejects_of:
        require_merge(datasets[name])
    canonical = ingest_pb2.PopulateRequest()
    canonical.CopyFrom(message)
    canonical.ClearField("request_id")
    return PopulateRequest(
        request_id=request_id,
        dataset=datasets[name],
        bucket=source.bucket,
        key=source.key,
        is_prefix=not message.uri,
        only_sourced=not message.dataset,
        force=message.force,
        validate_only=message.validate_only,
        trigger=LoadTrigger.RETRY if message.retry_of else LoadTrigger.POPULATE,
        wire=canonical.SerializeToString(deterministic=True),
        rejects_of=UUID(message.rejects_of) if message.rejects_of else None,
    )


def _refuse_part(source: Source | None, uri: ObjectUri) -> None:
    """One part is not the whole truth: it would replace all the others."""
    if source is not None and source.parts and source.role_of(uri) is not Role.MARKER:
        problem = "is no snapshot by itself: name the _SUCCESS of its folder, or set prefix"
        violation = FieldViolation(field="uri", description=f"{uri} {problem}")
        raise InvalidRequest([violation], reason="PART_OF_SNAPSHOT")


def retry_request(load: Load) -> ingest_pb2.PopulateRequest:
    """The request that loads the object of an ended load again. Raises FailedPrecondition where there is none."""
    if load.trigger is LoadTrigger.UNLOAD or load.state is LoadState.RUNNING:
        is_unload = load.trigger is LoadTrigger.UNLOAD
        problem = "is an unload: call Unload again" if is_unload else "is in work: wait for its end, or cancel it"
        raise FailedPrecondition(
            f"load {load.id} {problem}", reason="LOAD_NOT_RETRYABLE", metadata={"load_id": str(load.id)}
        )
    return ingest_pb2.PopulateRequest(
        uri=load.object.uri,
        dataset=load.dataset,
        force=load.force,
        validate_only=load.validate_only,
        retry_of=str(load.id),
        rejects_of=str(load.rejects_of) if load.rejects_of else "",
    )


class Populates:
    """Starts, follows and resumes Populate requests. An async context: leaving it cancels what is still in work."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool[asyncpg.Record],
        store: ObjectStore,
        loader: Loader,
        sources: Sources,
        owner: str,
        limits: PopulateLimits | None = None,
    ) -> None:
        self._pool = pool
        self._store = store
        self._loader = loader
        self._sources = sources
        self._owner = owner
        self._limits = limits or PopulateLimits()
        self._operations: dict[UUID, _Operation] = {}
        self._joining = asyncio.Lock()
        self._stopping = False

    async def __aenter__(self) -> Populates:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self, drain_s: float = 0.0) -> None:
        """Begins nothing new, waits up to `drain_s` for what is in work, then cancels it: another process takes it
        over at once."""
        self._stopping = True
        async with self._joining:  # what is being started now is stopped too
            tasks = [operation.task for operation in self._operations.values() if operation.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=drain_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def follow(self, request: PopulateRequest) -> AsyncIterator[Progress | list[Load]]:
        """Progress whenever it changed, and at last every load of the request, in one list or more.

        Starts the work unless it was started before. Closing the iterator stops following, not the work.
        """
        elsewhere = _Watch()
        while True:
            claim, operation = await self._join(request)
            if operation is not None:
                async for progress in self._follow_here(operation):
                    yield progress
                if not operation.lost:
                    break
            elif claim.kind is ClaimKind.DONE:
                break
            else:
                for progress in elsewhere.news(await self._running_loads(request.request_id)):
                    yield progress
                await asyncio.sleep(self._limits.poll_s)
        async for loads in self._loads(request.request_id):
            yield loads

    async def take_over(self, request: PopulateRequest) -> bool:
        """Goes on with a request whose process vanished, without a caller; False when somebody else is at it."""
        claim, operation = await self._join(request)
        return operation is not None and claim.kind is ClaimKind.TAKEOVER

    async def _join(self, request: PopulateRequest) -> tuple[Claim, _Operation | None]:
        """Claims the request and starts its work where that falls to us. One at a time, and the look comes before the
        claim: work that ends just then must be followed to its end, not begun again."""
        async with self._joining:
            operation = self._operations.get(request.request_id)
            if operation is None and self._stopping:
                raise _shutdown()
            with translated():
                async with self._pool.acquire() as connection:
                    claim = await populates.claim(connection, request.request_id, request.wire, self._owner)
            # ATTACH to ourselves without an operation: given up here after a failure.
            if operation is None and claim.kind is not ClaimKind.DONE and claim.owner == self._owner:
                operation = self._start(request)
        return claim, operation

    def _start(self, request: PopulateRequest) -> _Operation:
        operation = _Operation()
        operation.task = asyncio.create_task(self._work(request, operation), name=f"populate {request.request_id}")
        operation.task.add_done_callback(_log_failure)
        self._operations[request.request_id] = operation
        return operation

    async def _follow_here(self, operation: _Operation) -> AsyncIterator[Progress]:
        """Until the work ends: done, failed (raised), or lost."""
        assert operation.task is not None
        watch = _Watch()
        while True:
            done = operation.task.done()
            for progress in watch.news(operation.recent):
                yield progress
            if done:
                break
            await asyncio.wait([operation.task], timeout=self._limits.poll_s)
        if operation.lost:
            return
        if operation.task.cancelled():
            raise _shutdown()
        operation.task.result()

    async def _running_loads(self, request_id: UUID) -> list[Progress]:
        with translated():
            async with self._pool.acquire() as connection:
                return [_progress_of(load) for load in await listing.running_loads_of_request(connection, request_id)]

    async def _loads(self, request_id: UUID) -> AsyncIterator[list[Load]]:
        with translated():
            async with self._pool.acquire() as connection:
                ids = await listing.load_ids_of_request(connection, request_id)
        for start in range(0, max(1, len(ids)), LOADS_PER_MESSAGE):
            with translated():
                async with self._pool.acquire() as connection:
                    loads = await listing.loads_by_id(connection, ids[start : start + LOADS_PER_MESSAGE])
            yield loads

    async def _work(self, request: PopulateRequest, operation: _Operation) -> None:
        name = f"Populate {request.request_id}"
        try:
            async with kept_alive(
                name, lambda: self._ask(populates.heartbeat, request), self._limits.heartbeat_s, operation.lose
            ):
                for key in await self._keys(request):
                    await self._load(request, key, operation)
                await self._ask(populates.finish, request)
        except asyncio.CancelledError:
            await self._try_to_tell(populates.release, request)
            raise
        except Exception as exc:
            # What would fail for ever must not be taken over for ever. Its caller is told, and may ask again.
            if not (isinstance(exc, PenstockError) and is_retryable(exc)):
                await self._try_to_tell(populates.give_up, request)
            raise
        finally:
            # Whoever calls from now on is answered from the ledger, or starts the work again.
            self._operations.pop(request.request_id, None)

    async def _ask(self, question: _Question, request: PopulateRequest) -> bool:
        with translated():
            async with self._pool.acquire() as connection:
                return await question(connection, request.request_id, self._owner)

    async def _try_to_tell(self, question: _Question, request: PopulateRequest) -> None:
        """While something worse is on its way up, which must not be replaced: the claim goes stale otherwise."""
        try:
            async with asyncio.timeout(self._limits.farewell_s):
                await self._ask(question, request)
        except Exception:
            logger.exception("Populate %s is taken over when its heartbeat is old enough", request.request_id)

    async def _keys(self, request: PopulateRequest) -> list[str]:
        """Oldest first: rows are upserted in commit order, so the newest object must come last. Of snapshots the newest
        alone: it would replace all others."""
        if not request.is_prefix:
            return [request.key]
        under = self._store.list_prefix(request.bucket, request.key)
        wanted = [listed async for listed in under if self._is_wanted(request, listed.key)]
        if request.dataset.file_policy is FilePolicy.SNAPSHOT:
            wanted = self._newest_snapshot(request, wanted)
        return [listed.key for listed in wanted]

    def _newest_snapshot(self, request: PopulateRequest, found: Sequence[ListedObject]) -> list[ListedObject]:
        """The one that would replace all others; a folder's marker, a hidden file or a part is none. Raises
        FailedPrecondition where there are only parts."""
        roles = [self._place(request, listed.key)[1] for listed in found]
        whole = [
            listed
            for listed, role in zip(found, roles, strict=True)
            if role in (Role.DATA, Role.MARKER) and not is_folder_marker(listed.key)
        ]
        if not whole and Role.PART in roles:
            message = (
                f"no folder under s3://{request.bucket}/{request.key} has a _SUCCESS: its snapshot is not complete"
            )
            raise FailedPrecondition(message, reason="SNAPSHOT_NOT_COMPLETE")
        newest = newest_snapshot(whole, request.dataset.snapshot_order)
        return [newest] if newest else []

    def _place(self, request: PopulateRequest, key: str) -> tuple[Source | None, Role]:
        """Which source takes the object, and what it is. Names that the caller spelled out are meant."""
        uri = ObjectUri(bucket=request.bucket, key=key)
        source = self._sources.of_dataset(uri, request.dataset.name)
        if source is not None and source.parts:
            return source, source.role_of(uri)
        hidden = request.is_prefix and is_hidden(key, under=request.key)
        return source, Role.HIDDEN if hidden else Role.DATA

    def _is_wanted(self, request: PopulateRequest, key: str) -> bool:
        uri = ObjectUri(bucket=request.bucket, key=key)
        return not request.only_sourced or self._sources.of_dataset(uri, request.dataset.name) is not None

    async def _load(self, request: PopulateRequest, key: str, operation: _Operation) -> None:
        source, role = self._place(request, key)
        job = LoadJob(
            dataset=request.dataset,
            bucket=request.bucket,
            key=key,
            trigger=request.trigger,
            source=source,
            role=role,
            request_id=request.request_id,
            force=request.force,
            validate_only=request.validate_only,
            rejects_of=request.rejects_of,
        )
        for attempt in range(1, self._limits.attempts + 1):
            progress = Progress(uri=f"s3://{request.bucket}/{key}")
            operation.recent.append(progress)
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


class _Watch:
    """What one follower has not been told yet."""

    def __init__(self) -> None:
        self._told: dict[UUID, tuple[object, ...]] = {}

    def news(self, current: Iterable[Progress]) -> list[Progress]:
        """The progress that changed since the last call; what is not named any more is forgotten."""
        before, self._told = self._told, {}
        changed = []
        for progress in current:
            if progress.load_id is not None:
                state = self._told[progress.load_id] = _state(progress)
                if before.get(progress.load_id) != state:
                    changed.append(progress)
        return changed


def _shutdown() -> Unavailable:
    message = "this server is stopping; call again with the same request_id"
    return Unavailable(message, reason="SHUTDOWN", retry_after_s=1.0)


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
