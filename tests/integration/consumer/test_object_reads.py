"""Reading from a real S3 emulator, over connections that break."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from typing import Any

import pytest

from ingest_service.aws import AwsAccess, open_client
from ingest_service.backoff import Backoff
from ingest_service.objects import ObjectChanged, ObjectGone, ObjectStore, OpenObject, ReadPolicy, is_transient
from shared.errors import ConfigError, InvalidRequest, NotFound, PermissionDenied, Unavailable
from tests.integration.consumer.flaky_proxy import INTERNAL_ERROR, SLOW_DOWN, Answer, FlakyProxy, Refusal

FAST = Backoff(base_s=0.01, cap_s=0.05)
POLICY = ReadPolicy(missing_retries_s=(0.01,), resume_backoff=FAST, resume_attempts=3)
MIB = 1024 * 1024
BODY = random.Random(7).randbytes(5 * MIB + 123)


async def read(opened: OpenObject) -> bytes:
    return b"".join([chunk async for chunk in opened.chunks])


def through(access: AwsAccess, proxy: FlakyProxy) -> AwsAccess:
    return dataclasses.replace(access, endpoint_url=proxy.endpoint_url)


async def version(s3: Any, bucket: str) -> None:
    await s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})


async def test_head_and_get_tell_the_same_facts(s3: Any, store: ObjectStore, bucket: str) -> None:
    put = await s3.put_object(Bucket=bucket, Key="d/a b+c.csv", Body=b"abc", ContentEncoding="gzip")
    head = await store.head(bucket, "d/a b+c.csv")
    assert (head.etag, head.size_bytes, head.version_id) == (put["ETag"].strip('"'), 3, None)
    assert head.content_encoding == "gzip"
    assert head.last_modified.utcoffset() is not None
    async with store.open_object(bucket, "d/a b+c.csv", etag=head.etag) as opened:
        assert opened.head == head
        assert await read(opened) == b"abc"


async def test_body_comes_in_chunks_of_the_wanted_size(s3: Any, store: ObjectStore, bucket: str) -> None:
    await s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    async with store.open_object(bucket, "k") as opened:
        sizes = [len(chunk) async for chunk in opened.chunks]
    assert sizes == [MIB] * 5 + [123]


async def test_empty_object_has_no_chunks(s3: Any, store: ObjectStore, bucket: str) -> None:
    await s3.put_object(Bucket=bucket, Key="k", Body=b"")
    async with store.open_object(bucket, "k") as opened:
        assert await read(opened) == b""


async def test_leaving_early_frees_the_connection(access: AwsAccess, s3: Any, bucket: str) -> None:
    await s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    async with open_client("s3", access, max_connections=1) as single:
        store = ObjectStore(single, POLICY)
        for _ in range(3):
            async with asyncio.timeout(30), store.open_object(bucket, "k") as opened:
                assert await anext(opened.chunks)


@pytest.mark.parametrize("versioned", [False, True])
async def test_cut_body_is_resumed_by_a_pinned_range(
    access: AwsAccess, proxy: FlakyProxy, s3: Any, bucket: str, versioned: bool
) -> None:
    if versioned:
        await version(s3, bucket)
    await s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    async with open_client("s3", through(access, proxy), max_attempts=1) as client:
        proxy.cut_responses(int(1.5 * MIB), 700_000, 200_000)
        async with ObjectStore(client, POLICY).open_object(bucket, "k") as opened:
            assert await read(opened) == BODY
    resumed = [request.lower() for request in proxy.requests if "range: bytes=" in request.lower()]
    assert len(resumed) == 3
    assert all("if-match" in request for request in resumed)
    assert all(("versionid=" in request) == versioned for request in resumed)


async def test_body_cut_again_and_again_without_progress_is_given_up(
    access: AwsAccess, proxy: FlakyProxy, s3: Any, bucket: str
) -> None:
    await s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    async with open_client("s3", through(access, proxy), max_attempts=1) as client:
        proxy.cut_responses(2 * MIB, *[1] * 10)
        with pytest.raises(Unavailable) as caught:
            async with ObjectStore(client, POLICY).open_object(bucket, "k") as opened:
                await read(opened)
    assert is_transient(caught.value)
    # aiohttp itself repeats a GET once when the connection closes before an answer.
    assert len(proxy.requests) <= 1 + 2 * POLICY.resume_attempts


@pytest.mark.parametrize("cuts", [(), (2 * MIB,)])
async def test_corrupted_body_never_ends_well(
    access: AwsAccess, proxy: FlakyProxy, s3: Any, bucket: str, cuts: tuple[int, ...]
) -> None:
    await s3.put_object(Bucket=bucket, Key="k", Body=BODY, ChecksumAlgorithm="CRC32")
    async with open_client("s3", through(access, proxy), max_attempts=1) as client:
        proxy.cut_responses(*cuts)
        proxy.corrupt_response(MIB)
        async with ObjectStore(client, POLICY).open_object(bucket, "k") as opened:
            with pytest.raises(Unavailable) as caught:
                await read(opened)
    assert caught.value.reason == "S3_CHECKSUM_MISMATCH"
    assert len(proxy.requests) == 1 + len(cuts)


async def test_unversioned_object_overwritten_while_read_is_changed_not_mixed(
    access: AwsAccess, proxy: FlakyProxy, s3: Any, bucket: str
) -> None:
    await s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    async with open_client("s3", through(access, proxy), max_attempts=1) as client:
        proxy.cut_responses(2 * MIB)
        async with ObjectStore(client, POLICY).open_object(bucket, "k") as opened:
            await anext(opened.chunks)
            await s3.put_object(Bucket=bucket, Key="k", Body=BODY[::-1])
            with pytest.raises(ObjectChanged):
                await read(opened)


async def test_versioned_object_overwritten_while_read_is_read_to_its_end(
    access: AwsAccess, proxy: FlakyProxy, s3: Any, bucket: str
) -> None:
    await version(s3, bucket)
    await s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    async with open_client("s3", through(access, proxy), max_attempts=1) as client:
        proxy.cut_responses(2 * MIB)
        async with ObjectStore(client, POLICY).open_object(bucket, "k") as opened:
            first = await anext(opened.chunks)
            await s3.put_object(Bucket=bucket, Key="k", Body=b"new")
            assert first + await read(opened) == BODY


async def test_overwritten_between_head_and_get_is_changed(s3: Any, store: ObjectStore, bucket: str) -> None:
    await s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    head = await store.head(bucket, "k")
    await s3.put_object(Bucket=bucket, Key="k", Body=b"new")
    with pytest.raises(ObjectChanged) as caught:
        async with store.open_object(bucket, "k", etag=head.etag):
            pass
    assert not is_transient(caught.value)


async def test_version_id_reads_the_old_version(s3: Any, store: ObjectStore, bucket: str) -> None:
    await version(s3, bucket)
    await s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    head = await store.head(bucket, "k")
    await s3.put_object(Bucket=bucket, Key="k", Body=b"new")
    async with store.open_object(bucket, "k", version_id=head.version_id, etag=head.etag) as opened:
        assert await read(opened) == b"old"
        assert opened.head.version_id == head.version_id


async def test_missing_object_is_gone(store: ObjectStore, bucket: str) -> None:
    with pytest.raises(ObjectGone):
        await store.head(bucket, "nope")
    with pytest.raises(ObjectGone):
        async with store.open_object(bucket, "nope"):
            pass


async def test_missing_version_and_delete_marker_are_gone(s3: Any, store: ObjectStore, bucket: str) -> None:
    await version(s3, bucket)
    await s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    marker = await s3.delete_object(Bucket=bucket, Key="k")
    for version_id in (None, marker["VersionId"], "nosuchversion"):
        with pytest.raises(ObjectGone):
            await store.head(bucket, "k", version_id=version_id)
        with pytest.raises(ObjectGone):
            async with store.open_object(bucket, "k", version_id=version_id):
                pass


async def test_object_that_appears_late_is_found(s3: Any, bucket: str) -> None:
    store = ObjectStore(s3, ReadPolicy(missing_retries_s=(0.01,) * 300))
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(store.head(bucket, "k"))
        await asyncio.sleep(0)
        await s3.put_object(Bucket=bucket, Key="k", Body=b"abc")
    assert looking.result().size_bytes == 3


async def test_missing_bucket_is_not_taken_for_a_missing_object(store: ObjectStore) -> None:
    with pytest.raises(NotFound) as caught:
        async with store.open_object("no-such-bucket-here", "k"):
            pass
    assert caught.value.reason == "BUCKET_NOT_FOUND"


async def test_forbidden_bucket_names_the_missing_permission(access: AwsAccess, s3: Any, bucket: str) -> None:
    await s3.put_object(Bucket=bucket, Key="k", Body=b"abc")
    stranger = dataclasses.replace(access, access_key_id="111111111111")
    async with open_client("s3", stranger) as client:
        store = ObjectStore(client, POLICY)
        with pytest.raises(PermissionDenied, match=r"s3:GetObject on .*s3:ListBucket.* is missing"):
            await store.head(bucket, "k")
        with pytest.raises(PermissionDenied, match="s3:GetObjectVersion"):
            async with store.open_object(bucket, "k", version_id="v1"):
                pass
        with pytest.raises(PermissionDenied, match=f"allow s3:ListBucket on arn:aws:s3:::{bucket}$"):
            await anext(store.list_prefix(bucket, ""))


@pytest.mark.parametrize("answer", [INTERNAL_ERROR, SLOW_DOWN, Answer(status=400, code="RequestTimeout")])
async def test_error_that_passes_is_transient_and_says_what_s3_said(
    access: AwsAccess, proxy: FlakyProxy, s3: Any, bucket: str, answer: Answer
) -> None:
    await s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    proxy.refusals = [Refusal(matching=f"GET /{bucket}/k", answer=answer, left=1)]
    async with open_client("s3", through(access, proxy), max_attempts=1) as client:
        store = ObjectStore(client, POLICY)
        with pytest.raises(Unavailable, match=answer.code) as caught:
            async with store.open_object(bucket, "k"):
                pass
        assert (caught.value.reason, is_transient(caught.value)) == ("S3_UNAVAILABLE", True)
        async with store.open_object(bucket, "k") as opened:
            assert await read(opened) == BODY


@pytest.mark.parametrize("answer", [INTERNAL_ERROR, SLOW_DOWN])
async def test_refused_head_says_nothing_of_the_object(
    access: AwsAccess, proxy: FlakyProxy, bucket: str, answer: Answer
) -> None:
    """Its answer has no body to tell more than the status."""
    proxy.refusals = [Refusal(matching="HEAD /", answer=answer, left=1)]
    async with open_client("s3", through(access, proxy), max_attempts=1) as client:
        store = ObjectStore(client, POLICY)
        with pytest.raises(Unavailable, match=str(answer.status)):
            await store.head(bucket, "k")
        with pytest.raises(ObjectGone):
            await store.head(bucket, "k")


async def test_body_that_stalls_is_resumed_after_the_read_timeout(
    access: AwsAccess, proxy: FlakyProxy, s3: Any, bucket: str
) -> None:
    await s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    only_the_first = "x-amz-checksum-mode"
    async with open_client("s3", through(access, proxy), read_timeout_s=0.5, max_attempts=1) as client:
        with proxy.holding(only_the_first, after_bytes=2 * MIB):
            async with ObjectStore(client, POLICY).open_object(bucket, "k") as opened:
                assert await read(opened) == BODY
    assert len(proxy.requests) == 2


async def test_unreachable_s3_is_transient(access: AwsAccess, proxy: FlakyProxy) -> None:
    await proxy.down()
    async with open_client("s3", through(access, proxy), max_attempts=1) as client:
        with pytest.raises(Unavailable) as caught:
            await ObjectStore(client, POLICY).head("any", "k")
    assert is_transient(caught.value)


async def test_listing_is_oldest_first_then_by_key(s3: Any, store: ObjectStore, bucket: str) -> None:
    for key in ("d/b", "d/a", "d/sub/c+ d", "e/x"):
        await s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    listed = [one async for one in store.list_prefix(bucket, "d/")]
    assert {one.key for one in listed} == {"d/a", "d/b", "d/sub/c+ d"}
    assert listed == sorted(listed, key=lambda one: (one.last_modified, one.key))
    assert listed[0].size_bytes == len(listed[0].key)


async def test_listing_follows_its_pages(s3: Any, store: ObjectStore, bucket: str) -> None:
    await asyncio.gather(*(s3.put_object(Bucket=bucket, Key=f"d/{n:04}", Body=b"") for n in range(253)))
    assert len([one async for one in store.list_prefix(bucket, "d/")]) == 253


async def test_listing_that_would_not_fit_in_memory_is_refused(s3: Any, bucket: str) -> None:
    for key in ("a", "b", "c"):
        await s3.put_object(Bucket=bucket, Key=key, Body=b"")
    with pytest.raises(InvalidRequest, match="more than 2 objects"):
        await anext(ObjectStore(s3, ReadPolicy(max_listed=2)).list_prefix(bucket, ""))


async def test_missing_region_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(ConfigError, match="AWS_DEFAULT_REGION"):
        async with open_client("sqs", AwsAccess()):
            pass
