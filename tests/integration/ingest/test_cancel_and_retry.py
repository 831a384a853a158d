"""A cancelled load changes nothing, wherever it runs and however far it is; a retry is a load like any other."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from penstock.ingest.v1 import ingest_pb2

from ingest_service.events import EventKind, ObjectEvent
from ingest_service.handler import EventHandler
from ingest_service.ledger import loads
from ingest_service.ledger import populates as ledger
from ingest_service.ledger.cancel import cancel_load
from ingest_service.ledger.records import Load, LoadState, LoadTrigger, MergeResult, ReadCounts
from ingest_service.load import LoadLimits
from ingest_service.maintenance import Maintenance
from ingest_service.populate import PopulateRequest, Populates, check_request, retry_request
from shared.errors import Aborted, FailedPrecondition, NotFound
from tests.integration.ingest.rig import Rig, by_key, many, until
from tests.integration.merge.lab import Thing

ONE = Thing(owner="a", number=1, label="one", rank=1)
CALLER = "spiffe://penstock/ops"
ATTENTIVE = LoadLimits(heartbeat_s=0.05)
SUCCEEDED = MergeResult(state=LoadState.SUCCEEDED, dataset_version=1)


async def cancelled(rig: Rig, key: str = "things/a.csv") -> Load:
    """Cancels the running load of the object as another process would."""
    (running,) = [load for load in await rig.ledger(key) if load.state is LoadState.RUNNING]
    async with rig.lab.connect() as connection:
        return await cancel_load(connection, running.id, CALLER)


def handler(rig: Rig) -> EventHandler:
    datasets = {"things": rig.lab.dataset}
    loader = rig.loader(limits=ATTENTIVE)
    return EventHandler(
        datasets=datasets, sources=rig.sources, loader=loader, store=rig.store, pool=rig.pool, owner="test"
    )


def event(rig: Rig, sequencer: str = "05") -> ObjectEvent:
    return ObjectEvent(
        bucket=rig.bucket, key="things/a.csv", kind=EventKind.CREATED, sequencer=sequencer, event_name="test"
    )


@asynccontextmanager
async def reading(rig: Rig) -> AsyncIterator[asyncio.Task[Load]]:
    """A load that stands still in the middle of its object."""
    await rig.put(many(2_000))
    rig.store.gate.clear()
    task = asyncio.create_task(rig.loader(limits=ATTENTIVE).load(rig.job()))
    await rig.store.reading.wait()
    yield task
    task.cancel()


async def test_load_that_is_cancelled_elsewhere_while_it_reads_ends_at_its_next_sign_of_life(rig: Rig) -> None:
    async with reading(rig) as task:
        load = await cancelled(rig)
        async with asyncio.timeout(10):
            assert await task == load  # the object is never read to its end
    assert (load.state, load.reason) == (LoadState.CANCELLED, "CANCELLED")
    assert load.ended_at is not None
    assert load.message == f"the load was cancelled by {CALLER}; nothing was changed"
    assert (await rig.table(), await rig.version()) == ({}, 0)


async def test_load_that_is_cancelled_while_it_waits_to_merge_changes_nothing(rig: Rig) -> None:
    await rig.put([ONE])
    async with rig.locked_dataset():
        task = asyncio.create_task(rig.loader(limits=ATTENTIVE).load(rig.job()))
        await until(lambda: _phase(rig, "MERGING"))
        await cancelled(rig)
        async with asyncio.timeout(10):
            assert (await task).state is LoadState.CANCELLED
    assert (await rig.table(), await rig.version()) == ({}, 0)


async def test_load_that_is_swept_while_it_reads_stops_reading(rig: Rig) -> None:
    """Its process was taken for dead: another attempt follows, and two would only be in each other's way."""
    async with reading(rig) as task:
        await rig.execute("UPDATE penstock.loads SET state = 'ABANDONED'")
        async with asyncio.timeout(10):
            with pytest.raises(Aborted, match="ended by somebody else"):
                await task


