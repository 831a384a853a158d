"""A Populate request is one piece of work, whoever asks for it, whichever process does it, and whenever it stops."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from penstock.ingest.v1 import ingest_pb2

from ingest_service.decode import Dialect
from ingest_service.ledger import populates as ledger
from ingest_service.ledger.datasets import LockTimes
from ingest_service.ledger.records import Load, LoadPhase, LoadState
from ingest_service.load import LoadLimits, Progress
from ingest_service.maintenance import Maintenance
from ingest_service.merge.merge import MergeLimits
from ingest_service.populate import LOADS_PER_MESSAGE, PopulateRequest, Populates, check_request
from ingest_service.sources import Source, Sources
from shared.errors import InvalidRequest, NotFound, PenstockError, Unavailable
from tests.integration.ingest.rig import FAST, Rig, by_key, many, until
from tests.integration.merge.lab import Thing

ONE = Thing(owner="a", number=1, label="one", rank=1)
TWO = Thing(owner="b", number=2, label="two", rank=2)


def request_of(rig: Rig, **fields: Any) -> PopulateRequest:
    message = ingest_pb2.PopulateRequest(dataset="things", **fields)
    return check_request(message, uuid.uuid4(), {"things": rig.lab.dataset}, rig.sources)


def of_object(rig: Rig, key: str = "things/a.csv", **fields: Any) -> PopulateRequest:
    return request_of(rig, uri=f"s3://{rig.bucket}/{key}", **fields)


async def followed(populates: Populates, request: PopulateRequest) -> tuple[list[Progress], list[Load]]:
    """All progress, and all loads."""
    progress: list[Progress] = []
    loads: list[Load] = []
    async with aclosing(populates.follow(request)) as events:  # type: ignore[type-var]
        async for event in events:
            if isinstance(event, Progress):
                progress.append(event)
            else:
                loads.extend(event)
    return progress, loads


def maintenance(rig: Rig, populates: Populates) -> Maintenance:
    return Maintenance(pool=rig.pool, populates=populates, datasets={"things": rig.lab.dataset}, sources=rig.sources)


async def requests(rig: Rig) -> list[tuple[str, str]]:
    """Owner and state of every request."""
    async with rig.lab.connect() as connection:
        rows = await connection.fetch("SELECT owner, state FROM penstock.populates ORDER BY created_at")
    return [(row["owner"], row["state"]) for row in rows]


async def test_request_loads_its_object_and_answers_again_from_the_ledger(rig: Rig) -> None:
    await rig.put([ONE])
    request = of_object(rig)
    async with rig.populates() as populates:
        _, (load,) = await followed(populates, request)
        assert (load.state, load.request_id) == (LoadState.SUCCEEDED, request.request_id)
        assert await followed(populates, request) == ([], [load])
    assert await requests(rig) == [("here", "DONE")]
    assert await rig.version() == 1


async def test_second_caller_at_the_very_end_of_the_work_begins_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim says RUNNING, and when it looks the work is gone from memory: that is done, not given up."""
    await rig.put([ONE])
    request = of_object(rig, force=True)
    claimed, claim = asyncio.Event(), ledger.claim

    async def slow_claim(connection: Any, *args: Any) -> ledger.Claim:
        answer = await claim(connection, *args)
        if answer.kind is ledger.ClaimKind.ATTACH:
            claimed.set()
            await until(lambda: not populates._operations)
        return answer

    monkeypatch.setattr(ledger, "claim", slow_claim)
    rig.store.gate.clear()
    async with rig.populates() as populates:
        first = asyncio.create_task(followed(populates, request))
        await rig.store.reading.wait()
        second = asyncio.create_task(followed(populates, request))
        await claimed.wait()
        rig.store.gate.set()
        assert (await first)[1] == (await second)[1]
    assert len(await rig.ledger()) == 1


async def test_transient_failures_are_tried_again_and_the_last_attempt_counts(rig: Rig) -> None:
    await rig.put([ONE])
    impatient = LoadLimits(merge=MergeLimits(lock=LockTimes(lock_timeout_s=0.05)))
    loader = rig.loader(limits=impatient)
    populates = Populates(pool=rig.pool, store=rig.store, loader=loader, sources=rig.sources, owner="here", limits=FAST)
    async with populates:
        async with rig.locked_dataset():
            following = asyncio.create_task(followed(populates, of_object(rig)))
            await until(lambda: _has(rig, LoadState.FAILED))
        progress, loads = await following
    assert loads[-1].state is LoadState.SUCCEEDED
    assert {load.state for load in loads[:-1]} == {LoadState.FAILED}
    assert all(one.phase is LoadPhase.DONE for one in progress)


