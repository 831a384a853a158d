"""Parquet from a real S3 into a real table: whatever happens to the object, the connection or the load on the way."""

from __future__ import annotations

import asyncio
import io
import random
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ingest_service.aws import AwsAccess, open_client
from ingest_service.ledger import listing
from ingest_service.ledger.records import LoadState
from ingest_service.objects import ReadPolicy
from tests.integration.consumer.conftest import FAST
from tests.integration.consumer.flaky_proxy import FlakyProxy
from tests.integration.consumer.test_object_reads import through
from tests.integration.ingest.rig import GatedStore, Rig, by_key, many, until
from tests.integration.merge.lab import Thing

KEY = "things/a.parquet"


def parquet_of(things: Iterable[Thing], **columns: Any) -> bytes:
    held = list(things)
    table = pa.table(
        {
            "owner": [thing.owner for thing in held],
            "number": pa.array([thing.number for thing in held], pa.int64()),
            "label": pa.array([thing.label for thing in held]).dictionary_encode(),
            "rank": pa.array([thing.rank for thing in held], pa.int32()),
            "tags": [list(thing.tags) for thing in held],
            **columns,
        }
    )
    sink = io.BytesIO()
    parquet.write_table(table, sink, row_group_size=5000)
    return sink.getvalue()


async def put(rig: Rig, data: bytes) -> None:
    await rig.s3.put_object(Bucket=rig.bucket, Key=KEY, Body=data)


async def test_parquet_becomes_rows_and_only_needed_columns_are_fetched(rig: Rig) -> None:
    things = [Thing(owner=f"o{n}", number=n, label="x", rank=n, tags=("a", "b")) for n in range(12_000)]
    noise = pa.array([random.Random(number).randbytes(50).hex() for number in range(12_000)])
    await put(rig, parquet_of(things, noise=noise))
    load = await rig.loader().load(rig.job(key=KEY))
    assert (load.state, load.read.rows_read, load.rows_inserted) == (LoadState.SUCCEEDED, 12_000, 12_000)
    assert load.read.unknown_columns == ("noise",)
    assert load.object.size_bytes is not None
    assert load.read.bytes_read < load.object.size_bytes / 2
    assert await rig.table() == by_key(things)


async def test_bad_value_fails_the_load_and_names_its_row(rig: Rig) -> None:
    await put(rig, parquet_of(many(7000), weight=pa.array(["1.5"] * 6000 + ["heavy"] + ["2"] * 999)))
    load = await rig.loader().load(rig.job(key=KEY))
    assert (load.state, load.reason) == (LoadState.FAILED, "TOO_MANY_REJECTS")
    async with rig.pool.acquire() as connection:
        (reject,) = await listing.list_rejects(connection, load.id, limit=10)
    assert (reject.line, reject.field, reject.rule) == (6001, "weight", "type.double")
    assert reject.raw.startswith(b'{"owner":"owner-0006000"')


async def test_file_that_is_no_parquet_fails_for_good(rig: Rig) -> None:
    await put(rig, parquet_of(many(10))[:-20])
    load = await rig.loader().load(rig.job(key=KEY))
    assert (load.state, load.reason) == (LoadState.FAILED, "CORRUPT_PARQUET")


async def test_object_overwritten_between_its_ranges_is_loaded_anew(rig: Rig) -> None:
    old, new = many(12_000, "old"), many(12_000, "new")
    await put(rig, parquet_of(old))
    seen: list[int] = []
    get = rig.s3.get_object

    async def get_and_overwrite(**request: Any) -> Any:
        seen.append(1)
        if len(seen) == 6:
            await put(rig, parquet_of(new))
        return await get(**request)

    rig.s3.get_object = get_and_overwrite
    try:
        load = await rig.loader().load(rig.job(key=KEY))
    finally:
        rig.s3.get_object = get
    assert load.state is LoadState.SUCCEEDED
    assert await rig.table() == by_key(new)


async def test_broken_connections_are_resumed(rig: Rig, access: AwsAccess, proxy: FlakyProxy) -> None:
    things = many(12_000)
    await put(rig, parquet_of(things))
    async with open_client("s3", through(access, proxy), max_attempts=1) as client:
        store = GatedStore(client, ReadPolicy(missing_retries_s=(0.01,), resume_backoff=FAST))
        get = client.get_object
        armed: list[bool] = []

        async def get_and_cut(**request: Any) -> Any:
            if "Range" in request and not armed:
                armed.append(True)
                proxy.cut_responses(2000, 3000, 1500)
            return await get(**request)

        client.get_object = get_and_cut
        broken = replace(rig, s3=client, store=store)
        load = await broken.loader().load(rig.job(key=KEY))
    assert load.state is LoadState.SUCCEEDED
    assert await rig.table() == by_key(things)


def parquet_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("parquet")]


async def test_load_that_is_stopped_lets_its_thread_end(rig: Rig) -> None:
    """While the thread waits for bytes that never come."""
    await put(rig, parquet_of(many(12_000)))
    waiting = asyncio.Event()
    get = rig.s3.get_object

    async def never(**request: Any) -> Any:
        if "Range" not in request:
            return await get(**request)
        waiting.set()
        return await asyncio.get_running_loop().create_future()

    rig.s3.get_object = never
    try:
        load = asyncio.create_task(rig.loader().load(rig.job(key=KEY)))
        await waiting.wait()
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
    finally:
        rig.s3.get_object = get
    await until(lambda: not parquet_threads())
