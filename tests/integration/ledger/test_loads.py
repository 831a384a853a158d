"""Every attempt has one row and one final state, and a lost commit is answered from the ledger."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from ingest_service.ledger import loads
from ingest_service.ledger.connection import storable
from ingest_service.ledger.records import LoadPhase, LoadState, LoadTrigger, ReadCounts
from shared.errors import Aborted, NotFound, Unavailable
from tests.integration.merge.lab import Lab, Thing

READ = ReadCounts(
    bytes_read=10, rows_read=4, rows_rejected=3, rows_duplicate=2, keys_unreadable=1, unknown_columns=("x", "y")
)


async def test_load_comes_back_as_it_was_started(lab: Lab) -> None:
    version = lab.version_of(version_id="v1", sequencer="0A")
    request = uuid.uuid4()
    async with lab.connect() as connection:
        load = await lab.start(
            connection, version, LoadTrigger.EVENT, request_id=request, force=True, validate_only=True, trace_id="ab"
        )
        assert await loads.get_load(connection, load.id) == load
    assert (load.object, load.trigger, load.state, load.phase) == (
        version,
        LoadTrigger.EVENT,
        LoadState.RUNNING,
        LoadPhase.STAGING,
    )
    assert (load.request_id, load.force, load.validate_only, load.trace_id) == (request, True, True, "ab")


async def test_unknown_load_is_not_found(lab: Lab) -> None:
    async with lab.connect() as connection:
        with pytest.raises(NotFound) as missing:
            await loads.get_load(connection, uuid.uuid4())
    assert missing.value.reason == "LOAD_NOT_FOUND"


@pytest.mark.parametrize("state", [s for s in LoadState if s is not LoadState.RUNNING])
async def test_failed_load_keeps_its_counts_and_the_current_version(lab: Lab, state: LoadState) -> None:
    async with lab.connect() as connection:
        await lab.load(connection, [Thing(owner="o", number=1)])
        load = await lab.start(connection, lab.version_of())
        ended = await loads.finish(connection, load.id, state, reason="WHY", message="line\x003 \ud800", read=READ)
        assert ended == await loads.get_load(connection, load.id)
    assert (ended.state, ended.reason, ended.message) == (state, "WHY", storable("line\x003 \ud800"))
    assert (ended.read, ended.dataset_version, ended.phase) == (READ, 1, LoadPhase.DONE)
    assert ended.ended_at is not None
    assert ended.ended_at >= ended.created_at


async def test_final_state_is_never_changed(lab: Lab) -> None:
    async with lab.connect() as connection:
        load = await lab.start(connection, lab.version_of())
        first = await loads.finish(connection, load.id, LoadState.SKIPPED, reason="EMPTY", message="", read=READ)
        again = await loads.finish(connection, load.id, LoadState.FAILED, reason="LATE", message="", read=ReadCounts())
        assert again == first
        assert not await loads.heartbeat(connection, load.id, LoadPhase.STAGING, READ)
        assert await loads.sweep_abandoned(connection, 0.0) == []
        with pytest.raises(Aborted):
            await loads.retarget(connection, load.id, lab.version_of())


async def test_heartbeat_shows_progress(lab: Lab) -> None:
    async with lab.connect() as connection:
        load = await lab.start(connection, lab.version_of())
        assert await loads.heartbeat(connection, load.id, LoadPhase.MERGING, READ)
        now = await loads.get_load(connection, load.id)
    assert (now.phase, now.read) == (LoadPhase.MERGING, ReadCounts(bytes_read=10, rows_read=4, rows_rejected=3))
    assert now.heartbeat_at is not None
    assert load.heartbeat_at is not None
    assert now.heartbeat_at > load.heartbeat_at


async def test_load_that_reads_another_version_says_so(lab: Lab) -> None:
    async with lab.connect() as connection:
        load = await lab.start(connection, lab.version_of(sequencer="0A"))
        newer = lab.version_of(version_id="v2")
        moved = await loads.retarget(connection, load.id, newer)
    assert moved.object == newer
    assert moved.id == load.id


async def test_only_loads_without_a_sign_of_life_are_abandoned(lab: Lab) -> None:
    version = lab.version_of()
    async with lab.connect() as connection:
        dead = await lab.start(connection, version)
        await connection.execute("UPDATE penstock.loads SET heartbeat_at = now() - interval '5 minutes'")
        alive = await lab.start(connection, version)
        assert await loads.sweep_abandoned(connection) == [dead.id]
        assert (await loads.get_load(connection, dead.id)).reason == "OWNER_VANISHED"
        assert (await loads.get_load(connection, alive.id)).state is LoadState.RUNNING


async def test_load_whose_commit_is_under_way_is_not_abandoned(lab: Lab) -> None:
    async with lab.connect() as committing, lab.connect() as sweeper:
        load = await lab.start(committing, lab.version_of())
        async with committing.transaction():
            await committing.execute("UPDATE penstock.loads SET state = 'SUCCEEDED' WHERE id = $1", load.id)
            assert await loads.sweep_abandoned(sweeper, 0.0) == []


async def test_committed_load_answers_after_a_lost_connection(lab: Lab) -> None:
    async with lab.connect() as connection:
        result = await lab.load(connection, [Thing(owner="o", number=1)])
        done_id = await connection.fetchval("SELECT id FROM penstock.loads")
        done = await loads.get_load(connection, done_id)
        running = await lab.start(connection, lab.version_of())
        assert await loads.committed_load(connection, done) == done
        assert await loads.committed_load(connection, running) is None
    assert (done.state, done.dataset_version) == (result.state, result.dataset_version)


async def test_lost_connection_is_unavailable(lab: Lab) -> None:
    async with lab.connect() as connection:
        await connection.close()
        with pytest.raises(Unavailable):
            await loads.get_load(connection, uuid.uuid4())


async def test_applied_load_has_the_counts_of_reading_and_merging(lab: Lab) -> None:
    async with lab.connect() as connection:
        await lab.load(connection, [Thing(owner="o", number=n) for n in (1, 2, 3, 3)])
        load = await loads.get_load(connection, await connection.fetchval("SELECT id FROM penstock.loads"))
    assert (load.rows_inserted, load.rows_updated, load.rows_unchanged, load.rows_deleted) == (3, 0, 0, 0)
    assert load.read == replace(ReadCounts(), rows_duplicate=1)
    assert (load.state, load.dataset_version) == (LoadState.SUCCEEDED, 1)
