"""What S3 says about an object, as plain values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ingest_service.backoff import Backoff

if TYPE_CHECKING:  # ranges.py reads by ReadPolicy
    from ingest_service.objects.ranges import Ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectHead:
    """One version of one object. `etag` is without quotes; `version_id` is None on unversioned buckets."""

    bucket: str
    key: str
    version_id: str | None
    etag: str
    last_modified: datetime
    size_bytes: int
    content_encoding: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedObject:
    """One line of a listing, which knows no versions: HEAD the object before loading it."""

    last_modified: datetime
    key: str
    bucket: str
    etag: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenObject:
    """An object being read: `head` is told by the GET itself. Either `chunks` gives the body once, in order, or
    `ranges` opens its parts, which lets the body go."""

    head: ObjectHead
    chunks: AsyncIterator[bytes]
    ranges: Callable[[], Ranges]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPolicy:
    """How patiently objects are read.

    `missing_retries_s`: pauses between looks for an object that is not there. `resume_attempts`: failures in a row,
    without a byte of progress between them, after which a body is given up; `max_resumes`: cuts of one body in all.
    `max_listed`: bounds memory, because listings come by key and are wanted by age. `parallel_ranges`: of one object.
    `parallel_parts` of `part_bytes` each are fetched at once, and held, of a body that is larger than all of them.
    """

    chunk_bytes: int = 1024 * 1024
    missing_retries_s: tuple[float, ...] = (0.2, 0.6)
    resume_attempts: int = 6
    max_resumes: int = 100
    resume_backoff: Backoff = field(default_factory=lambda: Backoff(base_s=0.2, cap_s=10))
    max_listed: int = 250_000
    parallel_ranges: int = 8
    parallel_parts: int = 4
    part_bytes: int = 8 * 1024 * 1024

    def in_parts(self, size_bytes: int) -> bool:
        """Whether a body of that size is fetched in parts."""
        return self.parallel_parts > 1 and size_bytes > self.parallel_parts * self.part_bytes


def head_of(response: Mapping[str, Any], bucket: str, key: str) -> ObjectHead:
    """The facts in a HEAD or whole-object GET response."""
    return ObjectHead(
        bucket=bucket,
        key=key,
        version_id=response.get("VersionId") or None,
        etag=str(response["ETag"]).strip('"'),
        last_modified=response["LastModified"].astimezone(UTC),
        size_bytes=int(response["ContentLength"]),
        content_encoding=_content_encoding(response.get("ContentEncoding")),
    )


def listed_of(line: Mapping[str, Any], bucket: str) -> ListedObject:
    """One entry of a ListObjectsV2 response."""
    return ListedObject(
        bucket=bucket,
        key=line["Key"],
        etag=str(line["ETag"]).strip('"'),
        last_modified=line["LastModified"].astimezone(UTC),
        size_bytes=int(line["Size"]),
    )


def _content_encoding(value: str | None) -> str | None:
    # `aws-chunked` is how the body was uploaded, not how it is stored; S3 and its likes keep it beside the real one.
    names = [name.strip() for name in (value or "").split(",")]
    return ",".join(name for name in names if name and name.lower() != "aws-chunked") or None
