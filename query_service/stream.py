"""Stream: all matching rows of one snapshot, read page by page in key order while the page before is being sent.

Holds at most two pages: the one that gRPC's flow control has not taken yet and the next. Never ends OK when cut short.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from query_service.binds import UNBOUNDED, Bounds
from query_service.connections import Connection
from query_service.consistency import check_same_version, newest_known, remaining_s, same_version, wait_for_version
from query_service.database import bounded
from query_service.endpoint import Endpoint
from query_service.masks import Mask
from query_service.paging import Paging
from query_service.parameters import Parameters, given_token, query_parameters
from query_service.partitions import BOUNDS_SQL, Span, bound_values, pack, span_of, unpack
from query_service.rows import Page, missing_dataset
from query_service.tokens import Position, TokenKind, TokenScope, invalid_token

FIRST_ROWS = 256
MOST_ROWS = 8192
TARGET_BYTES = 512 * 1024
# Where many streams are open their pages get smaller, for a client that takes nothing leaves three here: the message on
# its way, gRPC's copy of it, the page after it. 500 such streams of full pages took 1.2 GiB.
OPEN_PAGES_BYTES = 64 * TARGET_BYTES
LEAST_BYTES = 64 * 1024
# No message exceeds two such pages, but for one that a single row fills; a read_mask makes it smaller.
MESSAGE_BYTES = 2 * TARGET_BYTES

_COMPLETE, _MAX_ROWS = 1, 2  # penstock.query.v1.EndReason, whose class lies in the contract's private pool


async def write_whole(context: Any, message: bytes) -> None:
    """Writes a message that no cancellation tears.

    grpc.aio frees the copy of a message that it has made only where its write is awaited to the end, and a write ends
    by itself once the client has taken the message or has gone. A status may follow a message that is on its way.
    """
    writing = asyncio.ensure_future(context.write(message))
    writing.add_done_callback(_seen)
    await asyncio.shield(writing)


def _seen(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()  # whoever still cares has awaited the task


class StreamHandler:
    """Answers a Stream."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def handle(self, message: Message, context: Any) -> None:
        """Writes all messages of the stream; raises Aborted, Unavailable or InvalidRequest."""
        endpoint = self._endpoint
        database, dataset = endpoint.database, endpoint.dataset
        limits = database.limits
        stream = self._stream(message)
        async with bounded(limits.stream_max_age_s):
            timeout_s = remaining_s(context, limits.stream_max_age_s)
            await wait_for_version(database, dataset, stream.wanted.at_least_version, timeout_s)
            newest = newest_known(stream.wanted.at_least_version, stream.position)
            async with database.snapshot(dataset, timeout_s, at_least=newest) as connection:
                with database.span(dataset, stream.sql()) as span:
                    span.set_attribute("penstock.query_id", stream.query_id)
                    try:
                        last = await stream.send(connection, context)
                    finally:
                        span.set_attribute("db.response.returned_rows", stream.rows)
            await write_whole(context, last)

    def _stream(self, message: Message) -> _Stream:
        endpoint = self._endpoint
        endpoint.check(message)
        wanted = query_parameters(endpoint.method, endpoint.dataset, message)
        part = wanted.partition
        scope = endpoint.scope(TokenKind.RESUME, wanted.query, *([f"{part.index} of {part.count}"] if part else []))
        paging = endpoint.paging(wanted.query)
        stream = _Stream(endpoint=endpoint, wanted=wanted, mask=endpoint.mask(message), scope=scope, paging=paging)
        stream.resume(endpoint.position(scope, given_token(endpoint.method, message)))
        return stream


