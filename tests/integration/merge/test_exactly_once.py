"""One transaction: whatever is killed, raced or refused, a load has happened entirely or not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import asyncpg
import psycopg
import pytest

from ingest_service.ledger import loads
from ingest_service.ledger.records import Load, LoadState, LoadTrigger, MergeResult, ReadCounts
from ingest_service.merge import merge as merging
from ingest_service.merge.merge import MergeLimits
from ingest_service.merge.staging import stage
from shared.errors import Aborted, FailedPrecondition, Unavailable
from tests.integration.merge.lab import NEVER_BULK, Lab, Thing, chunks, kill_after

ROWS = [Thing(owner="o", number=n, label="x" * 200) for n in range(300)]
BULK = MergeLimits(bulk_rows=1)


async def test_same_version_loaded_twice_at_once_is_applied_once(lab: Lab) -> None:
    version = lab.version_of()

    async def attempt(ready: asyncio.Barrier) -> MergeResult:
        async with lab.connect() as connection:
            load = await lab.start(connection, version, LoadTrigger.EVENT)
            async with stage(connection, lab.dataset, chunks(lab.copy_bytes(ROWS))) as staged:
                await ready.wait()
                return await merging.merge(connection, lab.dataset, load, staged, ReadCounts(), NEVER_BULK)

    ready = asyncio.Barrier(2)
    results = await asyncio.gather(attempt(ready), attempt(ready))
    assert sorted(result.state for result in results) == [LoadState.ALREADY_APPLIED, LoadState.SUCCEEDED]
    assert [result.dataset_version for result in results] == [1, 1]
    async with lab.connect() as connection:
        assert await lab.version(connection) == (1, len(ROWS))
        states = await connection.fetch("SELECT state FROM penstock.loads ORDER BY state")
    assert [row["state"] for row in states] == ["ALREADY_APPLIED", "SUCCEEDED"]


async def test_versions_of_concurrent_loads_have_no_gap(lab: Lab) -> None:
    async def attempt(number: int) -> int:
        async with lab.connect() as connection:
            rows = [replace(row, owner=str(number)) for row in ROWS[:10]]
            return (await lab.load(connection, rows, lab.version_of(f"things/{number}.csv"))).dataset_version

    assert sorted(await asyncio.gather(*map(attempt, range(6)))) == [1, 2, 3, 4, 5, 6]
    async with lab.connect() as connection:
        assert await lab.version(connection) == (6, 60)


@pytest.mark.parametrize("limits", [NEVER_BULK, BULK], ids=["plain", "bulk"])
@pytest.mark.slow
async def test_backend_killed_after_any_statement_leaves_all_or_nothing(lab: Lab, limits: MergeLimits) -> None:
    statements = 0
    while not await _survives_kill_after(lab, statements, limits):
        statements += 1
    assert statements > 10, "the kill never struck inside the merge"


async def _survives_kill_after(lab: Lab, statements: int, limits: MergeLimits) -> bool:
    """Kills the loading backend when it has run that many statements, checks the outcome. True: it was done before."""
    async with lab.connect() as observer:
        before = await lab.version(observer)
        rows = [replace(row, rank=statements) for row in ROWS] if before[0] else ROWS
        connection = await asyncpg.connect(lab.url, server_settings={"role": "penstock_ingest"})
        load = await lab.start(connection, lab.version_of())
        kill_after(lab.url, connection, statements)
        died = False
        try:
            async with stage(connection, lab.dataset, chunks(lab.copy_bytes(rows), 4096)) as staged:
                await merging.merge(connection, lab.dataset, load, staged, ReadCounts(), limits)
        except Unavailable:
            died = True
        finally:
            connection.terminate()
        committed = await loads.committed_load(observer, load)
        after = await lab.version(observer)
        if committed is None:
            assert died
            assert after == before
            assert (await loads.get_load(observer, load.id)).state is LoadState.RUNNING
        else:
            assert committed.state is LoadState.SUCCEEDED
            assert after == (before[0] + 1, len(ROWS))
        await _assert_sound(lab, observer, after)
    return not died


async def _assert_sound(lab: Lab, observer: asyncpg.Connection[asyncpg.Record], version: tuple[int, int]) -> None:
    held = await lab.rows(observer)
    assert len(held) == version[1]
    assert all(row.version <= version[0] for row in held.values())
    assert await observer.fetchval("SELECT count(*) FROM penstock.objects") == (1 if version[0] else 0)
    indexes = "SELECT count(*) FROM pg_index WHERE indrelid = 'data.things'::regclass AND indisvalid"
    assert await observer.fetchval(indexes) == 7


@pytest.mark.parametrize("stalls", [True, False], ids=["source-stalls", "socket-full"])
async def test_backend_killed_during_copy_ends_the_load_at_once(lab: Lab, stalls: bool) -> None:
    async with lab.connect() as observer:
        connection = await asyncpg.connect(lab.url, server_settings={"role": "penstock_ingest"})
        source = _endless(lab, stalls, lambda: _terminate(lab.url, connection.get_server_pid()))
        with pytest.raises(Unavailable):
            async with asyncio.timeout(20), stage(connection, lab.dataset, source):
                raise AssertionError("staged")
        assert await lab.version(observer) == (0, 0)


async def _endless(lab: Lab, stalls: bool, kill: Callable[[], None]) -> AsyncIterator[bytes]:
    yield lab.copy_bytes(ROWS)[:-2]
    kill()
    if stalls:
        await asyncio.Event().wait()
    while True:
        yield bytes(1 << 20)


def _terminate(url: str, pid: int) -> None:
    with psycopg.connect(url, autocommit=True) as killer:
        killer.execute("SELECT pg_terminate_backend(%s)", (pid,))


_AT_COMMIT = """
CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN {action}; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER at_commit AFTER UPDATE ON penstock.datasets DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION at_commit()
"""

_COMMITTING = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory')"


async def _merge_until_commit(lab: Lab, observer: asyncpg.Connection[asyncpg.Record], action: str) -> Load:
    """A load whose COMMIT does that, and whose outcome its caller cannot know."""
    async with lab.connect("penstock") as owner:
        await owner.execute(_AT_COMMIT.format(action=action))
    connection = await asyncpg.connect(lab.url, server_settings={"role": "penstock_ingest"})
    load = await lab.start(connection, lab.version_of())
    async with stage(connection, lab.dataset, chunks(lab.copy_bytes(ROWS))) as staged:
        merge = asyncio.ensure_future(merging.merge(connection, lab.dataset, load, staged, ReadCounts(), NEVER_BULK))
        deadline = time.monotonic() + 20
        while not merge.done() and not await observer.fetchval(_COMMITTING):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        connection.terminate()
        with pytest.raises(Unavailable) as unknown:
            await merge
    assert unknown.value.reason == "COMMIT_UNKNOWN"
    return load


async def test_commit_that_went_through_after_its_client_was_gone_is_found_in_the_ledger(lab: Lab) -> None:
    async with lab.connect() as observer:
        action = "PERFORM pg_advisory_xact_lock(1); PERFORM pg_sleep(0.5)"
        load = await _merge_until_commit(lab, observer, action)
        committed = await loads.committed_load(observer, load)
        assert committed is not None
        assert (committed.state, committed.rows_inserted) == (LoadState.SUCCEEDED, len(ROWS))
        assert await lab.version(observer) == (1, len(ROWS))


async def test_commit_that_failed_after_its_client_was_gone_is_not_in_the_ledger(lab: Lab) -> None:
    async with lab.connect() as observer:
        load = await _merge_until_commit(lab, observer, "PERFORM pg_terminate_backend(pg_backend_pid())")
        assert await loads.committed_load(observer, load) is None
        assert await lab.version(observer) == (0, 0)


async def test_failing_source_leaves_the_connection_usable(lab: Lab) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield lab.copy_bytes(ROWS)[:100]
        raise ValueError("the object is torn")

    async with lab.connect() as connection:
        with pytest.raises(ValueError, match="torn"):
            async with stage(connection, lab.dataset, broken()):
                raise AssertionError("staged")
        assert (await lab.load(connection, ROWS)).rows_inserted == len(ROWS)


async def test_cancelled_copy_leaves_the_connection_usable(lab: Lab) -> None:
    begun = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield lab.copy_bytes(ROWS)[:100]
        begun.set()
        await asyncio.Event().wait()

    async def attempt(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        async with stage(connection, lab.dataset, stalled()):
            raise AssertionError("staged")

    async with lab.connect() as connection:
        task = asyncio.create_task(attempt(connection))
        await asyncio.wait_for(begun.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await lab.load(connection, ROWS)).rows_inserted == len(ROWS)


async def test_load_swept_as_abandoned_never_commits(lab: Lab) -> None:
    async with lab.connect() as connection, lab.connect() as sweeper:
        load = await lab.start(connection, lab.version_of())
        async with stage(connection, lab.dataset, chunks(lab.copy_bytes(ROWS))) as staged:
            assert await loads.sweep_abandoned(sweeper, 0.0) == [load.id]
            with pytest.raises(Aborted) as aborted:
                await merging.merge(connection, lab.dataset, load, staged, ReadCounts(), NEVER_BULK)
        assert aborted.value.reason == "LOAD_NOT_RUNNING"
        assert await lab.version(connection) == (0, 0)
        assert (await loads.get_load(connection, load.id)).state is LoadState.ABANDONED


async def test_contract_that_differs_from_the_database_is_refused(lab: Lab) -> None:
    async with lab.connect() as connection:
        other = replace(lab, dataset=replace(lab.dataset, fingerprint="other"))
        with pytest.raises(FailedPrecondition) as refused:
            await other.load(connection, ROWS)
        assert refused.value.reason == "CONTRACT_MISMATCH"
        assert await lab.version(connection) == (0, 0)


async def test_dataset_that_was_never_migrated_is_refused(lab: Lab) -> None:
    async with lab.connect() as connection:
        other = replace(lab, dataset=replace(lab.dataset, name="nowhere"))
        with pytest.raises(FailedPrecondition) as refused:
            await other.load(connection, ROWS)
        assert refused.value.reason == "DATASET_NOT_MIGRATED"


async def test_commit_announces_the_version_and_a_refusal_does_not(lab: Lab) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    version = lab.version_of()
    async with lab.connect() as listener, lab.connect() as connection:

        def hear(*notice: object) -> None:
            heard.put_nowait(str(notice[3]))

        await listener.add_listener("penstock_version", hear)
        epoch = await connection.fetchval("SELECT epoch FROM penstock.datasets WHERE name = 'things'")
        for _ in range(2):
            await lab.load(connection, ROWS[:1], version)
        await lab.load(connection, ROWS[:1], lab.version_of())
        announced = [await asyncio.wait_for(heard.get(), 10) for _ in range(2)]
        await listener.remove_listener("penstock_version", hear)
    assert announced == [f"things {epoch} 1", f"things {epoch} 2"]


async def test_the_first_load_after_a_promotion_or_a_restore_begins_an_epoch(lab: Lab) -> None:
    asked = "SELECT epoch, history, version FROM penstock.datasets WHERE name = 'things'"
    async with lab.connect() as connection, lab.connect("penstock_migrate") as owner:
        await lab.load(connection, ROWS[:1], lab.version_of())
        first = await connection.fetchrow(asked)
        # As the dump of another cluster leaves it, or the time before a promotion.
        await owner.execute("UPDATE penstock.datasets SET history = '7/00000001'")
        await lab.load(connection, ROWS[:2], lab.version_of())
        second = await connection.fetchrow(asked)
        await lab.load(connection, ROWS[:3], lab.version_of())
        third = await connection.fetchrow(asked)
    assert first is not None
    assert second is not None
    assert third is not None
    assert second["epoch"] not in (first["epoch"], None)
    assert third["epoch"] == second["epoch"]
    assert [row["version"] for row in (first, second, third)] == [1, 2, 3]
    assert first["history"] == second["history"] == third["history"]
