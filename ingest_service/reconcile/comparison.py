"""What a reconcile makes of one object: in the bucket on one side, in the ledger on the other. Pure.

A listing knows no versions and no sequencers: it tells what to look into, never what is newer.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ingest_service.failures import is_settled
from ingest_service.ledger.decision import AppliedObject, snapshot_rank
from ingest_service.ledger.records import Load, LoadState, ObjectVersion
from ingest_service.objects import ListedObject
from ingest_service.routing import ObjectUri
from ingest_service.sources import Source, Sources, literal_prefix
from shared.contract.model import SnapshotOrder

# An attempt that never opened its object is taken for one at the version that was written this long before it, or
# earlier: the clocks of S3 and of the database differ.
CLOCKS_APART = dt.timedelta(seconds=60)


class GapKind(enum.StrEnum):
    """How bucket and ledger differ. MISSING: never loaded, or removed by what the ledger knows. OUTDATED: another
    version is loaded. GONE: loaded, and not in the bucket any more. FAILED: tried, and not tried again by itself."""

    MISSING = "MISSING"
    OUTDATED = "OUTDATED"
    GONE = "GONE"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """One object of one dataset on which bucket and ledger differ. `listed` is unset where it is gone, `held` where the
    ledger does not know it; `attempt` is the load that FAILED."""

    kind: GapKind
    source: Source
    uri: ObjectUri
    listed: ListedObject | None = None
    held: AppliedObject | None = None
    attempt: Load | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Which objects of a bucket are looked at, by Last-Modified. What is gone has none: it is always looked at."""

    since: dt.datetime | None = None
    before: dt.datetime | None = None

    def holds(self, moment: dt.datetime) -> bool:
        """Whether `since` <= moment < `before`, where they are set."""
        return (self.since is None or moment >= self.since) and (self.before is None or moment < self.before)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Place:
    """A prefix that is listed once for every dataset with a source in it."""

    bucket: str
    prefix: str
    datasets: tuple[str, ...]


def places(sources: Sources, datasets: Collection[str], within: ObjectUri | None = None) -> list[Place]:
    """Where the objects of the datasets lie; `within` a bucket and prefix where it is given. No two overlap."""
    found: dict[tuple[str, str], set[str]] = {}
    for source in sources.sources:
        prefix = _within(source, within)
        if prefix is not None and source.dataset in datasets:
            found.setdefault((source.bucket, prefix), set()).add(source.dataset)
    tops: dict[tuple[str, str], set[str]] = {}
    for (bucket, prefix), names in sorted(found.items()):
        around = (top for top in tops if top[0] == bucket and prefix.startswith(top[1]))
        tops.setdefault(next(around, (bucket, prefix)), set()).update(names)
    return [Place(bucket=b, prefix=p, datasets=tuple(sorted(names))) for (b, p), names in tops.items()]


def _within(source: Source, within: ObjectUri | None) -> str | None:
    """The longer one of two prefixes that lie in each other."""
    prefix = literal_prefix(source)
    if within is None:
        return prefix
    if source.bucket != within.bucket or not (prefix.startswith(within.key) or within.key.startswith(prefix)):
        return None
    return max(prefix, within.key, key=len)


def judge(listed: ListedObject, held: AppliedObject | None, attempt: Load | None, fingerprint: str) -> GapKind | None:
    """What is to be said of an object that lies in the bucket; None: nothing, or it is in work.

    `attempt` is the newest one at this object, `fingerprint` the contract's. A version that was applied under another
    contract is no gap: to load it again behind newer objects would bring old rows back.
    """
    if held is not None and is_listed(held.object, listed) and (held.unloaded or not held.removed):
        return None
    if attempt is not None and attempt.state is LoadState.RUNNING:
        return None
    if attempt is not None and attempt.fingerprint == fingerprint and _gave_up(attempt) and _tried(attempt, listed):
        return GapKind.FAILED
    return GapKind.MISSING if held is None or held.removed else GapKind.OUTDATED


def is_listed(version: ObjectVersion, listed: ListedObject) -> bool:
    """Whether the version is the one that lies in the bucket. Some stores list times that HEAD gives in seconds."""
    return (
        version.last_modified is not None
        and version.etag == listed.etag
        and version.last_modified.replace(microsecond=0) == _second(listed)
    )


def _gave_up(attempt: Load) -> bool:
    return attempt.state in (LoadState.FAILED, LoadState.CANCELLED) and is_settled(attempt)


def _tried(attempt: Load, listed: ListedObject) -> bool:
    """Whether the attempt was one at what is listed. One that S3 refused never learned what it was refused."""
    version = attempt.object
    if version.etag is not None:
        return is_listed(version, listed)
    return version.version_id is None and attempt.created_at >= listed.last_modified + CLOCKS_APART


def newest_snapshot(objects: Iterable[ListedObject], order: SnapshotOrder) -> ListedObject | None:
    """The one that would replace all others."""
    return max(objects, key=lambda listed: _rank(listed, order), default=None)


def replaces(listed: ListedObject, truth: AppliedObject | None, order: SnapshotOrder) -> bool:
    """Whether a snapshot would replace the one that is the dataset's truth, which is ordered by what HEAD gives."""
    whole = dataclasses.replace(listed, last_modified=_second(listed))
    return truth is None or _rank(whole, order) > snapshot_rank(truth.object, order)


def _second(listed: ListedObject) -> dt.datetime:
    return listed.last_modified.replace(microsecond=0)


def _rank(listed: ListedObject, order: SnapshotOrder) -> tuple[bytes, dt.datetime, bytes, bytes]:
    version = ObjectVersion(bucket=listed.bucket, key=listed.key, last_modified=listed.last_modified)
    return snapshot_rank(version, order)


def end_of(prefix: str) -> str | None:
    """The first key, in the order of UTF-8 bytes, behind all that begin with `prefix`; None: there is none."""
    rest = prefix.rstrip("\U0010ffff")
    if not rest:
        return None
    following = ord(rest[-1]) + 1
    return rest[:-1] + chr(0xE000 if following == 0xD800 else following)
