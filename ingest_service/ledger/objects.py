"""penstock.objects: the newest version of each object that was applied, for ever. It holds no history: loads do."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from ingest_service import sequencer
from ingest_service.ledger import decision
from ingest_service.ledger.connection import Connection, translating
from ingest_service.ledger.datasets import LockTimes, locked
from ingest_service.ledger.decision import AppliedObject, Refusal
from ingest_service.ledger.records import Load, LoadState, Lost, ObjectVersion
from shared.contract.model import Dataset, FilePolicy

# Objects named as overwritten by one other: enough to find out what a file was laid over.
MOST_OVERWRITTEN = 100

# The objects of one bucket; a range of keys follows. Index: objects_dataset_bucket_key_key.
_READ_BUCKET = """
SELECT id, bucket, key, version_id, etag, last_modified, size_bytes, sequencer, parts_digest, removed, unloaded,
       fingerprint, load_id, dataset_version, updated_at
FROM penstock.objects
WHERE dataset = $1 AND bucket = $2
""".rstrip()

# The newest applied version of one object. Index: objects_dataset_bucket_key_key.
_READ = f"{_READ_BUCKET} AND key = $3"

# The object that is the whole truth of a SNAPSHOT dataset. Indexes: datasets_pkey, objects_pkey.
_READ_SNAPSHOT = """
SELECT id, bucket, key, version_id, etag, last_modified, size_bytes, sequencer, parts_digest, removed, unloaded,
       objects.fingerprint, load_id, dataset_version, objects.updated_at
FROM penstock.datasets JOIN penstock.objects ON objects.id = datasets.snapshot_object
WHERE datasets.name = $1
"""

# This version is the newest applied one from this commit on. Some rows of it ($13) do not make the others those of
# today's contract. Index: objects_dataset_bucket_key_key.
_APPLY = """
INSERT INTO penstock.objects AS held (dataset, bucket, key, version_id, etag, last_modified, size_bytes, sequencer,
    removed, fingerprint, load_id, dataset_version, parts_digest, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, false, $9, $10, $11, $12, clock_timestamp())
ON CONFLICT (dataset, bucket, key) DO UPDATE SET
    version_id = excluded.version_id, etag = excluded.etag, last_modified = excluded.last_modified,
    size_bytes = excluded.size_bytes, sequencer = excluded.sequencer, removed = false, unloaded = false,
    fingerprint = CASE WHEN $13 THEN held.fingerprint ELSE excluded.fingerprint END, load_id = excluded.load_id,
    dataset_version = excluded.dataset_version, parts_digest = excluded.parts_digest, updated_at = excluded.updated_at
RETURNING id
"""

# A tombstone, so that a late create event of the removed object changes nothing. Index: objects_dataset_bucket_key_key.
_REMOVE = """
INSERT INTO penstock.objects AS held (dataset, bucket, key, version_id, sequencer, removed, updated_at)
VALUES ($1, $2, $3, $4, $5, true, clock_timestamp())
ON CONFLICT (dataset, bucket, key) DO UPDATE SET
    sequencer = coalesce(excluded.sequencer, held.sequencer), removed = true, unloaded = false,
    updated_at = excluded.updated_at
RETURNING id
"""

# The rows of the object were taken back by this load: on purpose, unless it is noted as gone. Index: objects_pkey.
_UNLOADED = """
UPDATE penstock.objects
SET removed = true, unloaded = unloaded OR NOT removed, load_id = $2, dataset_version = $3,
    updated_at = clock_timestamp()
WHERE id = $1
"""

# The object's rows took the place of so many rows of these other objects; the newest of them stay named.
# Index: objects_pkey.
_NOTE_OVERWRITTEN = """
UPDATE penstock.objects
SET overwrote_rows = overwrote_rows + $2,
    overwrote = ARRAY(
        SELECT DISTINCT id FROM unnest(overwrote || $3::bigint[]) AS id ORDER BY id DESC LIMIT $4
    )