@dataclass(slots=True, kw_only=True)
class _Stream:
    """One call: what was asked for, and how far it has come. `position` and `after` name the last row read, at first
    the one to resume after. `span` and `bounds` are the range of a partition."""

    endpoint: Endpoint
    wanted: Parameters
    mask: Mask | None
    scope: TokenScope
    paging: Paging
    position: Position | None = None
    after: tuple[Any, ...] = ()
    span: Span | None = None
    bounds: Bounds = UNBOUNDED
    query_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    snapshot_changed: bool = False
    messages: int = 0
    rows: int = 0
    told_at: float = 0.0

    def resume(self, position: Position | None) -> None:
        """Goes on after the position of a token; raises InvalidRequest."""
        if position is None:
            return
        try:
            if self.wanted.partition is not None:
                span, key = unpack(position.key or b"")
                position = position._replace(key=key)
                self._enter(span)
        except ValueError as exc:
            raise invalid_token(self.scope, str(exc)) from exc
        self.position = position
        self.after = self.paging.after(self.scope, position)

    def _enter(self, span: Span) -> None:
        dataset = self.endpoint.dataset
        self.span, self.bounds = span, (bound_values(dataset, span.lower), bound_values(dataset, span.upper))

    async def _first(self, connection: Connection) -> Page:
        """The first page. A new partition finds its range in the snapshot that it reads."""
        partition, dataset = self.wanted.partition, self.endpoint.dataset
        if partition is not None and (self.span is None or self.span.empty):
            row = await connection.fetchrow(BOUNDS_SQL, dataset.name)
            if row is None:
                raise missing_dataset(dataset)
            self._enter(self.span or span_of(dataset, partition, row["key_bounds"]))
            if self.span is not None and self.span.empty:
                return Page(epoch=row["epoch"], version=row["version"], data=b"", rows=0, last=None, more=False)
        return await self._read(connection, FIRST_ROWS)

    def sql(self) -> str:
        """The statement that reads the next page."""
        return self.paging.plan(self.after).page

    async def send(self, connection: Connection, context: Any) -> bytes:
        """Writes all messages but the last, which needs no snapshot; a page is read while the one before is sent."""
        page = await self._first(connection)
        self._check_snapshot(page)
        while True:
            position = self._advance(page)
            if not page.more or 0 < self.wanted.max_rows == self.rows:
                return self._message(page, position, ends=True)
            async with settled(asyncio.create_task(self._read(connection, self._next_rows(page)))) as following:
                await asyncio.sleep(0)  # the statement is on its way before this page is copied
                message = self._message(page, position, ends=False) if page.rows or self._is_due() else b""
                del page  # a client that takes nothing would keep its bytes beside those of the message
                if message:
                    await write_whole(context, message)
                del message
                page = await following

    def _next_rows(self, page: Page) -> int:
        return rows_after(page, page_bytes(self.endpoint.database.open_streams))

    def _is_due(self) -> bool:
        """Whether a message without rows is to tell how far a long search has come."""
        return self.messages == 0 or _now() - self.told_at >= self.endpoint.database.limits.heartbeat_s

    def _advance(self, page: Page) -> Position:
        """Where the stream stands after this page, from where the next one is read."""
        position = self.paging.position_after(page, self.position)
        self.after = self.paging.after(self.scope, position)
        self.rows += page.rows
        self.position = position
        return position

    async def _read(self, connection: Connection, max_rows: int) -> Page:
        async def fetch(sql: str, bound: Sequence[Any]) -> Any:
            return await connection.fetchrow(sql, *bound)

        limited = self.wanted.max_rows > 0
        if limited:
            max_rows = min(max_rows, self.wanted.max_rows - self.rows)
        return await self.paging.read(
            fetch,
            self.after,
            max_rows=max_rows,
            max_bytes=2 * page_bytes(self.endpoint.database.open_streams),
            beyond=limited,
            bounds=self.bounds,
        )

    def _check_snapshot(self, page: Page) -> None:
        if self.position is None:
            return
        if self.wanted.require_same_version:
            check_same_version(self.position, page)
        self.snapshot_changed = not same_version(self.position, page)

    def _message(self, page: Page, position: Position, *, ends: bool) -> bytes:
        """The page's rows as they are stored, then the token after them and, first and last, the status."""
        trailer: Any = self.endpoint.output_class()
        if self.span is not None:
            position = position._replace(key=pack(self.span, position.key))
        self.endpoint.put_token(trailer, self.scope, position)
        if self.messages == 0 or ends:
            self._set_status(trailer.status, page, ends=ends)
        self.messages += 1
        self.told_at = _now()
        trailer_bytes: bytes = trailer.SerializeToString()
        return (page.data if self.mask is None else self.mask.page(page.data)) + trailer_bytes

    def _set_status(self, status: Any, page: Page, *, ends: bool) -> None:
        status.epoch = str(page.epoch)
        status.version = page.version
        status.query_id = self.query_id
        status.snapshot_changed = self.messages == 0 and self.snapshot_changed
        if ends:
            status.end_reason = _MAX_ROWS if page.more else _COMPLETE
            status.rows = self.rows


def _now() -> float:
    return asyncio.get_running_loop().time()


def page_bytes(open_streams: int) -> int:
    """How large a page should be where so many streams share the process's memory."""
    return max(LEAST_BYTES, min(TARGET_BYTES, OPEN_PAGES_BYTES // max(1, open_streams)))


def rows_after(page: Page, target_bytes: int = TARGET_BYTES) -> int:
    """How many rows the next page may have to come to `target_bytes`, were they as large as this page's."""
    if not page.data:
        return MOST_ROWS
    return max(1, min(MOST_ROWS, page.rows * target_bytes // max(1, len(page.data))))


@asynccontextmanager
async def settled(task: asyncio.Task[Page]) -> AsyncIterator[asyncio.Task[Page]]:
    """The task has ended when this block has: a statement may not outlive the transaction it runs in."""
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        _seen(task)
