"""A database that came back without its last commits: what they loaded is there again before the service is ready."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from ingest_service.consumer import Queue
from ingest_service.events import EventKind
from ingest_service.ledger.records import ObjectVersion
from ingest_service.objects import ListedObject
from ingest_service.reconcile.epochs import MARGIN_S, EpochCheck, EpochLimits
from ingest_service.reconcile.schedule import Claims, ScheduleLimits
from shared.contract.model import Dataset
from shared.errors import Unavailable
from shared.local.postgres import EmbeddedPostgres
from tests.integration.consumer.conftest import Queues, queues, sqs
from tests.integration.ingest.reconciling import reconciler
from tests.integration.ingest.rig import GatedStore, Rig, by_key, ingest_pool, many
from tests.integration.ingest.test_handler import event, handler
from tests.integration.ingest.test_reconcile_schedule import schedule
from tests.integration.merge.conftest import mirror_template
from tests.integration.merge.lab import Lab, Thing, cloned

__all__ = ["mirror_template", "queues", "sqs"]

ONE = Thing(owner="a", number=1, label="one", rank=1)
TWO = Thing(owner="a", number=2, label="two", rank=2)
# As the README has it.
NEW_EPOCH = "UPDATE penstock.datasets SET epoch = gen_random_uuid()"


def check(rig: Rig, queue: Queue, owner: str = "here", patience_s: float = 10) -> EpochCheck:
    limits = ScheduleLimits(heartbeat_s=0.05)
    claims = Claims(pool=rig.pool, reconciler=reconciler(rig), owner=owner, limits=limits)
    return EpochCheck(
        pool=rig.pool, claims=claims, queue=queue, datasets=["things"], limits=EpochLimits(patience_s=patience_s)
    )


@asynccontextmanager
async def rig_on(rig: Rig, server: EmbeddedPostgres, database: str, dataset: Dataset) -> AsyncIterator[Rig]:
    """The rig's bucket with another database."""
    lab = Lab(url=server.url(database), dataset=dataset)
    async with ingest_pool(lab) as pool:
        yield replace(rig, lab=lab, pool=pool)


async def test_loads_that_a_restore_lost_are_there_again_before_the_service_is_ready(
    rig: Rig, postgres: EmbeddedPostgres, mirror_template: tuple[str, Dataset], queues: Queues
) -> None:
    template, dataset = mirror_template
    kept, over, late, gone = (f"things/{name}.csv" for name in ("kept", "over", "late", "gone"))
    with cloned(postgres, template) as name:
        async with rig_on(rig, postgres, name, dataset) as before:
            await check(before, queues.main).run_once()
            for number, key in enumerate((kept, over, gone)):
                await rig.put([replace(ONE, number=number, label=key)], key)
                await handler(before)(event(rig, key=key, sequencer="05"))
        with cloned(postgres, name) as backup:
            async with rig_on(rig, postgres, name, dataset) as after:
                await rig.put([replace(ONE, number=1, label="again")], over)
                await rig.put([replace(ONE, number=9, label=late)], late)
                await rig.s3.delete_object(Bucket=rig.bucket, Key=gone)
                assert (await handler(after)(event(rig, key=over, sequencer="06"))).terminal
                assert (await handler(after)(event(rig, key=late, sequencer="06"))).terminal
                assert (await handler(after)(event(rig, EventKind.REMOVED, gone, "06"))).terminal
                acknowledged = await after.table()
            async with rig_on(rig, postgres, backup, dataset) as restored:
                ours = check(restored, queues.main)
                assert await ours.passed()
                await restored.execute(NEW_EPOCH)
                assert not await ours.passed()
                assert await restored.table() != acknowledged
                assert await ours.run_once()
                assert await restored.table() == acknowledged
                assert {thing.label for thing in acknowledged.values()} == {kept, "again", late}
                assert await ours.passed()
                assert len(await restored.ledger(kept)) == 1, "what was not lost is left alone"


async def test_first_start_has_nothing_to_look_for(rig: Rig, queues: Queues) -> None:
    await rig.put([ONE])
    ours = check(rig, queues.main)
    assert await ours.passed()
    assert await ours.run_once()
    assert await ours.passed()
    assert await rig.ledger() == []


