"""The rows of an object that an earlier load of it left out: opened, and chosen between decoding and encoding.

Told by their place alone, never by what they say: rows that were loaded then must not come again, whatever they are by
today's contract.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Generic, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from ingest_service.decode import DecodedBlock, PassedOver
from ingest_service.ledger.decision import same_version
from ingest_service.ledger.records import LeftOut, ObjectVersion
from ingest_service.objects import ObjectChanged, ObjectHead, ObjectStore, OpenObject
from ingest_service.pipeline import BlockDecoder, Reading
from shared.contract.model import Dataset
from shared.errors import FailedPrecondition

B = TypeVar("B")


@asynccontextmanager
async def open_version_of(store: ObjectStore, left_out: LeftOut) -> AsyncIterator[OpenObject]:
    """The object in the very version that the rows were left out of: in another one they stand elsewhere.

    Raises FailedPrecondition, here or while it is read, where it is another one now, else what `open_object` raises.
    """
    version = left_out.load.object
    opening = store.open_object(version.bucket, version.key, version_id=version.version_id, etag=version.etag)
    try:
        async with opening as opened:
            _require_same(opened.head, version)
            yield opened
    except ObjectChanged as exc:
        message = f"{version.uri} is another version now than the one that load {left_out.load.id} left rows out of"
        raise FailedPrecondition(message, reason="OBJECT_REPLACED") from exc


def good_rows(reading: Reading, left_out: LeftOut) -> int:
    """How many of the rows that were left out are good now, when all is read. Raises FailedPrecondition where not each
    of them was met."""
    places, met = len(left_out.places), reading.rows_read - reading.rows_passed_over
    if met != places:
        message = f"{met} of the {places} rows that load {left_out.load.id} left out stand where they stood then"
        raise FailedPrecondition(f"{message}: the object is read in another way now", reason="REJECTS_MOVED")
    return met - reading.rows_rejected


class LeftOutDecoder(Generic[B]):
    """Decodes the blocks of an object, in any thread, down to the rows at `places`, which must be some."""

    def __init__(self, dataset: Dataset, decoder: BlockDecoder[B], places: Sequence[int]) -> None:
        self._key = list(dataset.key)
        self._decoder = decoder
        self._places = frozenset(places)
        self._sorted = pa.array(sorted(self._places), pa.int64())

    def decode_block(self, block: B, /) -> DecodedBlock:
        """The block's wanted rows. What was loaded then and would be rejected now is passed over like all else."""
        decoded = self._decoder.decode_block(block)
        wanted = pc.is_in(decoded.order, value_set=self._sorted)
        rows = pc.indices_nonzero(wanted)
        rejects = [reject for reject in decoded.rejects if reject.place in self._places]
        return replace(
            decoded,
            batch=decoded.batch.filter(wanted),
            lines=decoded.lines.filter(wanted),
            order=decoded.order.filter(wanted),
            raw=lambda row: decoded.raw(rows[row].as_py()),
            rejects=rejects,
            rows_read=len(rows) + len(rejects),
            # For policies that delete rows, none of which loads some rows of an object only.
            rejected_keys=decoded.rejected_keys.slice(0, 0),
            keys_unreadable=0,
            passed_over=self._passed_over(decoded, wanted, decoded.rows_read - len(rows) - len(rejects)),
        )

    def _passed_over(self, decoded: DecodedBlock, wanted: pa.BooleanArray, rows: int) -> PassedOver:
        behind = pc.and_(pc.invert(wanted), pc.greater(decoded.order, self._sorted[0]))
        keys = decoded.batch.select(self._key).filter(behind)
        return PassedOver(rows=rows, keys=keys, order=decoded.order.filter(behind))


def _require_same(head: ObjectHead, version: ObjectVersion) -> None:
    """Uploaded again with the same content it is another version, with a load of its own."""
    found = replace(version, version_id=head.version_id, etag=head.etag, last_modified=head.last_modified)
    if not same_version(found, version):
        raise ObjectChanged(f"{version.uri} was written again", reason="OBJECT_CHANGED")
