"""The start-up self-check: looks at queue, dead-letter queue, notifications and permissions, and says what to change.

It changes and receives nothing, and what it cannot look at never keeps the service from starting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

from ingest_service.consumer import Queue
from ingest_service.findings import (
    Finding,
    Weight,
    coverage_findings,
    dead_letter_arn,
    dead_letter_findings,
    error,
    queue_findings,
    unknown,
    warning,
)
from ingest_service.objects import ObjectGone
from ingest_service.objects.errors import S3_ERRORS, Call, ObjectChanged, translate
from ingest_service.sources import Source, Sources, literal_prefix
from shared.errors import NotFound, PenstockError, PermissionDenied

TIMEOUT_S = 10.0
_AT_ONCE = 8
# A name that nobody gives an object: whether S3 says 404 or 403 of it tells whether it may be read.
_PROBE = ".penstock-self-check"


class SelfCheck:
    """One look at everything outside of the database."""

    def __init__(self, *, s3: Any, queue: Queue, sources: Sources, visibility_timeout_s: int) -> None:
        self._s3 = s3
        self._queue = queue
        self._sources = sources
        self._visibility_timeout_s = visibility_timeout_s
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def run(self, timeout_s: float = TIMEOUT_S) -> list[Finding]:
        """What was found, errors first. After `timeout_s` what was found until then, and that there may be more."""
        found: list[Finding] = []
        try:
            async with asyncio.timeout(timeout_s):
                await self._look(found)
        except TimeoutError:
            found.append(unknown(f"queue and buckets were not checked to the end within {timeout_s:g} s"))
        weights = list(Weight)
        return sorted(set(found), key=lambda finding: (weights.index(finding.weight), finding.line))

    async def _look(self, found: list[Finding]) -> None:
        attributes = await self._queue_attributes(found)
        if attributes:
            found += queue_findings(self._queue.name, attributes, self._visibility_timeout_s)
            found += await self._dead_letters(attributes)
        async with asyncio.TaskGroup() as tasks:
            for bucket in sorted(self._sources.buckets):
                tasks.create_task(self._bucket(bucket, attributes.get("QueueArn"), found))

    async def _queue_attributes(self, found: list[Finding]) -> Mapping[str, str]:
        try:
            return await self._queue.attributes()
        except NotFound as exc:
            found.append(error(f"{exc.message}: create it, or correct PENSTOCK_QUEUE_URL"))
        except PenstockError as exc:
            found.append(unknown(f"the settings of queue {self._queue.name} could not be checked: {exc.message}"))
        return {}

    async def _dead_letters(self, attributes: Mapping[str, str]) -> list[Finding]:
        arn = dead_letter_arn(attributes)
        if arn is None:
            return []
        try:
            dead = await self._queue.attributes_of(arn)
        except NotFound:
            return [warning(f"the dead-letter queue of {self._queue.name} does not exist: create {arn}")]
        except PenstockError as exc:
            return [unknown(f"the dead-letter queue of {self._queue.name} could not be checked: {exc.message}")]
        return dead_letter_findings(self._queue.name, attributes, dead)

    async def _bucket(self, bucket: str, queue_arn: str | None, found: list[Finding]) -> None:
        sources = [source for source in self._sources.sources if source.bucket == bucket]
        prefixes = {literal_prefix(source) for source in sources} or {""}
        for read in await asyncio.gather(*(self._reads(bucket, prefix) for prefix in sorted(prefixes))):
            found += read
        if queue_arn and sources:
            found += await self._notifications(bucket, sources, queue_arn)

    async def _reads(self, bucket: str, prefix: str) -> list[Finding]:
        """Whether the objects under a prefix may be listed and read."""
        listing = Call(operation="ListObjectsV2", permission="s3:ListBucket", bucket=bucket)
        try:
            page = await self._ask(self._s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1), listing)
        except NotFound as exc:
            return [error(f"{exc.message}: create it, or correct PENSTOCK_BUCKET or the sources file")]
        except PermissionDenied as exc:
            lost = "missing objects look forbidden and a prefix cannot be loaded"
            return [warning(f"{exc.message}: without it {lost}, and whether objects may be read is not checked")]
        except PenstockError as exc:
            return [unknown(f"bucket {bucket} could not be checked: {exc.message}")]
        denied = await self._denied(bucket, f"{prefix}{_PROBE}")
        if denied or not page.get("Contents"):
            return denied
        # What this one says may be its own: a key of KMS, another account's object. It keeps nothing from starting.
        one = await self._denied(bucket, str(page["Contents"][0]["Key"]))
        return [warning(found.line) if found.weight is Weight.ERROR else found for found in one]

    async def _denied(self, bucket: str, key: str) -> list[Finding]:
        """What keeps a key from being read; that it is not there does not."""
        reading = Call(operation="GetObject", permission="s3:GetObject", bucket=bucket, key=key)
        try:
            answer = await self._ask(self._s3.get_object(Bucket=bucket, Key=key, Range="bytes=0-0"), reading)
            answer["Body"].close()
        except PermissionDenied as exc:
            return [error(exc.message)]
        except (ObjectGone, ObjectChanged):  # it may be read; the range of an empty object ends as ObjectChanged
            return []
        except PenstockError as exc:
            return [unknown(f"whether {reading.uri} may be read could not be checked: {exc.message}")]
        return []

    async def _notifications(self, bucket: str, sources: list[Source], queue_arn: str) -> list[Finding]:
        call = Call(operation="GetBucketNotification", permission="s3:GetBucketNotification", bucket=bucket)
        try:
            answer = await self._ask(self._s3.get_bucket_notification_configuration(Bucket=bucket), call)
        except NotFound:
            return []  # told by the look at its objects
        except PenstockError as exc:
            return [unknown(f"the notifications of bucket {bucket} could not be checked: {exc.message}")]
        return coverage_findings(bucket, sources, answer, queue_arn)

    async def _ask(self, request: Awaitable[Any], call: Call) -> Any:
        async with self._slots:
            try:
                return await request
            except S3_ERRORS as exc:
                raise translate(exc, call) from exc
