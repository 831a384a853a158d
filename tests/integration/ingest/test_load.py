"""The loader on a real database and S3: what ends up in the table and in the ledger, whatever comes in between."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from ingest_service.aws import AwsAccess, open_client
from ingest_service.ledger import listing, loads
from ingest_service.ledger.datasets import LockTimes
from ingest_service.ledger.records import Load, LoadPhase, LoadState, LoadTrigger
from ingest_service.load import Loader, LoadLimits, Progress
from ingest_service.merge.merge import MergeLimits
from ingest_service.objects import ReadPolicy
from shared.errors import Aborted, Unavailable
from tests.integration.consumer.conftest import FAST
from tests.integration.consumer.flaky_proxy import FlakyProxy
from tests.integration.ingest.rig import GatedStore, Rig, by_key, ingest_pool, many, until
from tests.integration.merge.lab import Thing

ONE = Thing(owner="a", number=1, label="one", rank=1)
TWO = Thing(owner="b", number=2, label="two", rank=2)


async def test_object_becomes_rows_and_one_version(rig: Rig) -> None:
    await rig.put([ONE, TWO])
    load = await rig.loader().load(rig.job())
    assert (load.state, load.phase, load.dataset_version) == (LoadState.SUCCEEDED, LoadPhase.DONE, 1)
    assert (load.read.rows_read, load.rows_inserted) == (2, 2)
    assert load.read.bytes_read == load.object.size_bytes > 0
    assert await rig.table() == by_key([ONE, TWO])


async def test_same_version_again_is_already_applied(rig: Rig) -> None:
    await rig.put([ONE])
    loader = rig.loader()
    await loader.load(rig.job(sequencer="01"))
    again = await loader.load(rig.job(sequencer="01"))
    assert (again.state, again.dataset_version) == (LoadState.ALREADY_APPLIED, 1)
    assert await rig.version() == 1


async def test_force_merges_the_same_version_again(rig: Rig) -> None:
    await rig.put([ONE])
    loader = rig.loader()
    await loader.load(rig.job())
    forced = await loader.load(rig.job(trigger=LoadTrigger.POPULATE, force=True))
    assert (forced.state, forced.dataset_version, forced.rows_unchanged) == (LoadState.SUCCEEDED, 2, 1)


async def test_older_event_never_overwrites_newer_object(rig: Rig) -> None:
    loader = rig.loader()
    await rig.put([TWO])
    await loader.load(rig.job(sequencer="0A"))
    await rig.put([ONE])
    late = await loader.load(rig.job(sequencer="09"))
    assert (late.state, late.reason) == (LoadState.SUPERSEDED, "NEWER_VERSION_APPLIED")
    assert await rig.table() == by_key([TWO])


async def test_overwritten_object_loads_the_new_content(rig: Rig) -> None:
    loader = rig.loader()
    await rig.put([ONE])
    await loader.load(rig.job(sequencer="01"))
    changed = Thing(owner="a", number=1, label="changed", rank=1)
    await rig.put([changed])
    load = await loader.load(rig.job(sequencer="02"))
    assert (load.state, load.rows_updated) == (LoadState.SUCCEEDED, 1)
    assert await rig.table() == by_key([changed])


async def test_object_that_is_gone_is_superseded_for_an_event_and_failed_for_a_caller(rig: Rig) -> None:
    by_event = await rig.loader().load(rig.job())
    asked_for = await rig.loader().load(rig.job(trigger=LoadTrigger.POPULATE))
    assert (by_event.state, by_event.reason) == (LoadState.SUPERSEDED, "OBJECT_GONE")
    assert (asked_for.state, asked_for.reason) == (LoadState.FAILED, "OBJECT_GONE")


async def test_folder_marker_is_skipped(rig: Rig) -> None:
    await rig.put_text("", "things/")
    load = await rig.loader().load(rig.job("things/"))
    assert (load.state, load.reason, await rig.version()) == (LoadState.SKIPPED, "FOLDER_MARKER", 0)


async def test_validate_only_leaves_a_ledger_row_and_rejects_and_nothing_else(rig: Rig) -> None:
    await rig.put_text("owner,number\na,1\nb,many\n")
    job = rig.job(trigger=LoadTrigger.POPULATE, validate_only=True)
    failed = await rig.loader().load(job)
    await rig.put([ONE])
    validated = await rig.loader().load(job)
    assert (failed.state, failed.reason, failed.read.rows_rejected) == (LoadState.FAILED, "TOO_MANY_REJECTS", 1)
    assert (validated.state, validated.read.rows_read) == (LoadState.VALIDATED, 1)
    assert (await rig.table(), await rig.version()) == ({}, 0)
    async with rig.lab.connect() as connection:
        assert await connection.fetchval("SELECT count(*) FROM penstock.objects") == 0


async def test_too_many_rejects_fail_the_whole_load_and_name_the_rows(rig: Rig) -> None:
    await rig.put_text("owner,number\na,1\nb,many\nc,3\n")
    load = await rig.loader().load(rig.job())
    assert (load.state, load.reason) == (LoadState.FAILED, "TOO_MANY_REJECTS")
    assert "line 3" in load.message
    assert (await rig.table(), await rig.version()) == ({}, 0)
    async with rig.lab.connect() as connection:
        rejects = await listing.list_rejects(connection, load.id, limit=10)
    assert [(reject.line, reject.field) for reject in rejects] == [(3, "number")]


async def test_transient_failure_is_raised_and_the_next_attempt_succeeds(rig: Rig) -> None:
    await rig.put([ONE])
    impatient = LoadLimits(merge=MergeLimits(lock=LockTimes(lock_timeout_s=0.05)))
    async with rig.locked_dataset():
        with pytest.raises(Unavailable):
            await rig.loader(limits=impatient).load(rig.job())
    load = await rig.loader().load(rig.job())
    assert load.state is LoadState.SUCCEEDED
    assert [one.state for one in await rig.ledger()] == [LoadState.FAILED, LoadState.SUCCEEDED]
    assert await rig.version() == 1


async def test_lost_connection_while_staging_is_transient(rig: Rig) -> None:
    things = many(50_000)
    await rig.put(things)
    rig.store.gate.clear()
    loading = asyncio.create_task(rig.loader().load(rig.job()))
    await until(lambda: _copying(rig))
    await rig.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ILIKE 'COPY%'")
    with pytest.raises(Unavailable):
        await loading
    rig.store.gate.set()
    await rig.loader().load(rig.job())
    assert await rig.table() == by_key(things)
    assert await rig.version() == 1


async def test_cancelled_load_is_abandoned_and_the_next_attempt_succeeds(rig: Rig) -> None:
    things = many(50_000)
    await rig.put(things)
    rig.store.gate.clear()
    loading = asyncio.create_task(rig.loader().load(rig.job()))
    await until(lambda: _copying(rig))
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    rig.store.gate.set()
    await rig.loader().load(rig.job())
    assert [one.state for one in await rig.ledger()] == [LoadState.ABANDONED, LoadState.SUCCEEDED]
    assert await rig.table() == by_key(things)


async def test_load_cancelled_while_it_waits_for_the_lock_changes_nothing(rig: Rig) -> None:
    await rig.put([ONE])
    progress = Progress(uri="")
    async with rig.locked_dataset():
        loading = asyncio.create_task(rig.loader().load(rig.job(), progress))
        await until(lambda: _waiting_for_a_lock(rig))
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
    assert [one.state for one in await rig.ledger()] == [LoadState.ABANDONED]
    assert (await rig.table(), await rig.version()) == ({}, 0)


async def test_cancellation_is_never_replaced_by_a_failure_of_the_database(rig: Rig) -> None:
    """Whoever stops the load would take Unavailable for a reason to try again, and never stop."""
    await rig.put(many(10))
    rig.store.gate.clear()
    loading = asyncio.create_task(rig.loader().load(rig.job()))
    await rig.store.reading.wait()
    await rig.execute("REVOKE UPDATE ON penstock.loads FROM penstock_ingest")
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading


async def test_two_loaders_of_one_object_commit_one_version(rig: Rig) -> None:
    things = many(2_000)
    await rig.put(things)
    async with rig.locked_dataset():
        both = [asyncio.create_task(rig.loader(owner).load(rig.job(sequencer="01"))) for owner in ("one", "two")]
        await until(lambda: _waiting_for_a_lock(rig, 2))
    ended = await asyncio.gather(*both)
    assert sorted(load.state for load in ended) == [LoadState.ALREADY_APPLIED, LoadState.SUCCEEDED]
    assert await rig.version() == 1
    assert await rig.table() == by_key(things)


async def test_swept_load_is_tried_again_whatever_its_end_would_have_been(rig: Rig) -> None:
    """ABANDONED promises another attempt: to report such a load as ended would take the event with it."""
    await rig.put_text("owner,number\nb,many\n")
    rig.store.gate.clear()
    loading = asyncio.create_task(rig.loader().load(rig.job()))
    await rig.store.reading.wait()
    async with rig.lab.connect() as connection:
        assert await loads.sweep_abandoned(connection, stale_after_s=-1)
    rig.store.gate.set()
    with pytest.raises(Aborted):
        await loading
    again = await rig.loader().load(rig.job())
    assert [one.state for one in await rig.ledger()] == [LoadState.ABANDONED, LoadState.FAILED]
    assert again.reason == "TOO_MANY_REJECTS"


async def test_committed_load_is_reported_as_committed_when_looking_it_up_fails(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.put([ONE])
    look = loads.get_load

    async def fail_once(*args: Any) -> Load:
        monkeypatch.setattr(loads, "get_load", look)
        raise Unavailable("the connection to the database was lost", reason="DATABASE_UNREACHABLE")

    monkeypatch.setattr(loads, "get_load", fail_once)
    load = await rig.loader().load(rig.job())
    assert (load.state, load.dataset_version) == (LoadState.SUCCEEDED, 1)


async def test_object_that_changes_while_it_is_read_is_loaded_anew(
    rig: Rig, proxy: FlakyProxy, access: AwsAccess
) -> None:
    """The connection is cut, and what follows at that offset is another version's."""
    old, new = many(60_000, "old"), many(1_000, "new")
    await rig.put(old)
    async with open_client("s3", replace(access, endpoint_url=proxy.endpoint_url)) as flaky:
        store = GatedStore(flaky, ReadPolicy(missing_retries_s=(0.01,), resume_backoff=FAST, chunk_bytes=65536))
        store.gate.clear()
        proxy.cut_responses(1_000_000)
        loader = Loader(pool=rig.pool, store=store, executor=rig.executor, owner="here", limits=rig.limits)
        loading = asyncio.create_task(loader.load(rig.job()))
        await store.reading.wait()
        await rig.put(new)
        store.gate.set()
        load = await loading
    assert (load.state, load.read.rows_read) == (LoadState.SUCCEEDED, 1_000)
    assert await rig.table() == by_key(new)


