"""The merge: staged rows become rows of the dataset, exactly once, in one transaction with the ledger.

Lock the dataset, ask the ledger again, write what changed, bump the version, end the load, commit: in that order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ingest_service.ledger import datasets, loads, objects
from ingest_service.ledger.connection import Connection, translating
from ingest_service.ledger.datasets import LockedDataset, LockTimes
from ingest_service.ledger.decision import Refusal
from ingest_service.ledger.records import Load, LoadState, MergeResult, ReadCounts
from ingest_service.merge import bulk, plan
from ingest_service.merge.staging import Staged, make_distinct, ready_to_compare
from shared.contract.model import Dataset
from shared.errors import NotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeLimits:
    """Waits and memory of a merge.

    `bulk_rows`: measured, the bulk path pays from about there on. `bulk_lock_timeout_s` is short because readers of
    the table queue behind the waiting lock.
    """

    lock: LockTimes = LockTimes()  # noqa: RUF009 - frozen
    bulk_rows: int = 20_000
    bulk_lock_timeout_s: float = 2.0
    work_memory_mib: int = 128
    maintenance_memory_mib: int = 256


_DEFAULT_LIMITS = MergeLimits()

# Memory for the anti-join and the sort, of this transaction only. JIT costs more than it gives on these plans.
_MEMORY = "SELECT set_config('work_mem', $1, true), set_config('jit', 'off', true)"

_ANALYZE_GROWTH = 1.5


@translating
async def merge(
    connection: Connection,
    dataset: Dataset,
    load: Load,
    staged: Staged,
    read: ReadCounts,
    limits: MergeLimits = _DEFAULT_LIMITS,
) -> MergeResult:
    """Merges the session's stage and ends the load: SUCCEEDED, ALREADY_APPLIED or SUPERSEDED, committed.

    `load` must be RUNNING. When this raises, nothing was changed and the load is still RUNNING, but for one case:
    Unavailable with COMMIT_UNKNOWN. Then `ledger.loads.committed_load` knows.
    Raises FailedPrecondition (CONTRACT_MISMATCH, DATASET_NOT_MIGRATED, POLICY_UNSUPPORTED), Aborted (LOAD_NOT_RUNNING).
    """
    async with datasets.locked(connection, dataset, limits.lock) as held:
        refusal = await objects.refused(connection, load, dataset.fingerprint)
        if refusal is None:
            result, staged = await _write(connection, dataset, load, held, staged, limits)
        else:
            result = _refused(refusal, held)
        await loads.finish_merged(connection, load.id, result, replace(read, rows_duplicate=staged.duplicates))
    return result


@translating
async def unload(
    connection: Connection, dataset: Dataset, load: Load, limits: MergeLimits = _DEFAULT_LIMITS
) -> MergeResult:
    """Deletes the rows that the load's object put there and nobody overwrote, and ends the load: SUCCEEDED, committed.

    The version grows only when rows went. The object may be loaded again by a later event or Populate.
    Raises NotFound (OBJECT_NOT_LOADED) when the ledger does not know the object, and what `merge` raises.
    """
    plan.absent_rows(dataset)
    async with datasets.locked(connection, dataset, limits.lock) as held:
        known = await objects.applied_object(connection, dataset.name, load.object.bucket, load.object.key)
        if known is None:
            raise NotFound(
                f"{load.object.uri} was never loaded into dataset {dataset.name}",
                reason="OBJECT_NOT_LOADED",
                metadata={"uri": load.object.uri, "dataset": dataset.name},
            )
        deleted = await connection.fetchval(plan.delete_object_rows(dataset), known.id, held.version + 1)
        version = await datasets.bump(connection, held, row_delta=-deleted) if deleted else held.version
        await objects.mark_unloaded(connection, known.id, load.id, version)
        result = MergeResult(state=LoadState.SUCCEEDED, dataset_version=version, rows_deleted=deleted)
        await loads.finish_merged(connection, load.id, result, ReadCounts())
    return result


async def _write(
    connection: Connection, dataset: Dataset, load: Load, held: LockedDataset, staged: Staged, limits: MergeLimits
) -> tuple[MergeResult, Staged]:
    await connection.execute(_MEMORY, f"{limits.work_memory_mib}MB")
    version = held.version + 1
    object_id = await objects.apply_object(connection, load, dataset.fingerprint, version)
    inserted, updated, staged = await _write_rows(connection, dataset, held, object_id, staged, limits)
    deleted = await _delete_absent(connection, dataset, object_id, version)
    await datasets.bump(connection, held, row_delta=inserted - deleted)
    if inserted and held.row_count + inserted - deleted >= held.row_count * _ANALYZE_GROWTH:
        await connection.execute(plan.analyze_table(dataset))
    result = MergeResult(
        state=LoadState.SUCCEEDED,
        dataset_version=version,
        rows_inserted=inserted,
        rows_updated=updated,
        rows_unchanged=staged.rows - inserted - updated,
        rows_deleted=deleted,
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
    return row["inserted"], row["updated"], staged


async def _delete_absent(connection: Connection, dataset: Dataset, object_id: int, version: int) -> int:
    statement = plan.absent_rows(dataset)
    return 0 if statement is None else int(await connection.fetchval(statement, object_id, version))


def _refused(refusal: Refusal, held: LockedDataset) -> MergeResult:
    return MergeResult(
        state=refusal.state, dataset_version=held.version, reason=refusal.reason, message=refusal.message
    )