async def test_request_that_failed_for_now_goes_on_when_it_is_asked_again(rig: Rig) -> None:
    await rig.put([ONE])
    impatient = LoadLimits(merge=MergeLimits(lock=LockTimes(lock_timeout_s=0.02)))
    loader = rig.loader(limits=impatient)
    request = of_object(rig)
    parts: dict[str, Any] = {"pool": rig.pool, "store": rig.store, "loader": loader, "sources": rig.sources}
    async with Populates(owner="here", limits=FAST, **parts) as populates:
        async with rig.locked_dataset():
            with pytest.raises(Unavailable):
                await followed(populates, request)
        assert await requests(rig) == [("here", "RUNNING")]
        _, loads = await followed(populates, request)
    assert loads[-1].state is LoadState.SUCCEEDED
    assert await requests(rig) == [("here", "DONE")]


@pytest.mark.parametrize(("prefix", "error"), [("s3://no-such-bucket/x/", NotFound), ("s3://{}/many/", InvalidRequest)])
async def test_request_that_can_never_be_done_is_told_once_and_taken_over_by_nobody(
    rig: Rig, prefix: str, error: type[PenstockError]
) -> None:
    rig.store._policy = replace(rig.store._policy, max_listed=1)
    await rig.put([ONE], "many/a.csv")
    await rig.put([ONE], "many/b.csv")
    request = request_of(rig, prefix=prefix.format(rig.bucket))
    async with rig.populates() as populates:
        for _ in range(2):
            with pytest.raises(error):
                await followed(populates, request)
    assert await requests(rig) == []


async def test_request_of_a_vanished_process_is_taken_over_without_a_caller(rig: Rig) -> None:
    await rig.put([ONE, TWO])
    request = of_object(rig)
    async with rig.lab.connect() as connection:
        await ledger.claim(connection, request.request_id, request.wire, "gone")
        await connection.execute("UPDATE penstock.populates SET heartbeat_at = now() - interval '2 minutes'")
        await ledger.claim(connection, uuid.uuid4(), b"\xff\xff not a request", "gone")
        await connection.execute("UPDATE penstock.populates SET heartbeat_at = heartbeat_at - interval '2 minutes'")
    async with rig.populates() as populates:
        await maintenance(rig, populates).run_once()
        await until(lambda: not populates._operations)
    assert (await requests(rig))[0] == ("here", "DONE")
    assert await rig.table() == by_key([ONE, TWO])


async def test_callers_elsewhere_follow_through_the_ledger(rig: Rig) -> None:
    await rig.put([ONE])
    request = of_object(rig)
    rig.store.gate.clear()
    async with rig.populates("here") as here, rig.populates("there") as there:
        at_work = asyncio.create_task(followed(here, request))
        await rig.store.reading.wait()
        watching = asyncio.create_task(followed(there, request))
        await until(lambda: _waits_elsewhere(rig))
        await asyncio.sleep(10 * FAST.poll_s)
        rig.store.gate.set()
        progress, loads = await watching
        assert loads == (await at_work)[1]
    assert [load.state for load in loads] == [LoadState.SUCCEEDED]
    assert len(progress) < 5, "progress is told when it changed"


async def test_stopped_process_hands_its_request_over_at_once(rig: Rig) -> None:
    things = many(2_000)
    await rig.put(things)
    request = of_object(rig)
    rig.store.gate.clear()
    async with rig.populates("here") as here, rig.populates("there") as there:
        cut_short = asyncio.create_task(followed(here, request))
        await rig.store.reading.wait()
        watching = asyncio.create_task(followed(there, request))
        await here.stop()
        with pytest.raises(Unavailable):
            await cut_short
        rig.store.gate.set()
        async with asyncio.timeout(10):
            _, loads = await watching
    assert [load.state for load in loads] == [LoadState.ABANDONED, LoadState.SUCCEEDED]
    assert await requests(rig) == [("there", "DONE")]
    assert await rig.table() == by_key(things)
    assert await rig.version() == 1


async def test_stopped_process_begins_nothing(rig: Rig) -> None:
    await rig.put([ONE])
    async with rig.populates() as populates:
        await populates.stop()
        with pytest.raises(Unavailable):
            await followed(populates, of_object(rig))
    assert await requests(rig) == []


async def test_process_that_lost_its_request_stops_and_its_caller_follows_the_other(rig: Rig) -> None:
    """It hung for longer than its heartbeat may be silent: two processes must not do the same work."""
    things = many(2_000)
    await rig.put(things)
    request = of_object(rig, force=True)
    rig.store.gate.clear()
    async with rig.populates("here") as here, rig.populates("there") as there:
        caller = asyncio.create_task(followed(here, request))
        await rig.store.reading.wait()
        await rig.execute("UPDATE penstock.populates SET heartbeat_at = '-infinity', owner = 'gone'")
        assert await there.take_over(request)
        await until(lambda: not here._operations)
        rig.store.gate.set()
        _, loads = await caller
    assert sorted(load.state for load in loads) == [LoadState.ABANDONED, LoadState.SUCCEEDED]
    assert await requests(rig) == [("there", "DONE")]
    assert await rig.version() == 1