async def test_heartbeats_outlive_an_error_that_nobody_foresaw(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """A beat that dies unseen would let the sweep end a healthy load."""
    await rig.put([ONE])
    rig.store.gate.clear()
    loading = asyncio.create_task(rig.loader(limits=LoadLimits(heartbeat_s=0.02)).load(rig.job()))
    await rig.store.reading.wait()
    await rig.execute("ALTER TABLE penstock.loads ADD CONSTRAINT broken CHECK (phase <> 'STAGING') NOT VALID")
    await until(lambda: "CheckViolation" in caplog.text or "CheckViolation" in str(loading))
    await rig.execute("ALTER TABLE penstock.loads DROP CONSTRAINT broken")
    async with rig.lab.connect() as connection:
        before = await connection.fetchval("SELECT heartbeat_at FROM penstock.loads")
        await until(lambda: _later(connection, before))
    rig.store.gate.set()
    assert (await loading).state is LoadState.SUCCEEDED


async def test_rejects_of_an_ended_load_are_not_kept_in_memory(rig: Rig) -> None:
    await rig.put_text("owner,number\n" + "b,many\n" * 100)
    progress = Progress(uri="")
    load = await rig.loader().load(rig.job(), progress)
    assert load.read.rows_rejected == progress.reading.rows_rejected == 100
    assert progress.reading.rejects.kept == []


async def test_small_pool_serves_as_many_loads_as_may_run(rig: Rig) -> None:
    """Every load holds one connection and takes a second one now and then; settings ask for concurrency + 4."""
    keys = [f"things/{number}.csv" for number in range(12)]
    for number, key in enumerate(keys):
        await rig.put([Thing(owner="a", number=number)], key)
    async with ingest_pool(rig.lab, max_size=6) as pool, asyncio.timeout(30):
        loader = rig.loader(limits=LoadLimits(concurrency=2, heartbeat_s=0.01), pool=pool)
        ended = await asyncio.gather(*(loader.load(rig.job(key)) for key in keys))
    assert sorted(load.dataset_version for load in ended) == list(range(1, 13))


async def _later(connection: asyncpg.Connection[asyncpg.Record], before: object) -> bool:
    return bool(await connection.fetchval("SELECT heartbeat_at > $1 FROM penstock.loads", before))


async def _copying(rig: Rig) -> bool:
    return await _active(rig, "query ILIKE 'COPY%' AND state = 'active'", 1)


async def _waiting_for_a_lock(rig: Rig, count: int = 1) -> bool:
    return await _active(rig, "wait_event_type = 'Lock' AND query ILIKE '%FOR UPDATE%'", count)


async def _active(rig: Rig, condition: str, count: int) -> bool:
    connection = await asyncpg.connect(rig.lab.url, timeout=10)
    try:
        statement = f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {condition}"
        return int(await connection.fetchval(statement)) >= count
    finally:
        await connection.close(timeout=10)
