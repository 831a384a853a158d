"""Watch: what changed in a dataset since a version, as it changes. States, not a log: a row that changed twice since
the caller looked is told once, as it is now.

Reads page by page, each in a statement of its own; holds no connection while it waits for news or for its client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from query_service.changes import Window, deletions_sql, key_rows, pack, rows_plan, unpack, whole_versions
from query_service.consistency import remaining_s
from query_service.endpoint import Endpoint
from query_service.keys import set_key
from query_service.masks import Mask
from query_service.parameters import EVERYTHING, WatchParameters, watch_parameters
from query_service.plan import Plan
from query_service.positions import Positions, key_positions
from query_service.rows import Page, missing_dataset, read_page
from query_service.stream import FIRST_ROWS, MESSAGE_BYTES, rows_after, write_whole
from query_service.tokens import Position, TokenKind, TokenScope, invalid_token
from shared.errors import Aborted, OutOfRange

# Keys that one message tells as deleted. Each becomes a message object, unlike rows.
MOST_DELETED = 1000
# What was heard, or read before, may be ahead of what is read now, where a replica answers.
_BEHIND_S = 0.1
# How soon the database is asked again while no word of new versions can come.
_UNHEARD_S = 1.0


class WatchHandler:
    """Answers a Watch."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        dataset = endpoint.dataset
        self._deletions = {keyed: deletions_sql(dataset, after_key=keyed) for keyed in (False, True)}
        self._rows = {keyed: rows_plan(dataset, after_key=keyed) for keyed in (False, True)}

    async def handle(self, message: Message, context: Any) -> None:
        """Writes changes until the client goes; raises Unavailable, OutOfRange, Aborted or InvalidRequest."""
        endpoint = self._endpoint
        endpoint.check(message)
        wanted = watch_parameters(endpoint.method, message)
        scope = endpoint.scope(TokenKind.RESUME, EVERYTHING)
        watch = _Watch(
            endpoint=endpoint,
            context=context,
            scope=scope,
            mask=endpoint.mask(message),
            deletions=self._deletions,
            plans=self._rows,
            positions=key_positions(endpoint.dataset),
        )
        async with endpoint.database.watches.bounded(endpoint.database.limits.watch_max_age_s):
            await watch.begin(wanted)
            while True:
                await watch.tell_next()


