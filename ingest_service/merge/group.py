"""Small loads of one dataset, merged by one transaction: each has a version and a row in the ledger of its own.

They are written in the order in which they stand, as if each were alone, and committed together or not at all. Nothing
is decided here that `merge` decides otherwise: whatever is out of the ordinary raises NotGrouped, or fails as it does,
and leaves every one of them to be merged by itself.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from ingest_service.copy_format import TRAILER, header
from ingest_service.decode import PLACES
from ingest_service.ledger import datasets, loads, objects
from ingest_service.ledger.connection import Connection, translating
from ingest_service.ledger.datasets import LockedDataset
from ingest_service.ledger.records import Load, LoadState, MergeResult, ReadCounts
from ingest_service.merge.merge import MergeLimits, keep_statistics
from ingest_service.merge.plan import GroupStage
from ingest_service.merge.staging import copy_rows
from shared.contract.model import Dataset
from shared.errors import Unavailable
from shared.postgres.errors import translated


class NotGrouped(Exception):
    """The loads must be merged one by one; nothing has happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A RUNNING load of a MERGE dataset that was read to its end. `tuples`: its `rows`, of which no two have the same
    key, as binary COPY tuples of `plan.stage_columns`. `number`: its lines lie from number * PLACES on."""

    load: Load
    read: ReadCounts
    number: int
    rows: int
    tuples: bytes


@translating
async def merge_group(
    connection: Connection, dataset: Dataset, stage: GroupStage, members: Sequence[Member], limits: MergeLimits
) -> list[Load]:
    """Merges loads of different objects into a MERGE dataset; all SUCCEEDED and committed, with versions that follow
    each other in the order of `members`. `stage` is the dataset's.

    When this raises, nothing was changed and each load is as it was, but for Unavailable with COMMIT_UNKNOWN, as of
    `merge`. Raises NotGrouped where a load has nothing to apply, or where something is unavailable while the dataset's
    lock is held, which may be one load's own doing; and what `merge` raises.
    """
    copy = functools.partial(_copy, connection, dataset, stage, members)
    memory_mib = limits.work_memory_mib
    async with datasets.locked(connection, dataset, limits.lock, work_memory_mib=memory_mib, before=copy) as held:
        try:
            with translated():
                return await _apply(connection, dataset, stage, held, members)
        except Unavailable as exc:
            raise NotGrouped(exc.message) from exc


async def _apply(
    connection: Connection, dataset: Dataset, stage: GroupStage, held: LockedDataset, members: Sequence[Member]
) -> list[Load]:
    ids = await objects.apply_group(connection, [one.load for one in members], dataset, held.version + 1)
    if ids is None:
        raise NotGrouped("one of the loads is older than what is applied, or is applied already")
    results = await _write(connection, stage, held, members, ids)
    inserted = sum(result.rows_inserted for result in results)
    await datasets.bump(connection, held, row_delta=inserted, versions=len(members))
    await keep_statistics(connection, dataset, held, inserted=inserted)
    ends = [(one.load.id, result, one.read) for one, result in zip(members, results, strict=True)]
    return await loads.finish_group(connection, ends)


async def _copy(connection: Connection, dataset: Dataset, stage: GroupStage, members: Sequence[Member]) -> None:
    await connection.execute(stage.create)
    await copy_rows(connection, dataset, _stream(members), table=stage.name)


async def _stream(members: Sequence[Member]) -> AsyncIterator[bytes]:
    yield b"".join((header(), *(one.tuples for one in members), TRAILER))


async def _write(
    connection: Connection, stage: GroupStage, held: LockedDataset, members: Sequence[Member], ids: Sequence[int]
) -> list[MergeResult]:
    """One statement a load, each of which sees what those before it wrote, sent together."""
    versions = range(held.version + 1, held.version + 1 + len(members))
    values = [
        (object_id, version, one.number * PLACES, (one.number + 1) * PLACES)
        for one, object_id, version in zip(members, ids, versions, strict=True)
    ]
    rows = await connection.fetchmany(stage.write_changes, values)
    overwritten = [(object_id, row["overwritten"], row["losers"]) for object_id, row in zip(ids, rows, strict=True)]
    await objects.note_overwritten(connection, overwritten)
    return [
        MergeResult(
            state=LoadState.SUCCEEDED,
            dataset_version=version,
            rows_inserted=row["inserted"],
            rows_updated=row["updated"],
            rows_unchanged=one.rows - row["inserted"] - row["updated"],
        )
        for one, version, row in zip(members, versions, rows, strict=True)
    ]
