"""IngestService: checks what callers send, hands over to who does it or to the ledger. Holds no logic of a load."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import grpc
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc

from ingest_service import page_tokens
from ingest_service.ledger import listing, loads
from ingest_service.ledger.cancel import cancel_load
from ingest_service.ledger.changes import Scope
from ingest_service.ledger.listing import LoadCursor, LoadFilter
from ingest_service.ledger.records import Load, LoadState
from ingest_service.ledger.rejects import left_out
from ingest_service.messages import (
    counts_message,
    event_fields,
    gap_message,
    load_message,
    reject_line,
    reject_message,
)
from ingest_service.populate import Populates, check_request, retry_request
from ingest_service.reconcile.reconciler import Reconciler, Report
from ingest_service.reconcile.request import check_scope
from ingest_service.rejects_request import check_selectors, rejects_request
from ingest_service.routing import parse_uri
from ingest_service.sources import Sources
from ingest_service.unload import Unloader
from ingest_service.watch import LoadWatch, Watched
from shared.contract.model import Dataset
from shared.errors import FailedPrecondition, FieldViolation, InvalidRequest
from shared.postgres.errors import translated
from shared.rpc.identity import read_identity

# A reject quotes up to 4 KiB of a row, six times that in JSON at worst: within the 4 MiB that clients accept.
REJECTS_PER_MESSAGE = 100
MOST_GAPS_TOLD = 10_000

Context = grpc.aio.ServicerContext[Any, Any]


class IngestRpc(ingest_pb2_grpc.IngestServiceServicer):
    """The servicer; see ingest.proto for what each method promises."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool[asyncpg.Record],
        datasets: Mapping[str, Dataset],
        sources: Sources,
        populates: Populates,
        unloader: Unloader,
        reconciler: Reconciler,
        watch: LoadWatch,
    ) -> None:
        self._pool = pool
        self._datasets = datasets
        self._sources = sources
        self._populates = populates
        self._unloader = unloader
        self._reconciler = reconciler
        self._watch = watch

    async def Populate(  # noqa: N802  named by the proto
        self, request: ingest_pb2.PopulateRequest, context: Context
    ) -> AsyncIterator[ingest_pb2.PopulateResponse]:
        """Starts or joins the work and streams it."""
        request_id = _uuid(request.request_id, "request_id") if request.request_id else uuid4()
        if request.retry_of:
            raise InvalidRequest([FieldViolation(field="retry_of", description="call RetryLoad instead")])
        if request.rejects_of:
            request = await self._of_rejects(request)
        checked = check_request(request, request_id, self._datasets, self._sources)
        async for event in self._populates.follow(checked):
            yield ingest_pb2.PopulateResponse(request_id=str(request_id), **event_fields(event))

    async def RetryLoad(  # noqa: N802
        self, request: ingest_pb2.RetryLoadRequest, context: Context
    ) -> AsyncIterator[ingest_pb2.RetryLoadResponse]:
        """Populate of the object of an ended load."""
        load_id = _uuid(request.id, "id")
        request_id = _uuid(request.request_id, "request_id") if request.request_id else uuid4()
        again = retry_request(await self._load(load_id))
        checked = check_request(again, request_id, self._datasets, self._sources)
        async for event in self._populates.follow(checked):
            yield ingest_pb2.RetryLoadResponse(request_id=str(request_id), **event_fields(event))

    async def CancelLoad(  # noqa: N802
        self, request: ingest_pb2.CancelLoadRequest, context: Context
    ) -> ingest_pb2.CancelLoadResponse:
        """Ends a load, wherever it runs."""
        load_id = _uuid(request.id, "id")
        caller = read_identity(context.auth_context()).principal
        with translated():
            async with self._pool.acquire() as connection:
                load = await cancel_load(connection, load_id, caller)
        return ingest_pb2.CancelLoadResponse(load=load_message(load))

    async def Unload(  # noqa: N802
        self, request: ingest_pb2.UnloadRequest, context: Context
    ) -> ingest_pb2.UnloadResponse:
        """Takes an object's rows back."""
        uri = parse_uri(request.uri)
        self._sources.require_readable(uri.bucket)
        name = self._sources.choose_dataset(uri, requested=request.dataset, known=self._datasets.keys())
        load = await self._unloader.unload(self._datasets[name], uri)
        return ingest_pb2.UnloadResponse(
            load=load_message(load), rows_not_restored=load.lost.rows, not_restored_uris=load.lost.uris
        )

    async def Reconcile(  # noqa: N802
        self, request: ingest_pb2.ReconcileRequest, context: Context
    ) -> AsyncIterator[ingest_pb2.ReconcileResponse]:
        """Gaps as they are found and mended, and counts."""
        scope, told = check_scope(request, self._datasets, self._sources), 0
        report = Report.of(scope)
        async with aclosing(self._reconciler.run(scope, report)) as steps:
            async for step in steps:
                if step is None:
                    yield _counts(report)
                elif told < MOST_GAPS_TOLD:
                    told += 1
                    yield ingest_pb2.ReconcileResponse(gap=gap_message(step))
        yield _counts(report)
        if report.problems:
            raise report.problems[0]

    async def WatchLoads(  # noqa: N802
        self, request: ingest_pb2.WatchLoadsRequest, context: Context
    ) -> AsyncIterator[ingest_pb2.WatchLoadsResponse]:
        """States of loads as they change."""
        wanted = _watched(request)
        async with aclosing(self._watch.watch(wanted)) as events:  # type: ignore[type-var]
            async for news in events:
                token = page_tokens.encode(request, [news.position, news.begun]).encode()
                load = load_message(news.load) if news.load else None
                yield ingest_pb2.WatchLoadsResponse(load=load, settled=news.settled, resume_token=token)

    async def GetLoad(self, request: ingest_pb2.GetLoadRequest, context: Context) -> ingest_pb2.Load:  # noqa: N802
        """One load."""
        return load_message(await self._load(_uuid(request.id, "id")))

    async def ListLoads(  # noqa: N802
        self, request: ingest_pb2.ListLoadsRequest, context: Context
    ) -> ingest_pb2.ListLoadsResponse:
        """A page of loads, newest first."""
        size = page_tokens.page_size(request.page_size)
        wanted = _load_filter(request)
        after = _load_cursor(request) if request.page_token else None
        with translated():
            async with self._pool.acquire() as connection:
                found = await listing.list_loads(connection, wanted, after=after, limit=size + 1)
        response = ingest_pb2.ListLoadsResponse(loads=[load_message(load) for load in found[:size]])
        if len(found) > size:
            last = found[size - 1]
            response.next_page_token = page_tokens.encode(request, [last.created_at.isoformat(), str(last.id)])
        return response

    async def ListRejects(  # noqa: N802
        self, request: ingest_pb2.ListRejectsRequest, context: Context
    ) -> ingest_pb2.ListRejectsResponse:
        """A page of a load's rejects, in file order."""
        size = page_tokens.page_size(request.page_size)
        load_id = _uuid(request.load_id, "load_id")
        after = _reject_cursor(request) if request.page_token else -1
        with translated():
            async with self._pool.acquire() as connection:
                await loads.get_load(connection, load_id)  # an unknown load is NOT_FOUND, not an empty page
                found = await listing.list_rejects(connection, load_id, after_ordinal=after, limit=size + 1)
        response = ingest_pb2.ListRejectsResponse(rejects=[reject_message(reject) for reject in found[:size]])
        if len(found) > size:
            response.next_page_token = page_tokens.encode(request, [found[size - 1].ordinal])
        return response

    async def ExportRejects(  # noqa: N802
        self, request: ingest_pb2.ExportRejectsRequest, context: Context
    ) -> AsyncIterator[ingest_pb2.ExportRejectsResponse]:
        """A load's rejects as a file."""
        load = await self._load(_uuid(request.load_id, "load_id"))
        if load.state is LoadState.RUNNING:
            message = f"load {load.id} is in work: its rejects are stored when it ends"
            raise FailedPrecondition(message, reason="LOAD_RUNNING", metadata={"load_id": str(load.id)})
        exported = 0
        async for rejects in listing.all_rejects(self._pool, load.id, page=REJECTS_PER_MESSAGE):
            exported += len(rejects)
            yield ingest_pb2.ExportRejectsResponse(ndjson=b"".join(reject_line(load, one) for one in rejects))
        yield ingest_pb2.ExportRejectsResponse(rows_exported=exported, rows_rejected=load.read.rows_rejected)

    async def _of_rejects(self, request: ingest_pb2.PopulateRequest) -> ingest_pb2.PopulateRequest:
        check_selectors(request)
        load_id = _uuid(request.rejects_of, "rejects_of")
        with translated():
            async with self._pool.acquire() as connection:
                return rejects_request(request, await left_out(connection, load_id))

    async def _load(self, load_id: UUID) -> Load:
        with translated():
            async with self._pool.acquire() as connection:
                return await loads.get_load(connection, load_id)


