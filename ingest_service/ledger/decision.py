"""May this version of an object be applied now? Pure: the stored row comes in, the answer goes out.

It must only be trusted when the stored row was read under the dataset's lock; before that it merely saves a download.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from uuid import UUID

from ingest_service import sequencer
from ingest_service.ledger.records import Load, LoadState, LoadTrigger, ObjectVersion
from shared.contract.model import SnapshotOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedObject:
    """The newest version of an object that was applied, or that is known to be removed.

    `object.sequencer` is that of this very version, None when it was loaded without an event: a sequencer of an older
    version would call a late event newer than what Populate has loaded since. `parts_digest`: of the parts that were
    loaded, where it is a marker. `updated_at` is the database's clock. `unloaded`: it is removed because somebody took
    its rows back, not because it is gone from its bucket. `load_id`: the load that applied it, or took it back.
    """

    id: int
    object: ObjectVersion
    removed: bool
    fingerprint: str | None
    dataset_version: int
    updated_at: dt.datetime
    parts_digest: str | None = None
    unloaded: bool = False
    load_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why nothing is to be done: ALREADY_APPLIED or SUPERSEDED, with a reason."""

    state: LoadState
    reason: str
    message: str


def refusal(load: Load, applied: AppliedObject | None, fingerprint: str, *, still_shown: bool = True) -> Refusal | None:
    """None when the load is to be merged. `fingerprint` is the contract's now. `still_shown`: the applied version is
    what the table shows; a snapshot that another one replaced is not, so that applying it again is no no-op.

    A forced load is only spared the identity check: something older never overwrites something newer.
    """
    if applied is None:
        return None
    newer = 1 if _is_current(load, applied) else _order(load.object, applied.object)
    if applied.removed:
        return _refusal_after_removal(load, applied, newer)
    if newer is not None and newer < 0:
        return _superseded("NEWER_VERSION_APPLIED", "a newer version of the object had been applied already")
    parts_digest = load.object.parts.digest if load.object.parts else None
    if (
        load.force
        or not still_shown
        or not same_version(load.object, applied.object)
        or (parts_digest, fingerprint) != (applied.parts_digest, applied.fingerprint)
    ):
        return None
    message = f"this version of the object was applied as dataset version {applied.dataset_version}"
    return Refusal(state=LoadState.ALREADY_APPLIED, reason="VERSION_ALREADY_APPLIED", message=message)


def rejects_refusal(load: Load, applied: AppliedObject | None) -> Refusal | None:
    """The same of a load of rejects alone: None while the load that left them out is the last one that applied the
    object. A later one has loaded them, or left them out anew; to load them again would undo what came since."""
    if applied is None or applied.removed:
        return _superseded("OBJECT_REMOVED", "the object was removed or unloaded after its rows were left out")
    if not same_version(load.object, applied.object):
        return _superseded(
            "NEWER_VERSION_APPLIED", "another version of the object was applied after its rows were left out"
        )
    if applied.load_id == load.rejects_of:
        return None
    message = (
        f"load {applied.load_id} of dataset version {applied.dataset_version} took what load {load.rejects_of} left "
        "out; for what it left out in turn, name that one"
    )
    return Refusal(state=LoadState.ALREADY_APPLIED, reason="REJECTS_ALREADY_APPLIED", message=message)


def snapshot_refusal(load: Load, truth: AppliedObject | None, order: SnapshotOrder) -> Refusal | None:
    """SUPERSEDED when `truth`, the snapshot that was applied, is newer; forced loads too. None: nothing against it.

    Versions of one object are not for this order to judge: its events order them, and Last-Modified goes back when a
    version is deleted.
    """
    if truth is None or (truth.object.bucket, truth.object.key) == (load.object.bucket, load.object.key):
        return None
    if snapshot_rank(load.object, order) > snapshot_rank(truth.object, order):
        return None
    message = f"{truth.object.uri} is newer by {order.value} and was applied as dataset version {truth.dataset_version}"
    return _superseded("NEWER_SNAPSHOT_APPLIED", f"{message}; to go back to this one, unload that one first")


def snapshot_rank(version: ObjectVersion, order: SnapshotOrder) -> tuple[bytes, dt.datetime, bytes, bytes]:
    """Sorts snapshots, oldest first; no two objects are equal, so that every process chooses the same one."""
    bucket, key = version.bucket.encode(), version.key.encode("utf-8", "surrogatepass")
    modified = version.last_modified or dt.datetime.min.replace(tzinfo=dt.UTC)
    return (key if order is SnapshotOrder.KEY else b"", modified, bucket, key)


def same_version(left: ObjectVersion, right: ObjectVersion) -> bool:
    """The identical version: by versionId, else by etag and Last-Modified. An equal etag alone proves nothing, because
    uploading Monday's file again to undo Tuesday's has Monday's etag."""
    if left.version_id is not None or right.version_id is not None:
        return left.version_id == right.version_id
    return None not in (left.etag, left.last_modified) and (left.etag, left.last_modified) == (
        right.etag,
        right.last_modified,
    )


def removal_is_stale(removed: ObjectVersion, applied: AppliedObject) -> bool:
    """Whether a removal (with the sequencer of its event) is older than what the ledger knows."""
    newer = _order_by_sequencer(removed, applied.object)
    return newer is not None and newer < 0


def _is_current(load: Load, applied: AppliedObject) -> bool:
    """Whether the load surely read the object later than what was applied. A reconcile reads what is current, and S3 is
    consistent: of a version that was deleted the one before it is current again, with its old Last-Modified."""
    if load.trigger is not LoadTrigger.RECONCILE or same_version(load.object, applied.object):
        return False
    return applied.updated_at <= load.created_at


def _order(incoming: ObjectVersion, applied: ObjectVersion) -> int | None:
    """1, 0 or -1 as `incoming` is newer, equal or older; None when nothing orders them. Events order exactly; the
    Last-Modified of one key is second best: one second wide, and it goes back when a version is deleted."""
    by_event = _order_by_sequencer(incoming, applied)
    if by_event is not None:
        return by_event
    if incoming.last_modified is None or applied.last_modified is None:
        return None
    return (incoming.last_modified > applied.last_modified) - (incoming.last_modified < applied.last_modified)


def _order_by_sequencer(incoming: ObjectVersion, applied: ObjectVersion) -> int | None:
    if incoming.sequencer is None or applied.sequencer is None:
        return None
    return sequencer.compare(incoming.sequencer, applied.sequencer)


def _refusal_after_removal(load: Load, applied: AppliedObject, newer: int | None) -> Refusal | None:
    """Only an event after the removal, or a caller who asks after it, brings a removed object back."""
    gone = _superseded("OBJECT_REMOVED", "the object was removed or unloaded after this version")
    if _order_by_sequencer(load.object, applied.object) is not None:
        return None if newer == 1 else gone
    if newer == -1 or applied.updated_at > load.created_at:
        return gone
    late_event = load.trigger is LoadTrigger.EVENT and same_version(load.object, applied.object)
    return gone if late_event else None


def _superseded(reason: str, message: str) -> Refusal:
    return Refusal(state=LoadState.SUPERSEDED, reason=reason, message=message)
