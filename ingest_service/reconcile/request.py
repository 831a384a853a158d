"""What a Reconcile call asks for, checked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

from google.protobuf.timestamp_pb2 import Timestamp
from penstock.ingest.v1 import ingest_pb2

from ingest_service.reconcile.comparison import Window
from ingest_service.reconcile.reconciler import Scope
from ingest_service.routing import parse_prefix
from ingest_service.sources import Sources
from shared.errors import FieldViolation, InvalidRequest


def check_scope(request: ingest_pb2.ReconcileRequest, known: Collection[str], sources: Sources) -> Scope:
    """The request's meaning. Raises InvalidRequest or PermissionDenied, naming the field."""
    unknown = sorted(set(request.datasets) - set(known))
    if unknown:
        offer = ", ".join(sorted(known)) or "none"
        raise _invalid("datasets", f"there is no dataset {unknown[0]!r}; known datasets: {offer}")
    within = parse_prefix(request.prefix) if request.prefix else None
    if within is not None:
        sources.require_readable(within.bucket)
    window = Window(since=_moment(request, "modified_since"), before=_moment(request, "modified_before"))
    if window.since is not None and window.before is not None and window.since >= window.before:
        raise _invalid("modified_before", "must be later than modified_since")
    datasets = tuple(sorted(set(request.datasets) or known))
    return Scope(datasets=datasets, within=within, window=window, dry_run=request.dry_run)


def _moment(request: ingest_pb2.ReconcileRequest, field: str) -> dt.datetime | None:
    if not request.HasField(field):  # type: ignore[arg-type]
        return None
    moment: Timestamp = getattr(request, field)
    try:
        return moment.ToDatetime(tzinfo=dt.UTC)
    except (ValueError, OverflowError) as exc:
        raise _invalid(field, "is no time of the years 1 to 9999") from exc


def _invalid(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field=field, description=problem)])
