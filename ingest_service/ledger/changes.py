"""What became of loads since one looked last: every change of a state once, none missed, in one statement a look.

Times cannot do this: a load that ended earlier may commit later. The horizon is the oldest transaction that had not
ended when one looked; whatever was not seen then belongs to it or to a later one.
"""

# ruff: noqa: S608 - the statements are put together from constants of this package; every value is bound.

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from ingest_service.ledger.connection import Connection
from ingest_service.ledger.records import Load, LoadState
from ingest_service.ledger.rows import LOAD_COLUMNS, load_of
from shared.errors import FieldViolation, InvalidRequest
from shared.postgres.errors import translated

CHANNEL = "penstock_loads"
PAGE = 500
_NO_ID = UUID(int=0)

Connect = Callable[[], AbstractAsyncContextManager[Connection]]

# A page of loads whose state changed in the transaction $1 or a later one, behind the load $2 of $1, with the horizon
# of this very look on every row, also when there is none. What lies ahead of the look came with a dump of another
# database, whose transactions are others. Index: loads_by_change.
_LOOK = f"""
SELECT here.horizon, $1::text::xid8 > here.next AS is_past, changed_xid::text AS changed_in, {LOAD_COLUMNS}
FROM (
    SELECT pg_snapshot_xmin(seen)::text AS horizon, pg_snapshot_xmax(seen) AS next
    FROM pg_current_snapshot() AS seen
) AS here
LEFT JOIN LATERAL (
    SELECT changed_xid, {LOAD_COLUMNS} FROM penstock.loads
    WHERE (changed_xid, id) > ($1::text::xid8, $2::uuid) AND changed_xid < here.next
        AND ($3::text IS NULL OR dataset = $3) AND ($4::text IS NULL OR (bucket = $4 AND key = $5))
    ORDER BY changed_xid, id LIMIT $6
) AS changed ON true
ORDER BY changed.changed_xid, id
"""

_HORIZON = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which loads; `None` stands for any. `bucket` and `key` go together."""

    dataset: str | None = None
    bucket: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A load in its new state. All changes before `position` have been told, so a later look may begin there."""

    load: Load
    position: int


async def horizon(connection: Connection) -> int:
    """A position before everything that is not visible yet."""
    with translated():
        return int(await connection.fetchval(_HORIZON))


class Changes:
    """Looks from a position on, again and again. After a look `position` is where the next one begins.

    A change may be told twice to two followers of the same position, to one it never is.
    """

    def __init__(self, scope: Scope, position: int) -> None:
        self._scope = scope
        self._told: dict[UUID, LoadState] = {}
        self.position = position

    def tell(self, load: Load) -> None:
        """Notes that the follower knows the load as it is from elsewhere."""
        self._told[load.id] = load.state

    async def news(self, connect: Connect) -> AsyncIterator[Change]:
        """The changes since the last look, a page at a time; holds no connection while they are told.

        Raises InvalidRequest where the position is beyond what the database has ever seen: it is another one.
        """
        recent: dict[UUID, LoadState] = {}
        at, load_id, ahead = self.position, _NO_ID, None
        while True:
            rows = await self._page(connect, at, load_id)
            ahead = int(rows[0]["horizon"]) if ahead is None else ahead
            changed = [row for row in rows if row["id"] is not None]
            for row in changed:
                load, at, load_id = load_of(row), int(row["changed_in"]), row["id"]
                if at >= ahead:
                    recent[load.id] = load.state
                if self._told.get(load.id) is not load.state:
                    self.tell(load)
                    yield Change(load=load, position=min(at, ahead))
            if len(changed) < PAGE:
                break
        # Of what lies before the horizon nothing comes again.
        self.position, self._told = ahead, recent

    async def _page(self, connect: Connect, at: int, load_id: UUID) -> list[asyncpg.Record]:
        scope = self._scope
        with translated():
            async with connect() as connection:
                values = (str(at), load_id, scope.dataset, scope.bucket, scope.key, PAGE)
                rows = await connection.fetch(_LOOK, *values)
        if rows[0]["is_past"]:
            problem = "is of another database, or of one that was restored since: start again without it"
            violation = FieldViolation(field="resume_token", description=problem)
            raise InvalidRequest([violation], reason="RESUME_TOKEN_INVALID")
        return rows
