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

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from query_service.connections import Connection
from query_service.consistency import check_same_version, newest_known, remaining_s, same_version, wait_for_version
from query_service.database import bounded
from query_service.endpoint import Endpoint
from query_service.masks import Mask
from query_service.parameters import Parameters, query_parameters
from query_service.rows import Page
from query_service.tokens import Position, TokenKind, TokenScope, encode_token

FIRST_ROWS = 256
MOST_ROWS = 8192
TARGET_BYTES = 512 * 1024
# A message stays between 64 KiB and 1 MiB, but for the first, the last, and one that a single row fills; a read_mask
# makes it smaller.
MESSAGE_BYTES = 1024 * 1024

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
        scope = endpoint.scope(TokenKind.RESUME, wanted.query)
        position = endpoint.position(scope, wanted.token)
        after = endpoint.after(scope, wanted.query, position)
        mask = endpoint.mask(message)
        return _Stream(endpoint=endpoint, wanted=wanted, mask=mask, scope=scope, position=position, after=after)


@dataclass(slots=True, kw_only=True)
class _Stream:
    """One call: what was asked for, and how far it has come. `position` and `after` name the last row read, at first
    the one to resume after."""

    endpoint: Endpoint
    wanted: Parameters
    mask: Mask | None
    scope: TokenScope
    position: Position | None
    after: tuple[Any, ...]
    query_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    snapshot_changed: bool = False
    messages: int = 0
    rows: int = 0

    def sql(self) -> str:
        """The statement that reads the next page."""
        return self.endpoint.planner.plan(self.wanted.query, self.after).page

    async def send(self, connection: Connection, context: Any) -> bytes:
        """Writes all messages but the last, which needs no snapshot; a page is read while the one before is sent."""
        page = await self._read(connection, FIRST_ROWS)
        self._check_snapshot(page)
        while True:
            position = self._advance(page)
            if not page.more or 0 < self.wanted.max_rows == self.rows:
                return self._message(page, position, ends=True)
            async with settled(asyncio.create_task(self._read(connection, rows_after(page)))) as following:
                await asyncio.sleep(0)  # the statement is on its way before this page is copied
                await write_whole(context, self._message(page, position, ends=False))
                page = await following

    def _advance(self, page: Page) -> Position:
        """Where the stream stands after this page, from where the next one is read."""
        position = self.endpoint.position_after(page, self.wanted.query, self.position)
        self.after = self.endpoint.after(self.scope, self.wanted.query, position)
        self.rows += page.rows
        self.position = position
        return position

    async def _read(self, connection: Connection, max_rows: int) -> Page:
        async def fetch(sql: str, bound: Sequence[Any]) -> Any:
            return await connection.fetchrow(sql, *bound)

        limited = self.wanted.max_rows > 0
        if limited:
            max_rows = min(max_rows, self.wanted.max_rows - self.rows)
        return await self.endpoint.reader.read(
            fetch, self.wanted.query, self.after, max_rows=max_rows, max_bytes=MESSAGE_BYTES, beyond=limited
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
        token = encode_token(self.scope, position)
        binary = self.endpoint.method.response_fields["resume_token"].type == FieldDescriptor.TYPE_BYTES
        trailer.resume_token = token.encode() if binary else token
        if self.messages == 0 or ends:
            self._set_status(trailer.status, page, ends=ends)
        self.messages += 1
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


def rows_after(page: Page) -> int:
    """How many rows the next page may have to come to TARGET_BYTES, were they as large as this page's."""
    if not page.data:
        return MOST_ROWS
    return max(1, min(MOST_ROWS, page.rows * TARGET_BYTES // max(1, len(page.data))))


@asynccontextmanager
async def settled(task: asyncio.Task[Page]) -> AsyncIterator[asyncio.Task[Page]]:
    """The task has ended when this block has: a statement may not outlive the transaction it runs in."""
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        _seen(task)
