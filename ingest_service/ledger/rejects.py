"""penstock.rejects: the first bad rows of a load, kept for whoever mends the file. It never keeps them all."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from ingest_service.ledger.connection import Connection, storable, translating
from ingest_service.ledger.loads import get_load
from ingest_service.ledger.records import LeftOut
from ingest_service.rejects import Reject

KEPT_REJECTS = 1000
_COLUMNS = ("load_id", "ordinal", "line", "field", "rule", "message", "raw", "part", "place")


# Where the rejected rows of a load stand, a row that broke several rules once. Index: rejects_pkey.
_PLACES = """
SELECT DISTINCT place FROM penstock.rejects WHERE load_id = $1 AND place IS NOT NULL ORDER BY place
"""


class RejectLog:
    """Keeps the first `limit` rejects in the order they are added. Of a block no more than that need be added."""

    __slots__ = ("_limit", "kept")

    def __init__(self, limit: int = KEPT_REJECTS) -> None:
        self._limit = limit
        self.kept: list[Reject] = []

    def add(self, rejects: Sequence[Reject]) -> None:
        """Adds the rejects of one block. Blocks must come in file order for `kept` to be the first of the file."""
        self.kept.extend(rejects[: self._limit - len(self.kept)])

    def forget(self) -> None:
        """Lets go of what is stored by now: a thousand are megabytes."""
        self.kept = []


@translating
async def write_rejects(connection: Connection, load_id: UUID, rejects: Sequence[Reject]) -> None:
    """Stores the rejects of a load in file order, all at once (COPY). For loads of every final state."""
    if not rejects:
        return
    in_order = sorted(rejects, key=lambda reject: (reject.part, reject.line))
    records = (_record(load_id, ordinal, reject) for ordinal, reject in enumerate(in_order))
    await connection.copy_records_to_table("rejects", schema_name="penstock", columns=_COLUMNS, records=records)


@translating
async def left_out(connection: Connection, load_id: UUID) -> LeftOut:
    """What a load left out, as far as it is kept. Raises NotFound where there is no such load."""
    load = await get_load(connection, load_id)
    return LeftOut(load=load, places=tuple(row["place"] for row in await connection.fetch(_PLACES, load_id)))


def _record(load_id: UUID, ordinal: int, reject: Reject) -> tuple[object, ...]:
    field, message = storable(reject.field), storable(reject.message)
    part, place = storable(reject.part), None if reject.part else reject.place
    return load_id, ordinal, reject.line, field, reject.rule, message, reject.raw, part, place