async def test_committing_load_and_cancel_decide_on_one_winner(rig: Rig) -> None:
    async with rig.lab.connect() as merging, rig.lab.connect() as cancelling:
        first, second = [await rig.lab.start(merging, rig.lab.version_of()) for _ in range(2)]
        async with merging.transaction():
            await loads.finish_merged(merging, first.id, SUCCEEDED, ReadCounts())
            too_late = asyncio.ensure_future(cancel_load(cancelling, first.id, CALLER))
            await until(lambda: _waits(rig))
        with pytest.raises(FailedPrecondition, match="ended as SUCCEEDED already") as ended:
            await too_late
        assert ended.value.reason == "LOAD_ENDED"
        in_time = await cancel_load(cancelling, second.id, CALLER)
        with pytest.raises(Aborted):
            await loads.finish_merged(merging, second.id, SUCCEEDED, ReadCounts())
        assert await cancel_load(cancelling, second.id, CALLER) == in_time == await loads.get_load(merging, second.id)
        with pytest.raises(NotFound):
            await cancel_load(cancelling, uuid.uuid4(), CALLER)


@pytest.mark.parametrize(
    ("trigger", "state", "advice"),
    [
        (LoadTrigger.EVENT, LoadState.SUCCEEDED, "Unload takes back what it loaded"),
        (LoadTrigger.UNLOAD, LoadState.SUCCEEDED, "there is nothing to cancel"),
        (LoadTrigger.EVENT, LoadState.FAILED, "another attempt, cancel that one"),
        (LoadTrigger.EVENT, LoadState.ABANDONED, "another attempt, cancel that one"),
        (LoadTrigger.EVENT, LoadState.SKIPPED, "there is nothing to cancel"),
    ],
)
async def test_unload_is_advised_only_for_a_load_that_loaded_something(
    rig: Rig, trigger: LoadTrigger, state: LoadState, advice: str
) -> None:
    """Of one that failed it would take back the rows of an earlier version."""
    async with rig.lab.connect() as connection:
        load = await rig.lab.start(connection, rig.lab.version_of(), trigger)
        await loads.finish(connection, load.id, state, reason="", message="", read=ReadCounts())
        with pytest.raises(FailedPrecondition, match=f"as {state} already; .*{advice}"):
            await cancel_load(connection, load.id, CALLER)


async def test_event_of_a_cancelled_load_is_terminal_also_when_it_is_delivered_again(rig: Rig) -> None:
    """The load that was cancelled may be the one that killed its process before the message was deleted."""
    await rig.put(many(2_000))
    rig.store.gate.clear()
    handling = asyncio.create_task(handler(rig)(event(rig)))
    await rig.store.reading.wait()
    await cancelled(rig)
    assert (await handling).terminal
    rig.store.gate.set()
    assert (await handler(rig)(event(rig))).terminal
    assert [load.state for load in await rig.ledger()] == [LoadState.CANCELLED, LoadState.CANCELLED]
    assert await rig.table() == {}
    assert (await handler(rig)(event(rig, sequencer="06"))).terminal
    assert len(await rig.table()) == 2_000, "a later event of the object is another matter"


async def test_populate_goes_on_behind_a_cancelled_load(rig: Rig) -> None:
    await rig.put(many(2_000), "in/a.csv")
    await rig.put([ONE], "in/b.csv")
    message = ingest_pb2.PopulateRequest(prefix=f"s3://{rig.bucket}/in/", dataset="things")
    request = check_request(message, uuid.uuid4(), {"things": rig.lab.dataset}, rig.sources)
    rig.store.gate.clear()
    populates = Populates(
        pool=rig.pool, store=rig.store, loader=rig.loader(limits=ATTENTIVE), sources=rig.sources, owner="here"
    )
    async with populates:
        following = asyncio.create_task(followed(populates, request))
        await rig.store.reading.wait()
        await cancelled(rig, "in/a.csv")
        await until(lambda: _ended(rig, "in/a.csv"))
        rig.store.gate.set()
        found = await following
    assert [load.state for load in found] == [LoadState.CANCELLED, LoadState.SUCCEEDED]
    assert await rig.table() == by_key([ONE])


