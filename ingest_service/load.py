"""One load: an object's version becomes rows of a dataset, and one row of the ledger says how that went.

Permanent failures end the load as FAILED and are returned; transient ones are raised for the caller to try again.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncGenerator, AsyncIterable
from concurrent.futures import Executor
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
from opentelemetry import metrics, trace

from ingest_service.decode import DecodeLimits, Dialect
from ingest_service.failures import is_retryable
from ingest_service.group_commit import Beginning, GroupCommit
from ingest_service.heartbeat import Lost, run_kept_alive
from ingest_service.ledger import cancel, loads, objects, rejects
from ingest_service.ledger.decision import Refusal
from ingest_service.ledger.records import (
    LeftOut,
    Load,
    LoadPhase,
    LoadStart,
    LoadState,
    LoadTrigger,
    ObjectVersion,
    PartSet,
)
from ingest_service.left_out import LeftOutDecoder, good_rows, open_version_of
from ingest_service.merge.merge import MergeLimits, merge
from ingest_service.merge.staging import Staged, drop_passed_over, stage, stage_rejected
from ingest_service.objects import ObjectChanged, ObjectGone, ObjectHead, ObjectStore, OpenObject
from ingest_service.parts import PartsDecoder, list_folder, part_blocks
from ingest_service.pipeline import BlockDecoder, Reading, copy_stream, object_blocks
from ingest_service.routing import Role
from ingest_service.slots import Slots
from ingest_service.sources import Source
from ingest_service.verdict import Finished, check_role, judge
from shared.contract.model import Dataset
from shared.errors import Aborted, PenstockError, Unavailable
from shared.postgres.errors import translated

logger = logging.getLogger(__name__)

B = TypeVar("B")

# An object that is overwritten again and again while it is read is left to its next event.
CHANGED_ATTEMPTS = 5

_COPY_ATTRIBUTES = {"db.system.name": "postgresql", "db.operation.name": "COPY"}
_MERGE_ATTRIBUTES = {"db.system.name": "postgresql", "db.operation.name": "INSERT"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadJob:
    """What to load. `version_id` and `sequencer` come from an S3 event; without them the current version is loaded.
    `source`: that takes the object, if any does; `role`: what the object is to it. `patient`: every other load goes
    first. `rejects_of`: only the rows that this load rejected, of the version that it read."""

    dataset: Dataset
    bucket: str
    key: str
    trigger: LoadTrigger
    version_id: str | None = None
    sequencer: str | None = None
    source: Source | None = None
    role: Role = Role.DATA
    request_id: UUID | None = None
    force: bool = False
    validate_only: bool = False
    patient: bool = False
    rejects_of: UUID | None = None

    @property
    def dialect(self) -> Dialect:
        """How the object is written."""
        return self.source.dialect if self.source else Dialect()


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a load has come, for whoever watches it. `load_id` is unset until the ledger has the load."""

    uri: str
    load_id: UUID | None = None
    phase: LoadPhase = LoadPhase.QUEUED
    bytes_total: int = 0
    rejects_stored: bool = False
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadLimits:
    """Bounds of the work. `concurrency` loads run at once; each keeps `blocks_ahead` blocks in memory. `farewell_s`:
    what a load that is stopped may still take for saying so in the ledger. `heartbeat_s` is also how long a load may go
    on after it was cancelled."""

    concurrency: int = 4
    blocks_ahead: int = 4
    heartbeat_s: float = 3.0
    farewell_s: float = 5.0
    decode: DecodeLimits = field(default_factory=DecodeLimits)
    merge: MergeLimits = field(default_factory=MergeLimits)


