"""The merge: staged rows become rows of the dataset, exactly once, in one transaction with the ledger.

Lock the dataset, ask the ledger again, write what changed, bump the version, end the load, commit: in that order.

What a SNAPSHOT dataset may rely on, whatever is killed, late or delivered twice:
- its rows are those of one object, `datasets.snapshot_object`, and rows whose key that object held in a bad row;
- no load replaces them by an older object (`snapshot_order`); only Unload of that object opens the way back;
- an object with far fewer good rows than the table holds (`min_rows_percent`) changes nothing;
- a row without a readable key might be any row: its load deletes nothing and says so.

What a MIRROR dataset may rely on stands in mirror.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ingest_service.ledger import datasets, loads, objects
from ingest_service.ledger.connection import Connection, translating
from ingest_service.ledger.datasets import LockedDataset, LockTimes
from ingest_service.ledger.decision import Refusal
from ingest_service.ledger.records import Load, LoadState, MergeResult, ReadCounts
from ingest_service.merge import bounds, bulk, mirror, plan
from ingest_service.merge.staging import Staged, make_distinct, ready_to_compare
from shared.contract.model import Dataset, FilePolicy
from shared.errors import FailedPrecondition, NotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeLimits:
    """Waits and memory of a merge.

    `bulk_rows`: measured, the bulk path pays from about there on. `bulk_lock_timeout_s` is short because readers of
    the table queue behind the waiting lock.
    """

    lock: LockTimes = LockTimes()  # noqa: RUF009 - frozen
    bulk_rows: int = 20_000
    bulk_lock_timeout_s: float = 2.0
    work_memory_mib: int = datasets.WORK_MEMORY_MIB
    maintenance_memory_mib: int = 256


_DEFAULT_LIMITS = MergeLimits()

_ANALYZE_GROWTH = 1.5
# A load that inserts one in so many of the rows then there has moved the bounds between parts of the dataset.
_MANY = 3


@translating
async def merge(
    connection: Connection,
    dataset: Dataset,
    load: Load,
    staged: Staged,
    read: ReadCounts,
    limits: MergeLimits = _DEFAULT_LIMITS,
    *,
    rejected_staged: bool = False,
) -> MergeResult:
    """Merges the session's stage and ends the load: SUCCEEDED, ALREADY_APPLIED or SUPERSEDED, committed.

    `rejected_staged`: `stage_rejected` has staged keys whose rows stay as they are.
    `load` must be RUNNING. When this raises, nothing was changed and the load is still RUNNING, but for one case:
    Unavailable with COMMIT_UNKNOWN. Then `ledger.loads.committed_load` knows.
    Raises FailedPrecondition (CONTRACT_MISMATCH, DATASET_NOT_MIGRATED, SNAPSHOT_TOO_SMALL), Aborted (LOAD_NOT_RUNNING).
    """
    async with datasets.locked(connection, dataset, limits.lock, work_memory_mib=limits.work_memory_mib) as held:
        refusal = await objects.refused(connection, load, dataset)
        if refusal is None:
            staged = await _judged(connection, dataset, held, staged)
            object_id = await objects.apply_object(connection, load, dataset.fingerprint, held.version + 1)
            room = mirror.GivenUp()
            if _mirrored_before(dataset, held):
                staged, room = await _make_room(connection, dataset, held, object_id, staged, read, rejected_staged)
            result, staged = await _write(connection, dataset, held, object_id, staged, limits)
            if _mirrored_before(dataset, held):
                updated = result.rows_updated + room.changed
                result = replace(result, rows_updated=updated, rows_deleted=room.deleted, message=_left_undone(read))
            if dataset.file_policy is FilePolicy.SNAPSHOT:
                result = await _delete_absent(connection, dataset, held, result, read, rejected_staged)
            inserted, deleted = result.rows_inserted, result.rows_deleted
            await datasets.bump(connection, held, row_delta=inserted - deleted)
            await keep_statistics(connection, dataset, held, inserted=inserted, deleted=deleted)
        else:
            result = _refused(refusal, held)
        await loads.finish_merged(connection, load.id, result, replace(read, rows_duplicate=staged.duplicates))
    return result


@translating
async def unload(
    connection: Connection, dataset: Dataset, load: Load, limits: MergeLimits = _DEFAULT_LIMITS
) -> MergeResult:
    """Deletes the rows that the load's object put there and nobody overwrote, and ends the load: SUCCEEDED, committed.
    The load says how many of them had taken the place of other objects' rows, which do not come back.

    Of a MIRROR dataset, as if the object were removed from the bucket: rows of older objects that waited behind its own
    are shown. Of a SNAPSHOT dataset: every row, when the object is the snapshot that is the truth, and none otherwise,
    because a later one replaced its rows. The next snapshot that comes is then taken, an older one too.

    The version grows only when rows went. The object may be loaded again by a later event or Populate.
    Raises NotFound (OBJECT_NOT_LOADED) when the ledger does not know the object, and what `merge` raises.
    """
    async with datasets.locked(connection, dataset, limits.lock, work_memory_mib=limits.work_memory_mib) as held:
        known = await objects.applied_object(connection, dataset.name, load.object.bucket, load.object.key)
        if known is None:
            raise NotFound(
                f"{load.object.uri} was never loaded into dataset {dataset.name}",
                reason="OBJECT_NOT_LOADED",
                metadata={"uri": load.object.uri, "dataset": dataset.name},
            )
        taken = await _take_back(connection, dataset, held, known.id)
        went = taken.deleted or taken.changed
        version = await datasets.bump(connection, held, row_delta=-taken.deleted) if went else held.version
        return await mirror.end_unload(connection, known.id, load, version, taken)


def _mirrored_before(dataset: Dataset, held: LockedDataset) -> bool:
    """Before the first load no object claims a row, so that the bulk path has nothing to look for."""
    return dataset.mirrors and held.version > 0


async def _make_room(
    connection: Connection,
    dataset: Dataset,
    held: LockedDataset,
    object_id: int,
    staged: Staged,
    read: ReadCounts,
    rejected_staged: bool,
) -> tuple[Staged, mirror.GivenUp]:
    return await mirror.make_room(
        connection,
        dataset,
        staged,
        object_id=object_id,
        version=held.version + 1,
        keep_all=read.keys_unreadable > 0,
        keep_rejected=rejected_staged,
    )


async def _write(
    connection: Connection,
    dataset: Dataset,
    held: LockedDataset,
    object_id: int,
    staged: Staged,
    limits: MergeLimits,
) -> tuple[MergeResult, Staged]:
    version = held.version + 1
    inserted, updated, staged = await _write_rows(connection, dataset, held, object_id, staged, limits)
    if dataset.file_policy is FilePolicy.SNAPSHOT:
        await datasets.set_snapshot(connection, held, object_id)
    result = MergeResult(
        state=LoadState.SUCCEEDED,
        dataset_version=version,
        rows_inserted=inserted,
        rows_updated=updated,
        rows_unchanged=staged.rows - inserted - updated,
    )
    return result, staged


async def _write_rows(
    connection: Connection,
    dataset: Dataset,
    held: LockedDataset,
    object_id: int,
    staged: Staged,
    limits: MergeLimits,
) -> tuple[int, int, Staged]:
    """Inserted and updated rows, and the stage as it was in the end."""
    if staged.rows == 0:
        return 0, 0, staged
    while bulk.worth_it(held, staged, limits.bulk_rows):
        try:
            inserted = await bulk.write_all(
                connection,
                dataset,
                staged,
                object_id=object_id,
                version=held.version + 1,
                lock_timeout_s=limits.bulk_lock_timeout_s,
                maintenance_memory_mib=limits.maintenance_memory_mib,
            )
        except bulk.DuplicateKeys:
            staged = await make_distinct(connection, dataset, staged)
            continue
        if inserted is not None:
            return inserted, 0, staged
        break
    staged = await ready_to_compare(connection, dataset, staged)
    row = await connection.fetchrow(plan.write_changes(dataset), object_id, held.version + 1)
    assert row is not None
    if dataset.file_policy is FilePolicy.MERGE:
        await objects.note_overwritten(connection, [(object_id, row["overwritten"], row["losers"])])
    return row["inserted"], row["updated"], staged


async def _judged(connection: Connection, dataset: Dataset, held: LockedDataset, staged: Staged) -> Staged:
    """The stage, if it may be the whole truth. Raises FailedPrecondition when too little of the dataset is left."""
    if dataset.file_policy is not FilePolicy.SNAPSHOT or held.row_count == 0:
        return staged
    staged = await make_distinct(connection, dataset, staged)
    if staged.rows * 100 < dataset.min_rows_percent * held.row_count:
        raise FailedPrecondition(
            f"the snapshot has {staged.rows} good rows and dataset {dataset.name} has {held.row_count}: fewer than "
            f"{dataset.min_rows_percent:g} % are left. Nothing was changed; if the loss is meant, lower "
            "min_rows_percent in the contract and load the object again",
            reason="SNAPSHOT_TOO_SMALL",
            metadata={"dataset": dataset.name, "rows": str(staged.rows), "current_rows": str(held.row_count)},
        )
    return staged


async def _delete_absent(
    connection: Connection,
    dataset: Dataset,
    held: LockedDataset,
    result: MergeResult,
    read: ReadCounts,
    rejected_staged: bool,
) -> MergeResult:
    """The result, with what the snapshot no longer holds deleted."""
    if held.version == 0:
        return result  # no load put a row there before this one
    if read.keys_unreadable:
        return replace(result, message=_left_undone(read))
    statement = plan.delete_absent_rows(dataset, but_rejected=rejected_staged)
    return replace(result, rows_deleted=await connection.fetchval(statement, held.version + 1))


def _left_undone(read: ReadCounts) -> str:
    if not read.keys_unreadable:
        return ""
    rows = f"{read.keys_unreadable} rejected row" + ("s" if read.keys_unreadable > 1 else "")
    return f"nothing was deleted: the key of {rows} is not known, so that absent rows cannot be told"


async def keep_statistics(
    connection: Connection, dataset: Dataset, held: LockedDataset, *, inserted: int, deleted: int = 0
) -> None:
    """What planner and readers know of the whole dataset, where it has changed much. Under the dataset's lock."""
    rows = held.row_count + inserted - deleted
    if inserted and rows >= held.row_count * _ANALYZE_GROWTH:
        await connection.execute(plan.analyze_table(dataset))
    much = inserted * _MANY >= rows > 0
    if much or not held.has_key_bounds:
        await bounds.renew_key_bounds(connection, dataset, rows=rows, changed=much)


async def _take_back(connection: Connection, dataset: Dataset, held: LockedDataset, object_id: int) -> mirror.GivenUp:
    """Deletes the rows that are the object's."""
    version = held.version + 1
    if dataset.mirrors:
        return await mirror.withdraw(connection, dataset, object_id=object_id, version=version)
    if dataset.file_policy is FilePolicy.MERGE:
        deleted = await connection.fetchval(plan.delete_object_rows(dataset), version, object_id)
        return mirror.GivenUp(deleted=deleted, lost=await objects.forget_overwritten(connection, object_id, deleted))
    if held.snapshot_object != object_id:
        return mirror.GivenUp()
    await datasets.set_snapshot(connection, held, None)
    return mirror.GivenUp(deleted=await connection.fetchval(plan.delete_all_rows(dataset), version))


def _refused(refusal: Refusal, held: LockedDataset) -> MergeResult:
    return MergeResult(
        state=refusal.state, dataset_version=held.version, reason=refusal.reason, message=refusal.message
    )
