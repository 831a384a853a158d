"""Parts of an object from a real S3 emulator: exact, of one version, over connections that break."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ingest_service.aws import AwsAccess, open_client
from ingest_service.objects import ObjectChanged, ObjectStore
from shared.errors import Unavailable
from tests.integration.consumer.flaky_proxy import FlakyProxy
from tests.integration.consumer.test_object_reads import BODY, MIB, POLICY, through, version


async def test_ranges_are_exact_and_may_be_read_at_once(s3: Any, store: ObjectStore, bucket: str) -> None:
    await s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    wanted = [(0, 1), (0, len(BODY)), (MIB - 1, 2 * MIB), (len(BODY) - 7, 7), *((at, 1000) for at in range(50))]
    async with store.open_object(bucket, "k") as opened:
        ranges = opened.ranges()
        found = await asyncio.gather(*(ranges.read(begin, size) for begin, size in wanted))
    assert found == [BODY[begin : begin + size] for begin, size in wanted]
    assert ranges.bytes_read == sum(size for _, size in wanted)


async def test_ranges_are_read_of_versioned_objects_where_the_server_reads_none_of_a_named_version(
    s3: Any, store: ObjectStore, bucket: str
) -> None:
    """As the emulator does. Then the etag alone holds the version, and an overwritten one is no more to be had."""
    await version(s3, bucket)
    await s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    async with store.open_object(bucket, "k") as opened:
        assert opened.head.version_id is not None
        ranges = opened.ranges()
        found = await asyncio.gather(*(ranges.read(at * MIB, 10) for at in range(5)))
        assert found == [BODY[at * MIB : at * MIB + 10] for at in range(5)]
        await s3.put_object(Bucket=bucket, Key="k", Body=BODY[::-1])
        with pytest.raises(ObjectChanged):
            await ranges.read(0, 10)


async def test_ranges_need_no_more_connections_than_the_policy_allows(access: AwsAccess, s3: Any, bucket: str) -> None:
    await s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    async with (
        asyncio.timeout(30),
        open_client("s3", access, max_connections=1) as single,
        ObjectStore(single, POLICY).open_object(bucket, "k") as opened,
    ):
        ranges = opened.ranges()
        await asyncio.gather(*(ranges.read(at, 9) for at in range(20)))


async def test_cut_range_is_resumed_where_it_broke(access: AwsAccess, proxy: FlakyProxy, s3: Any, bucket: str) -> None:
    await s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    async with (
        open_client("s3", through(access, proxy), max_attempts=1) as client,
        ObjectStore(client, POLICY).open_object(bucket, "k") as opened,
    ):
        ranges = opened.ranges()
        proxy.cut_responses(int(1.5 * MIB), 700_000)
        assert await ranges.read(5, 4 * MIB) == BODY[5 : 5 + 4 * MIB]
    asked = [request.lower() for request in proxy.requests if "range: bytes=" in request.lower()]
    assert len(asked) == 3
    assert all("if-match" in request for request in asked)


async def test_range_cut_again_and_again_is_given_up(
    access: AwsAccess, proxy: FlakyProxy, s3: Any, bucket: str
) -> None:
    await s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    async with (
        open_client("s3", through(access, proxy), max_attempts=1) as client,
        ObjectStore(client, POLICY).open_object(bucket, "k") as opened,
    ):
        ranges = opened.ranges()
        proxy.cut_responses(*[1] * 10)
        with pytest.raises(Unavailable):
            await ranges.read(0, MIB)


async def test_range_of_an_overwritten_object_is_never_of_another_version(
    s3: Any, store: ObjectStore, bucket: str
) -> None:
    await s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    async with store.open_object(bucket, "k") as opened:
        ranges = opened.ranges()
        assert await ranges.read(0, 10) == BODY[:10]
        await s3.put_object(Bucket=bucket, Key="k", Body=BODY[::-1])
        with pytest.raises(ObjectChanged):
            await ranges.read(10, 10)