class Loader:
    """Runs loads, at most `limits.concurrency` at once, each with a connection of its own for staging and merge."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool[asyncpg.Record],
        store: ObjectStore,
        executor: Executor,
        owner: str,
        limits: LoadLimits | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._pool = pool
        self._store = store
        self._executor = executor
        self._owner = owner
        self._limits = limits or LoadLimits()
        self._slots = Slots(self._limits.concurrency)
        self._groups = GroupCommit(pool=pool, merge_limits=self._limits.merge)
        self._tracer = trace.get_tracer(__name__)
        self._unknown_columns = metrics.get_meter(__name__, meter_provider=meter_provider).create_counter(
            "penstock.ingest.unknown_columns", unit="{column}", description="Columns of loaded objects without a field"
        )

    async def load(self, job: LoadJob, progress: Progress | None = None) -> Load:
        """Loads one object and returns the load in its final state.

        Raises what `is_retryable` after ending the attempt as FAILED: try again later.
        """
        progress = progress or Progress(uri=f"s3://{job.bucket}/{job.key}")
        attributes = {"penstock.dataset": job.dataset.name, "aws.s3.bucket": job.bucket, "aws.s3.key": job.key}
        async with self._slots.hold(patient=job.patient):
            with self._tracer.start_as_current_span(f"load {job.dataset.name}", attributes=attributes) as span:
                load = await self._attempt(job, progress)
                span.set_attributes({"penstock.load_id": str(load.id), "penstock.load_state": load.state.value})
                span.set_attribute("penstock.dataset_version", load.dataset_version)
        progress.phase = LoadPhase.DONE
        if load.read.unknown_columns:
            self._unknown_columns.add(len(load.read.unknown_columns), {"penstock.dataset": job.dataset.name})
        return load

    async def _attempt(self, job: LoadJob, progress: Progress) -> Load:
        load = await self._start(job)
        progress.load_id = load.id
        try:
            sign = functools.partial(self._sign_of_life, load, progress)
            work = self._run(job, load, progress)
            return await run_kept_alive(f"load {load.id}", sign, self._limits.heartbeat_s, work)
        except Finished as end:
            return _not_abandoned(await self._finish(load, progress, end.state, end.reason, end.message))
        except Lost:
            return _not_abandoned(await self._as_it_ended(load))
        except PenstockError as exc:
            message = _naming(progress.uri, exc.message)
            ended = await self._finish(load, progress, LoadState.FAILED, exc.reason, message)
            if ended.state is LoadState.FAILED and is_retryable(exc):
                raise
            return _not_abandoned(ended)  # or as it was committed, when the failure came after that
        except asyncio.CancelledError:
            message = "the process stopped this attempt; another one follows"
            await self._try_to_finish(load, progress, LoadState.ABANDONED, "SHUTDOWN", message)
            raise
        except Exception as exc:
            # A bug: the file may be good, so the ledger must not call it bad data, and the event must come back.
            message = f"{type(exc).__name__}; see the log"
            await self._try_to_finish(load, progress, LoadState.FAILED, "INTERNAL", message)
            raise
        finally:
            progress.reading.forget()

    async def _start(self, job: LoadJob) -> Load:
        context = trace.get_current_span().get_span_context()
        start = LoadStart(
            id=uuid4(),
            dataset=job.dataset.name,
            object=ObjectVersion(bucket=job.bucket, key=job.key, version_id=job.version_id, sequencer=job.sequencer),
            trigger=job.trigger,
            owner=self._owner,
            request_id=job.request_id,
            force=job.force,
            validate_only=job.validate_only,
            trace_id=trace.format_trace_id(context.trace_id) if context.is_valid else "",
            fingerprint=job.dataset.fingerprint,
            rejects_of=job.rejects_of,
        )
        with translated():
            async with self._pool.acquire() as connection:
                return await loads.start_load(connection, start)

    async def _run(self, job: LoadJob, load: Load, progress: Progress) -> Load:
        check_role(job.key, job.role)
        await self._check_cancelled(load)
        for _ in range(CHANGED_ATTEMPTS):
            try:
                return await self._load_version(job, load, progress)
            except ObjectChanged as exc:
                logger.info("%s; loading the new version", exc.message)
                progress.reading = Reading()
        raise Unavailable(f"{progress.uri} changes faster than it can be read", reason="OBJECT_KEEPS_CHANGING")

    async def _check_cancelled(self, load: Load) -> None:
        """A message comes again, and a Populate is taken over, when its process dies after its load was cancelled,
        perhaps because of that load."""
        with translated():
            async with self._pool.acquire() as connection:
                twin = await cancel.cancelled_twin(connection, load)
        if twin is not None:
            raise Finished(LoadState.CANCELLED, "CANCELLED", f"load {twin} of the same event or request was cancelled")

    async def _load_version(self, job: LoadJob, load: Load, progress: Progress) -> Load:
        progress.phase = LoadPhase.STAGING
        try:
            if job.rejects_of is not None:
                return await self._load_left_out(job, load, job.rejects_of, progress)
            if job.role is Role.MARKER:
                return await self._load_folder(job, load, progress)
            async with self._store.open_object(job.bucket, job.key, version_id=job.version_id) as opened:
                progress.bytes_total = opened.head.size_bytes
                load = await self._retarget(job, load, opened.head)
                decoder, blocks = self._read(job, progress.reading, opened)
                return await self._stage_and_merge(job, load, decoder, blocks, progress)
        except ObjectGone as exc:
            if job.trigger in (LoadTrigger.EVENT, LoadTrigger.RECONCILE):
                message = f"{exc.message}; a later event tells what became of it"
                raise Finished(LoadState.SUPERSEDED, exc.reason, message) from exc
            raise

    async def _load_folder(self, job: LoadJob, load: Load, progress: Progress) -> Load:
        """All parts of the marker's folder. As it is now, whatever version of the marker the event was of: older
        parts are not to be had."""
        assert job.source is not None, "by its role"
        folder = await list_folder(self._store, job.source, job.bucket, job.key)
        parts = folder.part_set()
        progress.bytes_total = parts.size_bytes
        load = await self._retarget(job, load, folder.marker, parts)
        blocks = part_blocks(self._store, folder, functools.partial(self._read, job, progress.reading))
        return await self._stage_and_merge(job, load, PartsDecoder(), blocks, progress)

    async def _load_left_out(self, job: LoadJob, load: Load, rejects_of: UUID, progress: Progress) -> Load:
        """Only the rows that another load left out: by their places, which only its version of the object has."""
        with translated():
            async with self._pool.acquire() as connection:
                left_out = await rejects.left_out(connection, rejects_of)
        async with open_version_of(self._store, left_out) as opened:
            progress.bytes_total = opened.head.size_bytes
            load = await self._retarget(job, load, opened.head)
            decoder, blocks = self._read(job, progress.reading, opened)
            chosen = LeftOutDecoder(job.dataset, decoder, left_out.places)
            ahead = self._limits.blocks_ahead
            source = copy_stream(job.dataset, chosen, blocks, progress.reading, self._executor, blocks_ahead=ahead)
            with translated():
                async with aclosing(source):
                    return await self._merge_alone(job, load, source, progress, only=left_out)

    def _read(
        self, job: LoadJob, reading: Reading, opened: OpenObject
    ) -> tuple[BlockDecoder[Any], AsyncGenerator[Any, None]]:
        return object_blocks(
            job.dataset, opened, reading, self._executor, dialect=job.dialect, limits=self._limits.decode
        )

    async def _retarget(self, job: LoadJob, load: Load, head: ObjectHead, parts: PartSet | None = None) -> Load:
        """The load with what the object really is; ends it here when the ledger says there is nothing to do."""
        version = version_of(head, sequencer=job.sequencer, parts=parts)
        with translated():
            async with self._pool.acquire() as connection:
                load = await loads.retarget(connection, load.id, version)
                refusal = await objects.refused(connection, load, job.dataset)
        if refusal is not None and not job.validate_only:
            raise _refused(refusal)
        return load

    async def _stage_and_merge(
        self, job: LoadJob, load: Load, decoder: BlockDecoder[B], blocks: AsyncGenerator[B, None], progress: Progress
    ) -> Load:
        numbered = None
        if not job.validate_only and self._groups.wants(job.dataset, load.object):
            decoder = numbered = self._groups.numbered(decoder)
        ahead = self._limits.blocks_ahead
        source = copy_stream(job.dataset, decoder, blocks, progress.reading, self._executor, blocks_ahead=ahead)
        with translated():
            async with aclosing(source):
                if numbered is None:
                    return await self._merge_alone(job, load, source, progress)
                with self._tracer.start_as_current_span("stage") as span:  # in memory: the group's COPY takes it
                    beginning = await self._groups.beginning(source)
                    span.set_attribute("penstock.rows_staged", progress.reading.rows_good)
                grouped = await self._merge_grouped(job, load, numbered.number, beginning, progress)
                return grouped or await self._merge_alone(job, load, beginning.then(source), progress)

    async def _merge_grouped(
        self, job: LoadJob, load: Load, number: int, beginning: Beginning, progress: Progress
    ) -> Load | None:
        """The load as committed with others of its dataset; None where it is to be merged alone."""
        if not self._groups.takes(beginning, progress.reading):
            return None
        await self._before_merge(job, load, progress)
        with self._tracer.start_as_current_span("merge", attributes=_MERGE_ATTRIBUTES) as span:
            grouped = await self._groups.merge(job.dataset, load, progress.reading.counts(), number, beginning)
            if grouped is not None:
                _describe(span, grouped.rows_inserted, grouped.rows_updated)
        return grouped

    async def _merge_alone(
        self,
        job: LoadJob,
        load: Load,
        source: AsyncIterable[bytes],
        progress: Progress,
        only: LeftOut | None = None,
    ) -> Load:
        """`only` these rows of the object are wanted; of the others the stage has no more than keys."""
        async with AsyncExitStack() as stack:
            with self._tracer.start_as_current_span("stage", attributes=_COPY_ATTRIBUTES) as span:
                connection = await stack.enter_async_context(self._pool.acquire())
                staging = stage(
                    connection,
                    job.dataset,
                    source,
                    bulk_rows=self._limits.merge.bulk_rows if only is None else None,
                    in_key_order=lambda: progress.reading.in_key_order,
                )
                staged = await stack.enter_async_context(staging)
                span.set_attribute("penstock.rows_staged", staged.rows)
            if only is not None:
                wanted = good_rows(progress.reading, only)
                staged = await drop_passed_over(connection, job.dataset, staged, wanted=wanted)
            await self._before_merge(job, load, progress)
            return await self._merge(connection, job, load, staged, progress)

    async def _before_merge(self, job: LoadJob, load: Load, progress: Progress) -> None:
        """Rejects are stored before the merge commits: beside a load that says SUCCEEDED they are, whatever crashes."""
        judge(job.dataset, job.bucket, job.key, progress.reading, validate_only=job.validate_only)
        if progress.reading.rejects.kept and not progress.rejects_stored:
            async with self._pool.acquire() as connection:
                await rejects.write_rejects(connection, load.id, progress.reading.rejects.kept)
        progress.rejects_stored = True
        progress.phase = LoadPhase.MERGING

    async def _merge(
        self,
        connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record],
        job: LoadJob,
        load: Load,
        staged: Staged,
        progress: Progress,
    ) -> Load:
        counts = progress.reading.counts()
        with self._tracer.start_as_current_span("merge", attributes=_MERGE_ATTRIBUTES) as span:
            try:
                rejected = await stage_rejected(connection, job.dataset, progress.reading.rejected_keys)
                result = await merge(
                    connection, job.dataset, load, staged, counts, self._limits.merge, rejected_staged=rejected
                )
            except Unavailable as exc:
                committed = await self._was_committed(load) if exc.reason == "COMMIT_UNKNOWN" else None
                if committed is None:
                    raise
                return committed
            _describe(span, result.rows_inserted, result.rows_updated)
        async with self._pool.acquire() as other:
            return await loads.get_load(other, load.id)

    async def _was_committed(self, load: Load) -> Load | None:
        """Whether a merge whose connection was lost did commit after all."""
        async with self._pool.acquire() as connection:
            return await loads.committed_load(connection, load)

    async def _finish(self, load: Load, progress: Progress, state: LoadState, reason: str, message: str) -> Load:
        """Ends the load with its rejects, and returns it as the ledger has it: what ended before stays as it is."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                if not progress.rejects_stored:
                    await rejects.write_rejects(connection, load.id, progress.reading.rejects.kept)
                counts = progress.reading.counts()
                return await loads.finish(connection, load.id, state, reason=reason, message=message, read=counts)

    async def _as_it_ended(self, load: Load) -> Load:
        with translated():
            async with self._pool.acquire() as connection:
                return await loads.get_load(connection, load.id)

    async def _try_to_finish(self, load: Load, progress: Progress, state: LoadState, reason: str, message: str) -> None:
        """While something worse is on its way up, which must not be replaced: the sweep ends the load otherwise."""
        try:
            async with asyncio.timeout(self._limits.farewell_s):
                await self._finish(load, progress, state, reason, message)
        except Exception:
            logger.exception("load %s stays RUNNING until it is swept", load.id)

    async def _sign_of_life(self, load: Load, progress: Progress) -> bool:
        with translated():
            async with self._pool.acquire() as connection:
                return await loads.heartbeat(connection, load.id, progress.phase, progress.reading.counts())


def version_of(head: ObjectHead, *, sequencer: str | None = None, parts: PartSet | None = None) -> ObjectVersion:
    """What S3 says of an object, as the ledger has it."""
    return ObjectVersion(
        bucket=head.bucket,
        key=head.key,
        version_id=head.version_id,
        etag=head.etag,
        last_modified=head.last_modified,
        size_bytes=head.size_bytes,
        sequencer=sequencer,
        parts=parts,
    )


def _describe(span: trace.Span, inserted: int, updated: int) -> None:
    span.set_attributes({"penstock.rows_inserted": inserted, "penstock.rows_updated": updated})


def _not_abandoned(load: Load) -> Load:
    """The load, unless the sweep was faster: an ABANDONED one promises another attempt, so it must not be the end."""
    if load.state is LoadState.ABANDONED:
        raise Aborted(f"load {load.id} was ended by somebody else", reason="LOAD_NOT_RUNNING", retry_after_s=1.0)
    return load


def _naming(uri: str, message: str) -> str:
    """The message with the object's name, as nobody reads it beside the object."""
    return message if uri in message else f"{uri}: {message}"


def _refused(refusal: Refusal) -> Finished:
    return Finished(refusal.state, refusal.reason, refusal.message)