WHERE id = $1
"""

# What the object had overwritten, which is over with its rows. Index: objects_pkey.
_FORGET_OVERWRITTEN = """
WITH forgotten AS (
    UPDATE penstock.objects SET overwrote_rows = 0, overwrote = '{}' WHERE id = $1
    RETURNING old.overwrote_rows AS rows, old.overwrote AS ids
)
SELECT rows, ARRAY(
    SELECT 's3://' || bucket || '/' || key FROM penstock.objects WHERE id = ANY (ids) ORDER BY id DESC
) AS uris
FROM forgotten
"""

# A later event named the version that is applied already. updated_at guards against a load that came in between and
# is not touched itself: nothing was applied. Index: objects_pkey.
_RAISE_SEQUENCER = "UPDATE penstock.objects SET sequencer = $2 WHERE id = $1 AND updated_at = $3"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRange:
    """Keys of one bucket; `first` and `last` are in it, `after` and `before` are not. None: no such bound."""

    first: str | None = None
    after: str | None = None
    last: str | None = None
    before: str | None = None


@translating
async def applied_object(connection: Connection, dataset: str, bucket: str, key: str) -> AppliedObject | None:
    """What the ledger knows of an object; None when it was never applied and never removed."""
    row = await connection.fetchrow(_READ, dataset, bucket, key)
    return None if row is None else _applied(row)


@translating
async def clock(connection: Connection) -> dt.datetime:
    """The time by the clock that `updated_at` is of."""
    now: dt.datetime = await connection.fetchval("SELECT clock_timestamp()")
    return now


@translating
async def held_objects(
    connection: Connection, dataset: str, bucket: str, keys: KeyRange, *, limit: int
) -> list[AppliedObject]:
    """At most `limit` objects of a dataset with their keys in the range, by key in the order of its UTF-8 bytes."""
    statement, values = _held_statement(keys)
    return [_applied(row) for row in await connection.fetch(statement, dataset, bucket, limit, *values)]


@translating
async def refused(connection: Connection, load: Load, dataset: Dataset) -> Refusal | None:
    """Why the load must not be merged into `dataset`, or None.

    Under the dataset's lock the answer is final; before it (without a transaction) it saves a download.
    """
    held = await applied_object(connection, load.dataset, load.object.bucket, load.object.key)
    if load.rejects_of is not None:
        return decision.rejects_refusal(load, held)
    shown = True
    if dataset.file_policy is FilePolicy.SNAPSHOT:
        truth = await snapshot_object(connection, load.dataset)
        older = decision.snapshot_refusal(load, truth, dataset.snapshot_order)
        if older is not None:
            return older
        shown = truth is not None and held is not None and truth.id == held.id
    answer = decision.refusal(load, held, dataset.fingerprint, still_shown=shown)
    if answer is not None and answer.state is LoadState.ALREADY_APPLIED and held is not None:
        await _raise_sequencer(connection, held, load.object.sequencer)
    return answer


@translating
async def snapshot_object(connection: Connection, dataset: str) -> AppliedObject | None:
    """The object that is the whole truth of a SNAPSHOT dataset; None when whatever comes next is."""
    row = await connection.fetchrow(_READ_SNAPSHOT, dataset)
    return None if row is None else _applied(row)


@translating
async def apply_object(connection: Connection, load: Load, fingerprint: str, dataset_version: int) -> int:
    """Makes the load's version the newest applied one of its object. Only under the dataset's lock. Returns the id."""
    known = load.object.sequencer or await _known_sequencer(connection, load)
    object_id = await connection.fetchval(_APPLY, *_applying(load, known, fingerprint, dataset_version))
    return int(object_id)


@translating
async def apply_group(
    connection: Connection, loads: Sequence[Load], dataset: Dataset, version: int
) -> list[int] | None:
    """The same for loads of different objects, which commit `version` and those that follow, in two round trips. The
    ids; None where one of the loads is refused, and then nothing is applied."""
    wanted = [(dataset.name, load.object.bucket, load.object.key) for load in loads]
    rows = await connection.fetchmany(_READ, wanted)
    held = {(row["bucket"], row["key"]): _applied(row) for row in rows}
    applying = []
    for at, load in enumerate(loads):
        known = held.get((load.object.bucket, load.object.key))
        if decision.refusal(load, known, dataset.fingerprint) is not None:
            return None
        sequencer_known = load.object.sequencer or _sequencer_of_same(load, known)
        applying.append(_applying(load, sequencer_known, dataset.fingerprint, version + at))
    return [int(row["id"]) for row in await connection.fetchmany(_APPLY, applying)]


@translating
async def remove_object(
    connection: Connection,
    dataset: Dataset,
    removed: ObjectVersion,
    times: LockTimes | None = None,
    *,
    seen: AppliedObject | None = None,
) -> bool:
    """Notes, in a transaction of its own, that the object is gone from its bucket; its rows stay.

    `removed.sequencer` is that of the removal event; where there is none, `seen` is what the ledger knew before S3 was
    asked. False when the ledger knows of something newer.
    """
    async with locked(connection, dataset, times or LockTimes()):
        held = await applied_object(connection, dataset.name, removed.bucket, removed.key)
        if held is not None and (decision.removal_is_stale(removed, held) or _changed_since(seen, held, removed)):
            return False
        await note_removal(connection, dataset, removed)
    return True


@translating
async def note_removal(connection: Connection, dataset: Dataset, removed: ObjectVersion) -> None:
    """The tombstone of `removed`. Only under the dataset's lock."""
    values = (dataset.name, removed.bucket, removed.key, removed.version_id, removed.sequencer)
    await connection.execute(_REMOVE, *values)


