"""Large bodies, several parts of which are fetched at once: the same bytes in the same order, of one version."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ingest_service.aws import AwsAccess, open_client
from ingest_service.objects import ObjectChanged, ObjectStore, OpenObject
from shared.errors import Unavailable
from tests.integration.consumer.conftest import Until
from tests.integration.consumer.flaky_proxy import SLOW_DOWN, FlakyProxy, Pace, Refusal
from tests.integration.consumer.test_object_reads import POLICY, read, through, version

KIB = 1024
PART = 256 * KIB
PARTED = dataclasses.replace(POLICY, part_bytes=PART, parallel_parts=4, chunk_bytes=100 * KIB)
BODY = random.Random(8).randbytes(10 * PART + 12_345)
Opened = Any


@pytest.fixture
def opened(access: AwsAccess, proxy: FlakyProxy, s3: Any, bucket: str) -> Opened:
    """Opens a new object of that body through the proxy."""

    @asynccontextmanager
    async def opening(body: bytes = BODY, **put: Any) -> AsyncIterator[OpenObject]:
        await s3.put_object(Bucket=bucket, Key="k", Body=body, **put)
        async with (
            open_client("s3", through(access, proxy), max_attempts=1) as client,
            ObjectStore(client, PARTED).open_object(bucket, "k") as found,
        ):
            yield found

    return opening


def asked(proxy: FlakyProxy) -> list[tuple[int, int]]:
    """The ranges that were asked for, each as (begin, end)."""
    found = [re.search(r"range: bytes=(\d+)-(\d+)", head, re.IGNORECASE) for head in proxy.requests]
    return [(int(one[1]), int(one[2]) + 1) for one in found if one]


@pytest.mark.parametrize("versioned", [False, True])
async def test_parts_are_given_in_order_and_each_is_asked_for_once(
    opened: Opened, proxy: FlakyProxy, s3: Any, bucket: str, versioned: bool
) -> None:
    if versioned:
        await version(s3, bucket)
    async with opened() as found:
        chunks = [chunk async for chunk in found.chunks]
    assert b"".join(chunks) == BODY
    assert max(map(len, chunks)) == PARTED.chunk_bytes
    begins = range(PART, len(BODY), PART)
    assert sorted(set(asked(proxy))) == [(begin, min(begin + PART, len(BODY))) for begin in begins]
    assert all("if-match" in head.lower() for head in proxy.requests[1:])


@pytest.mark.parametrize("size_bytes", [0, 1, 4 * PART])
async def test_body_that_is_no_larger_than_its_parts_at_once_is_one_get(
    opened: Opened, proxy: FlakyProxy, size_bytes: int
) -> None:
    async with opened(BODY[:size_bytes]) as found:
        assert await read(found) == BODY[:size_bytes]
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("size_bytes", [4 * PART + 1, 5 * PART, 7 * PART - 1])
async def test_last_part_may_have_any_size(opened: Opened, size_bytes: int) -> None:
    async with opened(BODY[:size_bytes]) as found:
        assert await read(found) == BODY[:size_bytes]


async def test_no_more_parts_are_fetched_ahead_than_may_be_held(
    opened: Opened, proxy: FlakyProxy, until: Until
) -> None:
    """The caller takes its time: what it has not taken counts with what is on its way."""
    async with opened() as found:
        taken = 0
        while taken < 6 * PART:
            taken += len(await anext(found.chunks))
            await until(lambda: len(asked(proxy)) >= 3)
            assert max(end for _, end in asked(proxy)) <= (taken - 1) // PART * PART + 4 * PART


async def test_fault_in_one_part_is_mended_there(opened: Opened, proxy: FlakyProxy) -> None:
    """The third part is refused, cut and slow, and asked for again from where it was cut."""
    third = f"bytes={2 * PART}-"
    proxy.refusals = [Refusal(matching=third, answer=SLOW_DOWN, left=2)]
    proxy.pace = Pace(matching=third, bytes_per_s=4_000_000)
    async with opened() as found:
        first = await anext(found.chunks)
        proxy.cut_responses(70_000, 150_000)
        assert first + await read(found) == BODY
    whole = {(begin, min(begin + PART, len(BODY))) for begin in range(PART, len(BODY), PART)}
    resumed = [one for one in asked(proxy) if one not in whole]
    assert all(end % PART == 0 or end == len(BODY) for _, end in resumed)
    assert asked(proxy).count((2 * PART, 3 * PART)) >= 3


async def test_part_that_cannot_be_had_fails_the_body_after_what_is_before_it(
    opened: Opened, proxy: FlakyProxy
) -> None:
    proxy.refusals = [Refusal(matching=f"bytes={3 * PART}-", answer=SLOW_DOWN)]
    taken = bytearray()

    async def take(found: OpenObject) -> None:
        async for chunk in found.chunks:
            taken.extend(chunk)

    async with opened() as found:
        with pytest.raises(Unavailable, match="SlowDown"):
            await take(found)
    assert taken == BODY[: 3 * PART]


async def test_object_replaced_between_its_parts_is_changed_not_mixed(opened: Opened, s3: Any, bucket: str) -> None:
    async with opened() as found:
        await anext(found.chunks)
        await s3.put_object(Bucket=bucket, Key="k", Body=BODY[::-1])
        with pytest.raises(ObjectChanged):
            await read(found)


@pytest.mark.parametrize("at_byte", [1000, 100_000])
async def test_corrupted_part_never_ends_well(opened: Opened, proxy: FlakyProxy, at_byte: int) -> None:
    async with opened(ChecksumAlgorithm="CRC32") as found:
        for _ in range(4):  # beyond what the first answer gives
            await anext(found.chunks)
        # Only parts: what the first answer, left early, still sends reaches nobody.
        proxy.corrupt_response(at_byte, matching="bytes=")
        with pytest.raises(Unavailable) as caught:
            await read(found)
    assert caught.value.reason == "S3_CHECKSUM_MISMATCH"


async def test_checksum_of_the_whole_holds_over_its_parts(opened: Opened) -> None:
    async with opened(ChecksumAlgorithm="CRC32") as found:
        assert await read(found) == BODY


async def test_leaving_early_lets_go_of_all_parts(opened: Opened, proxy: FlakyProxy) -> None:
    with proxy.holding("bytes=") as hold:
        async with asyncio.timeout(30), opened() as found:
            await anext(found.chunks)
        assert len(hold.held) <= 3
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "part of a body"]
