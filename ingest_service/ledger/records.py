"""What the ledger remembers, as plain values. Pure: no driver, no clock.

The values of the enums are the proto enum names without their prefix, and the text stored in Postgres.
"""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass
from uuid import UUID


class LoadState(enum.StrEnum):
    """The states of a load. All but RUNNING are final."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    ALREADY_APPLIED = "ALREADY_APPLIED"
    SUPERSEDED = "SUPERSEDED"
    SKIPPED = "SKIPPED"
    VALIDATED = "VALIDATED"
    ABANDONED = "ABANDONED"
    CANCELLED = "CANCELLED"


class LoadPhase(enum.StrEnum):
    """What a load is doing."""

    QUEUED = "QUEUED"
    STAGING = "STAGING"
    MERGING = "MERGING"
    DONE = "DONE"


class LoadTrigger(enum.StrEnum):
    """What started a load."""

    EVENT = "EVENT"
    POPULATE = "POPULATE"
    UNLOAD = "UNLOAD"
    RETRY = "RETRY"
    RECONCILE = "RECONCILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSet:
    """The objects that a marker stands for: how many, their bytes, and a digest of which versions they are."""

    count: int
    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectVersion:
    """One version of one S3 object. `sequencer` is set only when an S3 event named it; `etag` has no quotes. `parts`:
    the object is a marker, and these are loaded."""

    bucket: str
    key: str
    version_id: str | None = None
    etag: str | None = None
    last_modified: dt.datetime | None = None
    size_bytes: int = 0
    sequencer: str | None = None
    parts: PartSet | None = None

    @property
    def uri(self) -> str:
        """s3://bucket/key, the key as it is."""
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadStart:
    """A load that is about to run. `id` is the caller's (a random UUID), `owner` names the process incarnation,
    `fingerprint` is the contract's, `rejects_of` the load whose rejects alone are to be loaded."""

    id: UUID
    dataset: str
    object: ObjectVersion
    trigger: LoadTrigger
    owner: str
    request_id: UUID | None = None
    force: bool = False
    validate_only: bool = False
    trace_id: str = ""
    fingerprint: str | None = None
    rejects_of: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Rows of other objects that an unloaded object had replaced, which nobody can bring back but a load of those
    objects: at most so many `rows`, and the objects' `uris`, the first ones where there are very many."""

    rows: int = 0
    uris: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCounts:
    """What reading an object gave, written to the ledger with every final state.

    `keys_unreadable`: rejected rows whose key is not known, because it is bad too or because there were too many.
    """

    bytes_read: int = 0
    rows_read: int = 0
    rows_rejected: int = 0
    rows_duplicate: int = 0
    keys_unreadable: int = 0
    unknown_columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One attempt to load (or unload) one version of one object, as the ledger has it.

    `reason` (UPPER_SNAKE_CASE) is empty for RUNNING and SUCCEEDED; the `message` of a SUCCEEDED load says what it left
    undone. `lost`: of an unload. `rejects_of`: only the rows that this other load of the same version left out.
    """

    id: UUID
    dataset: str
    object: ObjectVersion
    trigger: LoadTrigger
    state: LoadState
    phase: LoadPhase
    reason: str
    message: str
    request_id: UUID | None
    force: bool
    validate_only: bool
    dataset_version: int
    rows_inserted: int
    rows_updated: int
    rows_unchanged: int
    rows_deleted: int
    lost: Lost
    read: ReadCounts
    owner: str
    trace_id: str
    created_at: dt.datetime
    heartbeat_at: dt.datetime | None
    ended_at: dt.datetime | None
    fingerprint: str | None = None
    rejects_of: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult:
    """How a merge or unload ended: SUCCEEDED, ALREADY_APPLIED or SUPERSEDED.

    `dataset_version` is the version committed, or the current one where nothing was changed. The counts add up:
    inserted + updated + unchanged = the rows staged after duplicates were dropped.
    """

    state: LoadState
    dataset_version: int
    reason: str = ""
    message: str = ""
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_unchanged: int = 0
    rows_deleted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReject:
    """One rejected row of one load; `ordinal` counts from 0 in file order. `part`: as of Reject."""

    ordinal: int
    line: int
    field: str
    rule: str
    message: str
    raw: bytes
    part: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """The rejected rows of a load, told by their places in its object; those that are kept."""

    load: Load
    places: tuple[int, ...]
