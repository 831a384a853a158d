"""What ends a load before its merge, for what its object is or holds. Pure."""

from __future__ import annotations

from ingest_service.ledger.records import LoadState
from ingest_service.pipeline import Reading
from ingest_service.routing import ObjectUri, Role, is_folder_marker
from shared.contract.model import Dataset
from shared.errors import FailedPrecondition


class Finished(Exception):
    """The load has ended, and nothing is wrong."""

    def __init__(self, state: LoadState, reason: str, message: str) -> None:
        super().__init__(message)
        self.state, self.reason, self.message = state, reason, message


def check_role(key: str, role: Role) -> None:
    """Ends the load of what is not to be loaded by itself."""
    if is_folder_marker(key):
        raise Finished(LoadState.SKIPPED, "FOLDER_MARKER", "the object only marks a folder")
    if role is Role.HIDDEN:
        message = "files and folders whose names begin with _ or . are no data; Populate loads one that is named"
        raise Finished(LoadState.SKIPPED, "HIDDEN_OBJECT", message)
    if role is Role.PART:
        message = "the parts of a snapshot are loaded together, when the _SUCCESS of their folder comes"
        raise Finished(LoadState.SKIPPED, "PART_OF_SNAPSHOT", message)


def judge(dataset: Dataset, bucket: str, key: str, reading: Reading, *, validate_only: bool) -> None:
    """Ends the load when too many rows are bad (FailedPrecondition), or when only validation was asked for."""
    allowed = dataset.max_reject_percent
    if reading.exceeds(allowed):
        first = reading.rejects.kept[0]
        uri = ObjectUri(bucket=bucket, key=first.part or key)
        raise FailedPrecondition(_too_many(uri, reading, allowed), reason="TOO_MANY_REJECTS")
    if validate_only:
        message = f"{reading.rows_read} rows read, {reading.rows_rejected} rejected, nothing written"
        raise Finished(LoadState.VALIDATED, "VALIDATE_ONLY", message)


def _too_many(uri: ObjectUri, reading: Reading, allowed: float) -> str:
    first = reading.rejects.kept[0]
    where = f"line {first.line}" + (f", field {first.field}" if first.field else "")
    rows = f"the first {reading.rows_read} rows" if reading.given_up else f"{reading.rows_read} rows"
    return (
        f"{reading.rows_rejected} of {rows} rejected, {allowed:g} % allowed; the first one: "
        f"{uri}, {where}: {first.message} ({first.rule})"
    )
