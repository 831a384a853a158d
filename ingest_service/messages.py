"""Ledger values as protobuf messages. Pure."""

from __future__ import annotations

import base64
import datetime as dt
from typing import Any

import orjson
from google.protobuf.timestamp_pb2 import Timestamp
from penstock.ingest.v1 import ingest_pb2

from ingest_service.ledger.records import Load, StoredReject
from ingest_service.load import Progress
from ingest_service.reconcile.reconciler import Step, Tally


def load_message(load: Load) -> ingest_pb2.Load:
    """The load as the API shows it."""
    message = ingest_pb2.Load(
        id=str(load.id),
        dataset=load.dataset,
        uri=load.object.uri,
        object_version_id=load.object.version_id or "",
        etag=load.object.etag or "",
        size_bytes=load.object.size_bytes,
        trigger=ingest_pb2.LoadTrigger.Value(f"LOAD_TRIGGER_{load.trigger}"),
        state=ingest_pb2.LoadState.Value(f"LOAD_STATE_{load.state}"),
        reason=load.reason,
        message=load.message,
        dataset_version=load.dataset_version,
        rows_read=load.read.rows_read,
        rows_inserted=load.rows_inserted,
        rows_updated=load.rows_updated,
        rows_unchanged=load.rows_unchanged,
        rows_deleted=load.rows_deleted,
        rows_rejected=load.read.rows_rejected,
        rows_duplicate=load.read.rows_duplicate,
        unknown_columns=load.read.unknown_columns,
        request_id=str(load.request_id) if load.request_id else "",
        trace_id=load.trace_id,
        rejects_of=str(load.rejects_of) if load.rejects_of else "",
        create_time=timestamp(load.created_at),
    )
    if load.object.last_modified is not None:
        message.last_modified.CopyFrom(timestamp(load.object.last_modified))
    if load.object.parts is not None:
        message.parts.CopyFrom(
            ingest_pb2.SnapshotParts(count=load.object.parts.count, size_bytes=load.object.parts.size_bytes)
        )
    if load.ended_at is not None:
        message.end_time.CopyFrom(timestamp(load.ended_at))
    return message


def progress_message(progress: Progress) -> ingest_pb2.LoadProgress:
    """Where a running load stands."""
    reading = progress.reading
    return ingest_pb2.LoadProgress(
        load_id=str(progress.load_id or ""),
        uri=progress.uri,
        phase=ingest_pb2.LoadPhase.Value(f"LOAD_PHASE_{progress.phase}"),
        bytes_read=reading.bytes_read,
        bytes_total=progress.bytes_total,
        rows_read=reading.rows_read,
        rows_rejected=reading.rows_rejected,
    )


def event_fields(event: Progress | list[Load]) -> dict[str, Any]:
    """What Populate and RetryLoad say of progress, or of the end: `progress` or `loads`."""
    if isinstance(event, Progress):
        return {"progress": progress_message(event)}
    return {"loads": [load_message(load) for load in event]}


def gap_message(step: Step) -> ingest_pb2.ReconcileGap:
    """A gap that a reconcile found, and what became of it."""
    gap = step.gap
    message = ingest_pb2.ReconcileGap(
        kind=ingest_pb2.GapKind.Value(f"GAP_KIND_{gap.kind}"),
        dataset=gap.source.dataset,
        uri=str(gap.uri),
        size_bytes=gap.listed.size_bytes if gap.listed else 0,
        load=load_message(step.load) if step.load else None,
        problem=step.problem,
    )
    if gap.listed is not None:
        message.last_modified.CopyFrom(timestamp(gap.listed.last_modified))
    return message


def counts_message(tally: Tally) -> ingest_pb2.ReconcileCounts:
    """What a reconcile has come to in one dataset."""
    return ingest_pb2.ReconcileCounts(
        dataset=tally.dataset,
        objects_listed=tally.listed,
        mended=tally.mended,
        left=tally.left,
        **{kind.lower(): count for kind, count in tally.found.items()},
    )


def reject_message(reject: StoredReject) -> ingest_pb2.Reject:
    """One rejected row."""
    return ingest_pb2.Reject(
        line=reject.line,
        field=reject.field,
        rule=reject.rule,
        message=reject.message,
        raw=reject.raw,
        part_key=reject.part,
    )


def reject_line(load: Load, reject: StoredReject) -> bytes:
    """One rejected row as a line of NDJSON."""
    try:
        raw = {"raw": reject.raw.decode()}
    except UnicodeDecodeError:
        raw = {"raw_base64": base64.b64encode(reject.raw).decode()}
    line = {
        "load": str(load.id),
        "dataset": load.dataset,
        "object": f"s3://{load.object.bucket}/{reject.part}" if reject.part else load.object.uri,
        "object_version_id": None if reject.part else load.object.version_id,
        "line": reject.line,
        "field": reject.field,
        "rule": reject.rule,
        "message": reject.message,
    }
    return orjson.dumps(line | raw, option=orjson.OPT_APPEND_NEWLINE)


def timestamp(moment: dt.datetime) -> Timestamp:
    """An aware datetime as a protobuf Timestamp, to the microsecond."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message