@translating
async def mark_unloaded(connection: Connection, object_id: int, load_id: UUID, dataset_version: int) -> None:
    """Notes that the object's rows were taken back. Only under the dataset's lock."""
    await connection.execute(_UNLOADED, object_id, load_id, dataset_version)


@translating
async def note_overwritten(connection: Connection, overwritten: Iterable[tuple[int, int, Sequence[int]]]) -> None:
    """Notes of objects by id that their rows replaced so many of those others. Only under the dataset's lock."""
    noted = [(object_id, rows, others, MOST_OVERWRITTEN) for object_id, rows, others in overwritten if rows]
    if noted:
        await connection.executemany(_NOTE_OVERWRITTEN, noted)


@translating
async def forget_overwritten(connection: Connection, object_id: int, rows_deleted: int) -> Lost:
    """What the object had overwritten, when its rows are taken back. Only under the dataset's lock.

    At most so many rows: of those that it replaced once, others may have replaced some since, and it those again.
    """
    row = await connection.fetchrow(_FORGET_OVERWRITTEN, object_id)
    assert row is not None
    rows = min(row["rows"], rows_deleted)
    return Lost(rows=rows, uris=tuple(row["uris"]) if rows else ())


def _changed_since(seen: AppliedObject | None, held: AppliedObject, removed: ObjectVersion) -> bool:
    return removed.sequencer is None and seen is not None and seen.updated_at != held.updated_at


async def _known_sequencer(connection: Connection, load: Load) -> str | None:
    """That of the version when it was applied before, for a load that no event started."""
    held = await applied_object(connection, load.dataset, load.object.bucket, load.object.key)
    return _sequencer_of_same(load, held)


def _sequencer_of_same(load: Load, held: AppliedObject | None) -> str | None:
    return held.object.sequencer if held is not None and decision.same_version(load.object, held.object) else None


def _applying(load: Load, known_sequencer: str | None, fingerprint: str, dataset_version: int) -> tuple[object, ...]:
    """The values of _APPLY."""
    version = load.object
    return (
        load.dataset,
        version.bucket,
        version.key,
        version.version_id,
        version.etag,
        version.last_modified,
        version.size_bytes,
        known_sequencer,
        fingerprint,
        load.id,
        dataset_version,
        version.parts.digest if version.parts else None,
        load.rejects_of is not None,
    )


async def _raise_sequencer(connection: Connection, held: AppliedObject, newer: str | None) -> None:
    """Keeps the latest event of the applied version, so that events between the two are known as older."""
    known = held.object.sequencer
    if newer is not None and (known is None or sequencer.compare(newer, known) > 0):
        await connection.execute(_RAISE_SEQUENCER, held.id, newer, held.updated_at)


def _held_statement(keys: KeyRange) -> tuple[str, list[str]]:
    """SQL per range shape, values bound: a condition that may be absent would keep the index from bounding the scan."""
    bounds = {"key >= ": keys.first, "key > ": keys.after, "key <= ": keys.last, "key < ": keys.before}
    given = [(condition, key) for condition, key in bounds.items() if key is not None]
    wanted = "".join(f" AND {condition}${number}" for number, (condition, _) in enumerate(given, 4))
    return f"{_READ_BUCKET}{wanted} ORDER BY key LIMIT $3", [key for _, key in given]


def _applied(row: asyncpg.Record) -> AppliedObject:
    version = ObjectVersion(
        bucket=row["bucket"],
        key=row["key"],
        version_id=row["version_id"],
        etag=row["etag"],
        last_modified=row["last_modified"],
        size_bytes=row["size_bytes"] or 0,
        sequencer=row["sequencer"],
    )
    return AppliedObject(
        id=row["id"],
        object=version,
        removed=row["removed"],
        fingerprint=row["fingerprint"],
        dataset_version=row["dataset_version"],
        parts_digest=row["parts_digest"],
        updated_at=row["updated_at"],
        unloaded=row["unloaded"],
        load_id=row["load_id"],
    )
