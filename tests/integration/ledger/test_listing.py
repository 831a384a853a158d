"""The ledger is read page by page over an index, newest first, each load once."""

from __future__ import annotations

import uuid
from itertools import product

import asyncpg
import pytest

from ingest_service.ledger import listing, loads, rejects
from ingest_service.ledger.listing import LoadCursor, LoadFilter
from ingest_service.ledger.records import Load, LoadState, ReadCounts
from ingest_service.rejects import Reject
from tests.integration.merge.lab import Lab

STATES = (LoadState.RUNNING, LoadState.FAILED, LoadState.SKIPPED)


async def _some_loads(lab: Lab, connection: asyncpg.Connection[asyncpg.Record]) -> list[Load]:
    """Newest first; pairs share their created_at, as loads of one transaction do."""
    made = []
    for state, key in product(STATES, ("things/a.csv", "things/b.csv", "things/a.csv")):
        async with connection.transaction():
            for _ in range(2):
                load = await lab.start(connection, lab.version_of(key))
                if state is not LoadState.RUNNING:
                    load = await loads.finish(connection, load.id, state, reason="R", message="", read=ReadCounts())
                made.append(load)
    return sorted(made, key=lambda load: (load.created_at, load.id), reverse=True)


async def _walk(connection: asyncpg.Connection[asyncpg.Record], wanted: LoadFilter, size: int) -> list[Load]:
    found: list[Load] = []
    after: LoadCursor | None = None
    while page := await listing.list_loads(connection, wanted, after=after, limit=size):
        assert len(page) <= size
        found += page
        after = LoadCursor(created_at=page[-1].created_at, id=page[-1].id)
    return found


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_pages_are_the_filtered_ledger_newest_first(lab: Lab, size: int) -> None:
    async with lab.connect() as connection:
        every = await _some_loads(lab, connection)
        for states, dataset, key in product(
            ((), (LoadState.FAILED,), STATES[:2] * 2), (None, "things", "none"), (None, "things/a.csv")
        ):
            wanted = LoadFilter(dataset=dataset, states=states, bucket="lab" if key else None, key=key)
            expected = [
                load
                for load in every
                if (not states or load.state in states)
                and (dataset is None or load.dataset == dataset)
                and (key is None or load.object.key == key)
            ]
            assert await _walk(connection, wanted, size) == expected


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (LoadFilter(), "loads_by_time"),
        (LoadFilter(dataset="things"), "loads_by_dataset"),
        (LoadFilter(bucket="lab", key="things/a.csv"), "loads_by_object"),
        (LoadFilter(states=(LoadState.FAILED, LoadState.RUNNING)), "loads_by_state"),
    ],
)
async def test_every_filter_is_backed_by_an_index_in_time_order(lab: Lab, wanted: LoadFilter, index: str) -> None:
    async with lab.connect() as connection:
        load = (await _some_loads(lab, connection))[3]
        after = LoadCursor(created_at=load.created_at, id=load.id)
        statement, values = listing.loads_statement(wanted, after, 5)
        async with connection.transaction():
            await connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
            plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement}", *values))
    assert f"Index Scan Backward using {index}" in plan, plan


async def test_loads_of_a_request_come_in_the_order_they_started(lab: Lab) -> None:
    request = uuid.uuid4()
    async with lab.connect() as connection:
        mine = [await lab.start(connection, lab.version_of(), request_id=request) for _ in range(3)]
        await lab.start(connection, lab.version_of(), request_id=uuid.uuid4())
        await loads.finish(connection, mine[1].id, LoadState.SKIPPED, reason="X", message="", read=ReadCounts())
        assert await listing.running_loads_of_request(connection, request) == [mine[0], mine[2]]
        ids = await listing.load_ids_of_request(connection, request)
        assert ids == [load.id for load in mine]
        assert [load.id for load in await listing.loads_by_id(connection, ids[::-1])] == ids


def _reject(line: int) -> Reject:
    return Reject(line=line, field="na\x00me", rule="type.int32", message="'\x00' \ud800", raw=b"\x00raw")


async def test_rejects_are_paged_in_file_order_and_survive_any_text(lab: Lab) -> None:
    async with lab.connect() as connection:
        load = await lab.start(connection, lab.version_of())
        await rejects.write_rejects(connection, load.id, [_reject(line) for line in (9, 2, 5, 2)])
        await loads.finish(connection, load.id, LoadState.FAILED, reason="REJECTS", message="", read=ReadCounts())
        first = await listing.list_rejects(connection, load.id, limit=3)
        rest = await listing.list_rejects(connection, load.id, after_ordinal=first[-1].ordinal, limit=3)
    assert [(r.ordinal, r.line) for r in [*first, *rest]] == [(0, 2), (1, 2), (2, 5), (3, 9)]
    assert (first[0].field, first[0].message, first[0].raw) == ("na\ufffdme", "'\ufffd' ?", b"\x00raw")


def test_reject_log_keeps_the_first() -> None:
    log = rejects.RejectLog(limit=3)
    for block in ([_reject(1), _reject(2)], [_reject(3), _reject(4)], [_reject(5)]):
        log.add(block)
    assert [reject.line for reject in log.kept] == [1, 2, 3]