async def test_only_what_the_queue_might_have_told_is_looked_through(
    rig: Rig, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its retention, and as long as a message may be in work."""
    ours = check(rig, queues.main)
    await ours.run_once()
    await queues.sqs.set_queue_attributes(QueueUrl=queues.main.url, Attributes={"MessageRetentionPeriod": "3600"})
    window = dt.timedelta(seconds=3600 + MARGIN_S)
    ages = {"things/in.csv": window - dt.timedelta(minutes=5), "things/out.csv": window + dt.timedelta(minutes=5)}
    for key in ages:
        await rig.put([ONE], key)
    list_pages = GatedStore.list_pages

    async def aged(bucket: str, prefix: str) -> AsyncGenerator[list[ListedObject], None]:
        async for page in list_pages(rig.store, bucket, prefix):
            yield [replace(one, last_modified=dt.datetime.now(dt.UTC) - ages[one.key]) for one in page]

    monkeypatch.setattr(rig.store, "list_pages", aged)
    await rig.execute(NEW_EPOCH)
    assert await ours.run_once()
    assert await ours.passed()
    assert [len(await rig.ledger(key)) for key in ages] == [1, 0]


async def test_what_cannot_be_loaded_now_keeps_the_service_from_being_ready_and_what_never_can_does_not(
    rig: Rig, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rig's sources name a bucket that does not exist."""
    ours = check(rig, queues.main)
    await ours.run_once()
    await rig.put([TWO], "things/over.csv")
    await rig.loader().load(rig.job("things/over.csv"))
    await rig.put([ONE], "things/over.csv")
    await rig.put_text("no,key\n", "things/bad.csv")
    await rig.execute(NEW_EPOCH)
    with monkeypatch.context() as patched:
        patched.setattr(rig.store, "open_object", _down)
        patched.setattr(rig.store, "head", _down)
        assert not await ours.run_once()
        assert not await ours.passed()
    assert await ours.run_once()
    assert await ours.passed()
    assert await rig.table() == by_key([ONE, TWO])


def _down(*_: Any, **__: Any) -> Any:
    raise Unavailable("S3 is down", reason="S3_UNAVAILABLE")


async def test_one_process_looks_and_the_others_wait_for_it(rig: Rig, queues: Queues) -> None:
    here, there = check(rig, queues.main), check(rig, queues.main, "there")
    await here.run_once()
    await rig.put([ONE])
    await rig.execute(NEW_EPOCH)
    await rig.execute("UPDATE penstock.reconciles SET owner = 'here', heartbeat_at = now()")
    assert await there.run_once()
    assert not await there.passed()
    assert await rig.table() == {}
    await rig.execute("UPDATE penstock.reconciles SET heartbeat_at = NULL")
    assert await here.run_once()
    assert await there.passed()
    assert await rig.table() == by_key([ONE])


async def test_busy_pool_changes_no_answer(rig: Rig, queues: Queues) -> None:
    ours = check(rig, queues.main, patience_s=0.5)
    await ours.run_once()
    for answer in (True, False):
        assert await ours.passed() is answer
        held = [await rig.pool.acquire() for _ in range(rig.pool.get_max_size())]
        await rig.execute(NEW_EPOCH)
        assert await ours.passed() is answer
        for connection in held:
            await rig.pool.release(connection)


async def test_load_that_was_in_work_when_the_backup_was_made_is_not_believed(rig: Rig, queues: Queues) -> None:
    """Its end was lost with the last commits, and its event is settled."""
    ours = check(rig, queues.main)
    await ours.run_once()
    await rig.put([ONE])
    async with rig.lab.connect() as connection:
        await rig.lab.start(connection, ObjectVersion(bucket=rig.bucket, key="things/a.csv"))
    await rig.execute(NEW_EPOCH)
    assert await ours.run_once()
    assert await rig.table() == by_key([ONE])


async def test_claim_of_a_vanished_process_keeps_no_service_from_being_ready(rig: Rig, queues: Queues) -> None:
    ours = check(rig, queues.main)
    await ours.run_once()
    await rig.execute("UPDATE penstock.reconciles SET owner = 'gone', heartbeat_at = now() - interval '2 minutes'")
    await rig.execute(NEW_EPOCH)
    assert await ours.run_once()
    assert await ours.passed()


async def test_reconcile_at_an_interval_makes_way_for_the_look_after_a_failover(rig: Rig, queues: Queues) -> None:
    await rig.put(many(2_000))
    rig.store.gate.clear()
    running = asyncio.create_task(schedule(rig).run_once())
    await rig.store.reading.wait()
    await rig.execute(NEW_EPOCH)
    await running
    rig.store.gate.set()
    ours = check(rig, queues.main)
    assert not await ours.passed()
    assert await ours.run_once()
    assert await ours.passed()
    assert await rig.table() == by_key(many(2_000))