def _uuid(text: str, field: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as exc:
        violation = FieldViolation(field=field, description=f"{text!r} is not a UUID")
        raise InvalidRequest([violation], reason="INVALID_ID") from exc


def _counts(report: Report) -> ingest_pb2.ReconcileResponse:
    counts = [counts_message(tally) for _, tally in sorted(report.tallies.items())]
    return ingest_pb2.ReconcileResponse(counts=counts)


def _watched(request: ingest_pb2.WatchLoadsRequest) -> Watched:
    if not request.uri and not request.dataset:
        raise InvalidRequest([FieldViolation(field="uri", description="set uri, dataset, or both")])
    for field in ("object_version_id", "etag"):
        if getattr(request, field) and not request.uri:
            raise InvalidRequest([FieldViolation(field=field, description="needs the uri of the object")])
    uri = parse_uri(request.uri) if request.uri else None
    position, begun = _place(request) if request.resume_token else (None, True)
    return Watched(
        scope=Scope(
            dataset=_dataset(request.dataset),
            bucket=uri.bucket if uri else None,
            key=uri.key if uri else None,
        ),
        version_id=request.object_version_id or None,
        etag=request.etag.strip('"') or None,
        until_settled=request.until_settled,
        position=position,
        begun=begun,
    )


def _place(request: ingest_pb2.WatchLoadsRequest) -> tuple[int, bool]:
    try:
        position, begun = page_tokens.decode(request, request.resume_token.decode(), field="resume_token")
        return max(0, int(position)) % 2**63, bool(begun)  # a forged one must not overflow Postgres's type
    except ValueError as exc:
        raise page_tokens.malformed("resume_token") from exc


def _dataset(name: str) -> str | None:
    if "\x00" in name:  # Postgres takes no such text, not even to compare with
        raise InvalidRequest([FieldViolation(field="dataset", description="holds a NUL character")])
    return name or None


def _load_filter(request: ingest_pb2.ListLoadsRequest) -> LoadFilter:
    uri = parse_uri(request.uri) if request.uri else None
    return LoadFilter(
        dataset=_dataset(request.dataset),
        states=tuple(_state(number) for number in request.states),
        bucket=uri.bucket if uri else None,
        key=uri.key if uri else None,
    )


def _state(number: int) -> LoadState:
    name = ingest_pb2.LoadState.Name(number) if number in ingest_pb2.LoadState.values() else str(number)  # type: ignore[arg-type]
    try:
        return LoadState(name.removeprefix("LOAD_STATE_"))
    except ValueError as exc:
        violation = FieldViolation(field="states", description=f"{name} is not a state of a load")
        raise InvalidRequest([violation], reason="INVALID_STATE") from exc


def _load_cursor(request: ingest_pb2.ListLoadsRequest) -> LoadCursor:
    try:
        created_at, load_id = page_tokens.decode(request, request.page_token)
        return LoadCursor(created_at=dt.datetime.fromisoformat(str(created_at)), id=UUID(str(load_id)))
    except ValueError as exc:
        raise page_tokens.malformed() from exc


def _reject_cursor(request: ingest_pb2.ListRejectsRequest) -> int:
    try:
        (ordinal,) = page_tokens.decode(request, request.page_token)
        return int(ordinal)
    except ValueError as exc:
        raise page_tokens.malformed() from exc