async def test_loads_of_a_long_prefix_come_in_messages_that_fit(rig: Rig) -> None:
    request = of_object(rig)
    async with rig.lab.connect() as connection:
        await ledger.claim(connection, request.request_id, request.wire, "here")
        await ledger.finish(connection, request.request_id, "here")
        await connection.execute(
            """
            INSERT INTO penstock.loads (id, dataset, bucket, key, trigger, state, phase, request_id, created_at)
            SELECT gen_random_uuid(), 'things', 'lab', n::text, 'POPULATE', 'SUCCEEDED', 'DONE', $1,
                   now() + make_interval(secs => n) FROM generate_series(1, 450) AS n
            """,
            request.request_id,
        )
    async with rig.populates() as populates:
        lists = [event async for event in populates.follow(request) if isinstance(event, list)]
    assert [len(one) for one in lists] == [LOADS_PER_MESSAGE, LOADS_PER_MESSAGE, 450 - 2 * LOADS_PER_MESSAGE]
    assert [load.object.key for one in lists for load in one] == [str(n) for n in range(1, 451)]


async def test_long_prefix_keeps_few_loads_in_memory(rig: Rig) -> None:
    for number in range(25):
        await rig.put([Thing(owner="a", number=number)], f"backfill/{number}.csv")
    async with rig.populates() as populates:
        request = request_of(rig, prefix=f"s3://{rig.bucket}/backfill/")
        following = asyncio.create_task(followed(populates, request))
        await until(lambda: request.request_id in populates._operations)
        operation = populates._operations[request.request_id]
        _, loads = await following
    assert len(loads) == 25
    assert len(operation.recent) < 20


async def test_prefix_without_a_dataset_loads_what_its_sources_take_and_with_one_everything(rig: Rig) -> None:
    sources = Sources(sources=(Source(dataset="things", bucket=rig.bucket, prefix="in/", suffix=".csv"),))
    for name in ("in/a.csv", "in/_old/a.csv", "in/a.bak"):
        await rig.put([ONE], name)
    known, prefix = {"things": rig.lab.dataset}, f"s3://{rig.bucket}/in/"
    async with replace(rig, sources=sources).populates() as populates:
        for dataset in ("", "things"):
            message = ingest_pb2.PopulateRequest(prefix=prefix, dataset=dataset)
            await followed(populates, check_request(message, uuid.uuid4(), known, sources))
    assert [load.reason for load in await rig.ledger("in/a.csv")] == ["", "VERSION_ALREADY_APPLIED"]
    assert [load.reason for load in await rig.ledger("in/_old/a.csv")] == ["HIDDEN_OBJECT", "HIDDEN_OBJECT"]
    assert len(await rig.ledger("in/a.bak")) == 1


@pytest.mark.parametrize("by_prefix", [True, False])
async def test_populate_reads_each_object_in_the_dialect_of_its_source(rig: Rig, by_prefix: bool) -> None:
    source = Source(dataset="things", bucket=rig.bucket, prefix="in/", dialect=Dialect(delimiter=";"))
    sources = Sources(sources=(source,))
    await rig.put_text("owner;number;label;rank\na;1;one;1\n", "in/a.csv")
    message = ingest_pb2.PopulateRequest()
    if by_prefix:
        message.prefix = f"s3://{rig.bucket}/in/"
    else:
        message.uri = f"s3://{rig.bucket}/in/a.csv"
    request = check_request(message, uuid.uuid4(), {"things": rig.lab.dataset}, sources)
    async with replace(rig, sources=sources).populates() as populates:
        await followed(populates, request)
    assert await rig.table() == by_key([ONE])


async def test_hidden_object_that_is_named_is_loaded(rig: Rig) -> None:
    await rig.put([ONE], "_mended/a.csv")
    async with rig.populates() as populates:
        await followed(populates, of_object(rig, "_mended/a.csv"))
    assert await rig.table() == by_key([ONE])


async def _has(rig: Rig, state: LoadState) -> bool:
    return any(load.state is state for load in await rig.ledger())


async def _waits_elsewhere(rig: Rig) -> bool:
    connection = await asyncpg.connect(rig.lab.url, timeout=10)
    try:
        return bool(await connection.fetchval("SELECT count(*) FROM penstock.loads WHERE state = 'RUNNING'"))
    finally:
        await connection.close(timeout=10)
