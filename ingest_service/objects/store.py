"""S3 as the ingest service sees it: look at an object, read one version of it, list a prefix by age."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from ingest_service.objects.body import Body, Whole
from ingest_service.objects.errors import S3_ERRORS, Call, ObjectChanged, ObjectGone, translate
from ingest_service.objects.model import ListedObject, ObjectHead, OpenObject, ReadPolicy, head_of, listed_of
from ingest_service.objects.parts import PartedBody
from ingest_service.objects.ranges import Ranges
from shared.errors import FieldViolation, InvalidRequest


class ObjectStore:
    """Reads from S3 through an open aiobotocore client.

    Every method raises ObjectGone, ObjectChanged, PermissionDenied, NotFound (the bucket), FailedPrecondition or
    Unavailable; `is_transient` tells which of them pass by themselves.
    """

    def __init__(
        self, s3: Any, policy: ReadPolicy | None = None, *, tracer_provider: trace.TracerProvider | None = None
    ) -> None:
        self._s3 = s3
        self._policy = policy or ReadPolicy()
        self._tracer = trace.get_tracer(__name__, tracer_provider=tracer_provider)

    async def head(self, bucket: str, key: str, *, version_id: str | None = None) -> ObjectHead:
        """The facts of the current version, or of the one asked for."""
        call = Call(operation="HeadObject", permission=_get_permission(version_id), bucket=bucket, key=key)
        with self._span(call):
            request = _request(bucket, key, version_id, None)
            return head_of(await self._patiently(lambda: _ask(self._s3.head_object(**request), call)), bucket, key)

    @asynccontextmanager
    async def open_object(
        self, bucket: str, key: str, *, version_id: str | None = None, etag: str | None = None
    ) -> AsyncIterator[OpenObject]:
        """Opens one version of an object for reading: `version_id`, or what has `etag`, or whatever is current.

        Raises ObjectChanged, here or while reading, when the version is no longer to be had.
        """
        call = Call(operation="GetObject", permission=_get_permission(version_id), bucket=bucket, key=key)
        with self._span(call) as span:
            # `null` is the one version id that can be overwritten, so the etag goes along where it is known.
            request = _request(bucket, key, version_id, etag)
            first = await self._patiently(
                lambda: _ask(self._s3.get_object(**request, ChecksumMode="ENABLED"), call),
            )
            head = head_of(first, bucket, key)
            ranges = Ranges(self._range_getter(head, call), call=call, policy=self._policy)
            whole = Whole(first, call=call, size_bytes=head.size_bytes)
            in_parts = self._policy.in_parts(head.size_bytes)
            end_bytes = self._policy.part_bytes if in_parts else None
            reopen = self._reopener(head, call)
            body = Body(first, reopen, call=call, whole=whole, policy=self._policy, end_bytes=end_bytes)
            chunks = PartedBody(body, ranges, whole=whole, policy=self._policy) if in_parts else body

            def open_ranges() -> Ranges:
                chunks.close()
                return ranges

            try:
                yield OpenObject(head=head, chunks=chunks, ranges=open_ranges)
            finally:
                chunks.close()
                bytes_read = body.offset_bytes + ranges.bytes_read
                span.set_attributes({"penstock.bytes_read": bytes_read, "penstock.resumes": body.resumes})

    async def list_pages(self, bucket: str, prefix: str) -> AsyncGenerator[list[ListedObject], None]:
        """The objects under a prefix as S3 lists them: by key, in the order of its UTF-8 bytes, 250 at most at once."""
        call = Call(operation="ListObjectsV2", permission="s3:ListBucket", bucket=bucket)
        # botocore takes 0.1 ms to parse an entry, on the event loop: short pages keep it responsive (1000 took 90 ms).
        request = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": 250}
        count, token = 0, dict[str, str]()
        with self._span(call) as span:
            while True:
                page = await _ask(self._s3.list_objects_v2(**request, **token), call)
                listed = [listed_of(line, bucket) for line in page.get("Contents", ())]
                count += len(listed)
                span.set_attribute("penstock.objects", count)
                if listed:
                    yield listed
                if not page.get("IsTruncated"):
                    break
                token = {"ContinuationToken": page["NextContinuationToken"]}

    async def list_prefix(self, bucket: str, prefix: str) -> AsyncIterator[ListedObject]:
        """All objects under a prefix, oldest first by (last_modified, key). Raises InvalidRequest when too many."""
        found: list[ListedObject] = []
        async with aclosing(self.list_pages(bucket, prefix)) as pages:
            async for page in pages:
                found += page
                self._bound(len(found), prefix)
        found.sort(key=lambda listed: (listed.last_modified, listed.key))
        for listed in found:
            yield listed

    def _bound(self, count: int, prefix: str) -> None:
        if count > self._policy.max_listed:
            problem = f"more than {self._policy.max_listed} objects under {prefix!r}: name longer prefixes, one by one"
            raise InvalidRequest([FieldViolation(field="prefix", description=problem)], reason="PREFIX_TOO_LARGE")

    async def _patiently(self, look: Callable[[], Awaitable[Any]]) -> Any:
        """Looks again for a missing object: behind some S3 implementations and caches the event outruns the object."""
        for pause_s in self._policy.missing_retries_s:
            try:
                return await look()
            except ObjectGone:
                await asyncio.sleep(pause_s)
        return await look()

    def _reopener(self, head: ObjectHead, call: Call) -> Callable[[int], Awaitable[Any]]:
        async def reopen(offset_bytes: int) -> Any:
            return await self._same_version(head, call, f"bytes={offset_bytes}-")

        return reopen

    def _range_getter(self, head: ObjectHead, call: Call) -> Callable[[int, int], Awaitable[Any]]:
        pinned = head

        async def get(begin: int, end: int) -> Any:
            nonlocal pinned
            byte_range = f"bytes={begin}-{end - 1}"
            asked = pinned  # the others of those that are asked for at once may change it meanwhile
            part = await self._same_version(asked, call, byte_range)
            if asked.version_id is None or part.get("ContentRange"):
                return part
            # Of a version that is named ministack (1.5.33) gives all bytes, whatever the range. The etag pins it too.
            part["Body"].close()
            pinned = replace(head, version_id=None)
            return await self._same_version(pinned, call, byte_range)

        return get

    async def _same_version(self, head: ObjectHead, call: Call, byte_range: str) -> Any:
        request = _request(head.bucket, head.key, head.version_id, head.etag)
        rest = await _ask(self._s3.get_object(**request, Range=byte_range), call)
        if str(rest["ETag"]).strip('"') != head.etag:
            rest["Body"].close()
            raise ObjectChanged(f"{call.uri} was overwritten while being read", reason="OBJECT_CHANGED")
        return rest

    @contextmanager
    def _span(self, call: Call) -> Iterator[Span]:
        # Not made current: a body may be read to its end, and closed, by another task than the one that opened it.
        span = self._tracer.start_span(
            f"S3.{call.operation}",
            kind=SpanKind.CLIENT,
            attributes={
                "rpc.system": "aws-api",
                "rpc.service": "S3",
                "rpc.method": call.operation,
                "aws.s3.bucket": call.bucket,
                "aws.s3.key": call.key,
            },
        )
        try:
            yield span
        except BaseException as exc:
            span.set_attribute("error.type", type(exc).__name__)
            span.set_status(Status(StatusCode.ERROR, str(exc)))
            raise
        finally:
            span.end()


async def _ask(request: Awaitable[Any], call: Call) -> Any:
    try:
        return await request
    except S3_ERRORS as exc:
        raise translate(exc, call) from exc


def _get_permission(version_id: str | None) -> str:
    return "s3:GetObjectVersion" if version_id else "s3:GetObject"


def _request(bucket: str, key: str, version_id: str | None, etag: str | None) -> dict[str, str]:
    request = {"Bucket": bucket, "Key": key}
    if version_id:
        request["VersionId"] = version_id
    if etag:
        request["IfMatch"] = f'"{etag}"'
    return request