async def test_load_that_was_cancelled_is_not_loaded_by_who_takes_its_populate_over(rig: Rig) -> None:
    """The load that was cancelled may be the one that killed the process."""
    await rig.put([ONE])
    mine, other = uuid.uuid4(), uuid.uuid4()
    async with rig.lab.connect() as connection:
        version = dataclasses.replace(rig.lab.version_of(), bucket=rig.bucket)
        running = await rig.lab.start(connection, version, LoadTrigger.POPULATE, request_id=mine)
        await cancel_load(connection, running.id, CALLER)
    again = await rig.loader().load(rig.job(trigger=LoadTrigger.POPULATE, request_id=mine))
    assert (again.state, await rig.table()) == (LoadState.CANCELLED, {})
    asked_anew = await rig.loader().load(rig.job(trigger=LoadTrigger.RETRY, request_id=other))
    assert (asked_anew.state, await rig.table()) == (LoadState.SUCCEEDED, by_key([ONE]))


async def test_retry_is_a_new_load_of_the_object_as_it_is_now(rig: Rig) -> None:
    await rig.put_text("owner,number,rank\na,x,1\n")
    failed = await rig.loader().load(rig.job())
    assert failed.state is LoadState.FAILED
    await rig.put([ONE])
    async with rig.populates() as populates:
        (again,) = await followed(populates, retry_of(rig, failed))
    assert (again.trigger, again.state) == (LoadTrigger.RETRY, LoadState.SUCCEEDED)
    assert await rig.table() == by_key([ONE])


async def test_retry_that_is_taken_over_stays_a_retry(rig: Rig) -> None:
    await rig.put([ONE])
    request = retry_of(rig, await rig.loader().load(rig.job(validate_only=True)))
    async with rig.lab.connect() as connection:
        await ledger.claim(connection, request.request_id, request.wire, "gone")
        await connection.execute("UPDATE penstock.populates SET heartbeat_at = '-infinity'")
    async with rig.populates() as populates:
        datasets = {"things": rig.lab.dataset}
        await Maintenance(pool=rig.pool, populates=populates, datasets=datasets, sources=rig.sources).run_once()
        await until(lambda: not populates._operations)
    assert [(load.trigger, load.state) for load in await rig.ledger()] == [
        (LoadTrigger.EVENT, LoadState.VALIDATED),
        (LoadTrigger.RETRY, LoadState.VALIDATED),
    ]


async def test_load_in_work_is_not_retried(rig: Rig) -> None:
    async with rig.lab.connect() as connection:
        running = await rig.lab.start(connection, rig.lab.version_of())
    with pytest.raises(FailedPrecondition, match="is in work") as refused:
        retry_request(running)
    assert refused.value.reason == "LOAD_NOT_RETRYABLE"


def retry_of(rig: Rig, load: Load) -> PopulateRequest:
    return check_request(retry_request(load), uuid.uuid4(), {"things": rig.lab.dataset}, rig.sources)


async def followed(populates: Populates, request: PopulateRequest) -> list[Load]:
    return [load async for found in populates.follow(request) if isinstance(found, list) for load in found]


async def _phase(rig: Rig, phase: str) -> bool:
    return any(load.phase == phase for load in await rig.ledger())


async def _ended(rig: Rig, key: str) -> bool:
    return all(load.ended_at is not None for load in await rig.ledger(key))


async def _waits(rig: Rig) -> bool:
    async with rig.lab.connect() as connection:
        waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid')"
        return bool(await connection.fetchval(waiting))
