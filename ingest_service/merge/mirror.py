"""What a MIRROR dataset adds to the merge: several objects may claim one key, and the newest one's row is shown.

Holds after every commit, whatever order loads and removals came in:
- each row of the table and of the shadow is of an object that lies in the bucket, as the ledger knows it, and each row
  of such an object is in exactly one of the two;
- a row waits in the shadow only behind one of the same key whose object is newer (Last-Modified, bucket, key).

Only under the dataset's lock, in the transaction that writes the ledger. A bad row counts as the row that its object
held under that key before; where a bad row's key is not known, so does every row that the new version does not show.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ingest_service.ledger import datasets, decision, loads, objects
from ingest_service.ledger.connection import Connection, translating
from ingest_service.ledger.datasets import LockTimes
from ingest_service.ledger.decision import AppliedObject
from ingest_service.ledger.records import Load, LoadPhase, LoadStart, LoadState, Lost, MergeResult, ReadCounts
from ingest_service.merge import plan
from ingest_service.merge.staging import Staged, affected, ready_to_compare
from shared.contract.model import Dataset
from shared.errors import Aborted


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """What became of rows that an object no longer holds: `changed` now show another object's bytes; where `deleted`
    ones had replaced others, those are `lost`."""

    deleted: int = 0
    changed: int = 0
    lost: Lost = Lost()  # noqa: RUF009 - frozen


async def make_room(
    connection: Connection,
    dataset: Dataset,
    staged: Staged,
    *,
    object_id: int,
    version: int,
    keep_all: bool,
    keep_rejected: bool,
) -> tuple[Staged, GivenUp]:
    """Leaves in the stage what the object is to show, and takes away what it no longer holds. `object_id` must have
    its new Last-Modified in the ledger already. `keep_all`: an unknown key was rejected; `keep_rejected`: known ones.
    """
    staged = await ready_to_compare(connection, dataset, staged)
    if keep_all or keep_rejected:
        kept = await connection.execute(plan.keep_rows(dataset, only_rejected=not keep_all), object_id)
        staged = replace(staged, rows=staged.rows + affected(kept))
    for statement in (plan.clear_shadow, plan.yield_rows, plan.displace_rows, plan.own_twins):
        await connection.execute(statement(dataset), object_id)
    changed = await connection.fetchval(plan.promote_rows(dataset, but_staged=True), version, object_id)
    deleted = await connection.fetchval(plan.delete_given_up_rows(dataset), version, object_id)
    return staged, GivenUp(deleted=deleted, changed=changed)


async def withdraw(connection: Connection, dataset: Dataset, *, object_id: int, version: int) -> GivenUp:
    """Takes away every row of an object; the next claimants' rows are shown."""
    await connection.execute(plan.clear_shadow(dataset), object_id)
    changed = await connection.fetchval(plan.promote_rows(dataset, but_staged=False), version, object_id)
    deleted = await connection.fetchval(plan.delete_object_rows(dataset), version, object_id)
    return GivenUp(deleted=deleted, changed=changed)


@translating
async def remove(
    connection: Connection, dataset: Dataset, start: LoadStart, seen: AppliedObject | None, times: LockTimes
) -> MergeResult | None:
    """Withdraws an object that is gone from its bucket, in one transaction with its row in the ledger.

    `seen` is what the ledger knew before S3 was asked. None when there is nothing to withdraw: the removal is then
    only noted, or older than what the ledger knows. Raises Aborted (OBJECT_CHANGED) when the object was loaded since
    it was `seen`: it may be there again.
    """
    gone = start.object
    async with datasets.locked(connection, dataset, times) as held:
        known = await objects.applied_object(connection, dataset.name, gone.bucket, gone.key)
        if known is not None and decision.removal_is_stale(gone, known):
            return None
        if known is not None and (seen is None or known.updated_at != seen.updated_at):
            message = f"{gone.uri} was loaded while its removal was looked into"
            raise Aborted(message, reason="OBJECT_CHANGED", retry_after_s=1.0)
        await objects.note_removal(connection, dataset, gone)
        if known is None or known.removed:
            return None
        load = await loads.start_load(connection, start, LoadPhase.MERGING)
        given_up = await withdraw(connection, dataset, object_id=known.id, version=held.version + 1)
        version = await datasets.bump(connection, held, row_delta=-given_up.deleted)
        return await end_unload(connection, known.id, load, version, given_up)


async def end_unload(
    connection: Connection, object_id: int, load: Load, version: int, given_up: GivenUp
) -> MergeResult:
    """Writes into the ledger that an object's rows were taken back: SUCCEEDED, in the transaction that took them."""
    await objects.mark_unloaded(connection, object_id, load.id, version)
    result = MergeResult(
        state=LoadState.SUCCEEDED,
        dataset_version=version,
        rows_updated=given_up.changed,
        rows_deleted=given_up.deleted,
        message=_not_restored(given_up.lost),
    )
    if given_up.lost.rows:
        await loads.note_lost(connection, load.id, given_up.lost)
    await loads.finish_merged(connection, load.id, result, ReadCounts())
    return result


def _not_restored(lost: Lost) -> str:
    if not lost.rows:
        return ""
    named = ", ".join(lost.uris[:3])
    more = f" and {len(lost.uris) - 3} more objects" if len(lost.uris) > 3 else ""
    return (
        f"up to {lost.rows} of the rows had replaced rows of {named}{more}, which are not restored: "
        "Populate with force loads those again"
    )
