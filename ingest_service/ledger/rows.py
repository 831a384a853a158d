"""Rows of penstock.loads and penstock.rejects as records. Pure apart from the driver's row type."""

from __future__ import annotations

import asyncpg

from ingest_service.ledger.records import (
    Load,
    LoadPhase,
    LoadState,
    LoadTrigger,
    Lost,
    ObjectVersion,
    PartSet,
    ReadCounts,
    StoredReject,
)

LOAD_COLUMNS = """
id, dataset, bucket, key, version_id, etag, last_modified, size_bytes, sequencer, trigger, state, phase, reason,
message, request_id, force, validate_only, dataset_version, rows_read, rows_inserted, rows_updated, rows_unchanged,
rows_deleted, rows_rejected, rows_duplicate, bytes_read, unknown_columns, keys_unreadable, owner, heartbeat_at,
trace_id, created_at, ended_at, parts_count, parts_bytes, parts_digest, fingerprint, rows_lost, lost_uris, rejects_of
""".strip()


def load_of(row: asyncpg.Record) -> Load:
    """A row with LOAD_COLUMNS as a Load."""
    return Load(
        id=row["id"],
        dataset=row["dataset"],
        object=_object_of(row),
        trigger=LoadTrigger(row["trigger"]),
        state=LoadState(row["state"]),
        phase=LoadPhase(row["phase"]),
        reason=row["reason"] or "",
        message=row["message"] or "",
        request_id=row["request_id"],
        force=row["force"],
        validate_only=row["validate_only"],
        dataset_version=row["dataset_version"],
        rows_inserted=row["rows_inserted"],
        rows_updated=row["rows_updated"],
        rows_unchanged=row["rows_unchanged"],
        rows_deleted=row["rows_deleted"],
        lost=Lost(rows=row["rows_lost"], uris=tuple(row["lost_uris"])),
        read=_counts_of(row),
        owner=row["owner"] or "",
        trace_id=row["trace_id"] or "",
        created_at=row["created_at"],
        heartbeat_at=row["heartbeat_at"],
        ended_at=row["ended_at"],
        fingerprint=row["fingerprint"],
        rejects_of=row["rejects_of"],
    )


def reject_of(row: asyncpg.Record) -> StoredReject:
    """A row of penstock.rejects as a StoredReject."""
    return StoredReject(
        ordinal=row["ordinal"],
        line=row["line"],
        field=row["field"],
        rule=row["rule"],
        message=row["message"],
        raw=row["raw"],
        part=row["part"],
    )


def _object_of(row: asyncpg.Record) -> ObjectVersion:
    return ObjectVersion(
        bucket=row["bucket"],
        key=row["key"],
        version_id=row["version_id"],
        etag=row["etag"],
        last_modified=row["last_modified"],
        size_bytes=row["size_bytes"] or 0,
        sequencer=row["sequencer"],
        parts=_parts_of(row) if row["parts_digest"] else None,
    )


def _parts_of(row: asyncpg.Record) -> PartSet:
    return PartSet(count=row["parts_count"], size_bytes=row["parts_bytes"], digest=row["parts_digest"])


def _counts_of(row: asyncpg.Record) -> ReadCounts:
    return ReadCounts(
        bytes_read=row["bytes_read"],
        rows_read=row["rows_read"],
        rows_rejected=row["rows_rejected"],
        rows_duplicate=row["rows_duplicate"],
        keys_unreadable=row["keys_unreadable"],
        unknown_columns=tuple(row["unknown_columns"]),
    )
