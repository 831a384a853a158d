"""A ledger row that has only started: what the unit tests of the ledger's rules vary."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from ingest_service.ledger.records import Load, LoadPhase, LoadState, LoadTrigger, Lost, ObjectVersion, ReadCounts

NOON = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)


def load_of(object_version: ObjectVersion, **changes: Any) -> Load:
    """A running load of an event, but for `changes`."""
    values: dict[str, Any] = {
        "id": uuid.UUID(int=1),
        "dataset": "d",
        "object": object_version,
        "trigger": LoadTrigger.EVENT,
        "state": LoadState.RUNNING,
        "phase": LoadPhase.STAGING,
        "reason": "",
        "message": "",
        "request_id": None,
        "force": False,
        "validate_only": False,
        "dataset_version": 0,
        "rows_inserted": 0,
        "rows_updated": 0,
        "rows_unchanged": 0,
        "rows_deleted": 0,
        "lost": Lost(),
        "read": ReadCounts(),
        "owner": "o",
        "trace_id": "",
        "created_at": NOON,
        "heartbeat_at": None,
        "ended_at": None,
    }
    return Load(**(values | changes))