@dataclass(slots=True, kw_only=True)
class _Watch:
    """One call. All changes up to version `position.version` are told, and those of `window` as far as it says."""

    endpoint: Endpoint
    context: Any
    scope: TokenScope
    mask: Mask | None
    deletions: dict[bool, str]
    plans: dict[bool, Plan]
    positions: Positions
    position: Position = field(init=False)
    window: Window | None = None
    rows: int = FIRST_ROWS
    told_at: float = 0.0

    async def begin(self, wanted: WatchParameters) -> None:
        """Finds where to begin, and says so."""
        found = self.endpoint.position(self.scope, wanted.token)
        if found is None:
            now = await self._fetch(self.deletions[False], (1, 0, 0))
            after = now["version"] if wanted.after_version is None else wanted.after_version
            self.position = Position(epoch=wanted.epoch or now["epoch"], version=after, key=None)
        else:
            self.position = found
            self.window = self._unpacked(found)
        row = await self._deleted(0)  # refuses what cannot be answered before anything is said
        await self._write(exact=self.window is None and row["version"] == self.position.version)

    async def tell_next(self) -> None:
        """Tells the next changes, or waits for some."""
        if self.window is not None and self.window.rows:
            await self._tell_rows(())
            return
        row = await self._deleted(MOST_DELETED)
        base = self.position.version
        if self.window is None and row["version"] <= base:
            await self._wait(row["version"])
            return
        limit = row["version"] if self.window is None else self.window.end
        if row["version"] < limit:
            await asyncio.sleep(_BEHIND_S)
            return
        count, end = whole_versions(row["versions"] or [], MOST_DELETED, limit)
        keys = key_rows(self.endpoint.dataset, row, count)
        partial = count == MOST_DELETED and row["versions"][0] == end
        if partial:
            key = self._key(keys[-1])
            self.window = Window(base=base, end=end, rows=False, at=end, key=key)
            await self._write(deleted=keys)
        else:
            self.window = Window(base=base, end=end, rows=True, at=base)
            await self._tell_rows(keys)

    async def _tell_rows(self, deleted: Sequence[tuple[Any, ...]]) -> None:
        """A page of the window's rows, after the keys that were deleted in it."""
        window = self.window
        assert window is not None
        page, last_version = await self._page(window)
        while page.version < window.end:
            await asyncio.sleep(_BEHIND_S)
            page, last_version = await self._page(window)
        self.rows = rows_after(page) if page.rows else self.rows
        if page.more and page.last is not None:
            key = self.positions.of(page.last)
            self.window = Window(base=window.base, end=window.end, rows=True, at=last_version, key=key)
        else:
            self.window = None
            self.position = Position(epoch=page.epoch, version=window.end, key=None)
        exact = self.window is None and page.version == window.end
        await self._write(deleted=deleted, data=page.data, exact=exact)

    async def _page(self, window: Window) -> tuple[Page, int]:
        plan = self.plans[window.key is not None]
        seen: list[Any] = []

        async def fetch(sql: str, bound: Sequence[Any]) -> Any:
            row = await self._row(sql, bound)
            if sql is plan.page:
                seen[:] = [row]
            return row

        bound = (window.end, window.at, *self._values(window))
        dataset = self.endpoint.dataset
        page = await read_page(fetch, dataset, plan, bound, max_rows=self.rows, max_bytes=MESSAGE_BYTES, beyond=False)
        self._check_epoch(page.epoch)
        return page, seen[0]["last_version"]

    async def _deleted(self, most: int) -> Any:
        """The next keys that were deleted; raises OutOfRange or Aborted where they cannot be known any more."""
        window, base = self.window, self.position.version
        if window is None or window.rows:
            row = await self._fetch(self.deletions[False], (most, 2**63 - 1, base))
        else:
            row = await self._fetch(
                self.deletions[window.key is not None], (most, window.end, window.at, *self._values(window))
            )
        self._check_epoch(row["epoch"])
        floor = base if window is None else window.floor
        if row["deleted_horizon"] > floor and not (window is not None and window.rows):
            raise self._forgotten(row["deleted_horizon"])
        return row

    async def _fetch(self, sql: str, bound: Sequence[Any]) -> Any:
        row = await self._row(sql, (self.endpoint.dataset.name, *bound))
        if row is None:
            raise missing_dataset(self.endpoint.dataset)
        return row

    async def _row(self, sql: str, bound: Sequence[Any]) -> Any:
        database = self.endpoint.database
        timeout_s = remaining_s(self.context, database.limits.query_timeout_s)
        return await database.fetch_row(self.endpoint.dataset, sql, bound, timeout_s)

    async def _wait(self, seen: int) -> None:
        """Until there may be news; a sign of life where there is none for long."""
        endpoint, base = self.endpoint, self.position.version
        versions, name = endpoint.database.versions, endpoint.dataset.name
        left_s = self.told_at + endpoint.database.limits.heartbeat_s - _now()
        if left_s <= 0:
            await self._write(exact=seen == base)
            return
        standing = versions.current(name)
        if standing is not None and standing.version > base:
            await asyncio.sleep(min(left_s, _BEHIND_S))
        else:
            await versions.changed(name, beyond=base, timeout_s=left_s if standing else min(left_s, _UNHEARD_S))

    async def _write(self, *, deleted: Sequence[tuple[Any, ...]] = (), data: bytes = b"", exact: bool = False) -> None:
        """`exact`: what has been told makes up the dataset at the position's version."""
        endpoint = self.endpoint
        trailer = endpoint.output_class()
        for key in deleted:
            set_key(endpoint.dataset, trailer.deleted.add(), key)
        position = self.position
        token = Position(epoch=position.epoch, version=position.version, key=pack(self.window))
        endpoint.put_token(trailer, self.scope, token)
        if exact and "dataset_version" in endpoint.method.response_fields:
            trailer.dataset_version = position.version
        rows = data if self.mask is None else self.mask.page(data)
        self.told_at = _now()
        await write_whole(self.context, rows + trailer.SerializeToString())

    def _key(self, key: Sequence[Any]) -> bytes:
        """A key as tokens carry it: the record with its key fields only."""
        record = self.endpoint.dataset.message_class()
        set_key(self.endpoint.dataset, record, key)
        encoded: bytes = record.SerializeToString(deterministic=True)
        return encoded

    def _values(self, window: Window) -> tuple[Any, ...]:
        if window.key is None:
            return ()
        try:
            return self.positions.values(window.key)
        except ValueError as exc:
            raise invalid_token(self.scope, str(exc)) from exc

    def _unpacked(self, position: Position) -> Window | None:
        if position.key is None:
            return None
        try:
            return unpack(position.version, position.key)
        except ValueError as exc:
            raise invalid_token(self.scope, str(exc)) from exc

    def _check_epoch(self, epoch: Any) -> None:
        if epoch != self.position.epoch:
            raise Aborted(
                "the database was restored or a replica promoted, so what changed in between is not known: read the "
                "rows again with a Stream, and watch from its version on",
                reason="EPOCH_CHANGED",
                metadata={"epoch": str(epoch)},
            )

    def _forgotten(self, horizon: int) -> OutOfRange:
        name, base = self.endpoint.dataset.name, self.position.version
        return OutOfRange(
            f"what was deleted from {name} after version {base} is not known any more, only after {horizon}: read the "
            "rows again with a Stream, and watch from its version on",
            reason="CHANGES_FORGOTTEN",
            metadata={"dataset": name, "version": str(base), "oldest_version": str(horizon)},
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
