"""Partitions of a stream: every row in exactly one of them, whoever serves them, however often they are cut."""

from __future__ import annotations

import random
from typing import Any

import grpc
import psycopg
import pytest

from ingest_service.merge.bounds import PARTS, set_key_bounds
from query_service.parameters import EVERYTHING
from query_service.partitions import MOST_PARTITIONS
from query_service.plan import Planner
from tests.integration.query.lab import COMPLETE, Client, Lab, details, readings, reasons, refused, serving
from tests.integration.query.test_query_plans import AFTER, explain, session  # noqa: F401  a fixture

ROWS = 4000


async def cut_into_parts(lab: Lab, percent: float = 100.0) -> None:
    """What a load does when the dataset has grown."""
    await lab.execute(set_key_bounds(lab.dataset), "readings", True, percent)


def mixed(lab: Lab, count: int) -> list[Any]:
    """Rows with every column of the key in play, in key order."""
    chance = random.Random(count)
    rows = {
        (site, day, grade, manual, chance.choice([number, 2**64 - 1 - number])): f"l{number % 3}"
        for number in range(count)
        for site in [chance.choice(["", "A", "é", "z"])]
        for day in [chance.choice(["0001-01-01", "2024-02-29", "9999-12-31"])]
        for grade in [chance.choice([-5, 0, 2])]
        for manual in [chance.random() < 0.5]
    }
    return [
        lab.reading(site=key[0], day=key[1], grade=key[2], manual=key[3], serial=key[4], label=label)
        for key, label in sorted(rows.items(), key=lambda row: (row[0][0].encode(), *row[0][1:]))
    ]


async def part(client: Client, count: int, index: int, **asked: Any) -> list[Any]:
    messages = await client.stream(partition={"count": count, "index": index}, **asked)
    assert messages[-1].status.end_reason == COMPLETE
    rows = [record for message in messages for record in message.readings]
    assert messages[-1].status.rows == len(rows)
    return rows


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
async def test_partitions_in_order_are_the_whole_stream_and_about_equal(lab: Lab, client: Client, count: int) -> None:
    rows = mixed(lab, ROWS)
    await lab.insert(rows)
    await cut_into_parts(lab)
    parts = [await part(client, count, index) for index in range(count)]
    assert [record for rows_of_part in parts for record in rows_of_part] == rows
    share = len(rows) / count
    assert all(share * 0.7 <= len(rows_of_part) <= share * 1.4 for rows_of_part in parts)


@pytest.mark.parametrize("known", [0, 1, 2])
async def test_more_partitions_than_bounds_leave_some_empty(lab: Lab, client: Client, known: int) -> None:
    """Without bounds, as before the first load of a release that has them, one partition has all rows."""
    rows = readings(lab, 300)
    await lab.insert(rows[: known + 1])
    if known:
        await cut_into_parts(lab)
    await lab.insert(rows[known + 1 :])
    assert [row for index in range(5) for row in await part(client, 5, index)] == rows


async def test_two_servers_cut_alike_while_rows_are_deleted_and_statistics_change(lab: Lab) -> None:
    rows = readings(lab, ROWS)
    await lab.insert(rows)
    await cut_into_parts(lab, 30.0)
    got: list[Any] = []
    async with serving(lab) as one, serving(lab) as other:
        for index in range(4):
            got += await part((one, other)[index % 2], 4, index)
            await lab.execute("ANALYZE data.readings")
    assert got == rows


@pytest.mark.parametrize("asked", [{"label": "l1"}, {"grade": [0, 2]}, {"filter": 'label != "l1" AND manual = true'}])
async def test_partitions_of_a_filtered_stream_are_the_filtered_stream(
    lab: Lab, client: Client, asked: dict[str, Any]
) -> None:
    await lab.insert(mixed(lab, ROWS))
    await cut_into_parts(lab)
    whole = [record for message in await client.stream(**asked) for record in message.readings]
    assert whole
    assert [row for index in range(5) for row in await part(client, 5, index, **asked)] == whole


@pytest.mark.parametrize("count", [1, 3, 64])
async def test_a_partition_resumed_at_random_keeps_its_range_though_the_bounds_have_changed(
    lab: Lab, client: Client, count: int
) -> None:
    chance = random.Random(count)
    rows = readings(lab, 600)
    await lab.insert(rows)
    await cut_into_parts(lab)
    tokens = {}
    got: dict[int, list[Any]] = {}
    for index in range(count):  # all begin at one version
        messages = await client.stream(partition={"count": count, "index": index}, max_rows=chance.randrange(1, 9))
        got[index] = [record for message in messages for record in message.readings]
        tokens[index] = messages[-1].resume_token
    await lab.execute("UPDATE penstock.datasets SET key_bounds = NULL")
    for index in range(count):
        done = False
        while not done:
            messages = await client.stream(
                partition={"count": count, "index": index}, resume_token=tokens[index], max_rows=chance.randrange(1, 90)
            )
            got[index] += [record for message in messages for record in message.readings]
            tokens[index], done = messages[-1].resume_token, messages[-1].status.end_reason == COMPLETE
    assert [record for index in range(count) for record in got[index]] == rows


async def test_a_token_of_another_partition_is_refused(lab: Lab, client: Client) -> None:
    await lab.insert(readings(lab, 10))
    (message,) = await client.stream(partition={"count": 2, "index": 1})
    for other in ({"count": 2, "index": 0}, {"count": 3, "index": 1}, None):
        call = client.open_stream(partition=other, resume_token=message.resume_token)
        error = await refused(call.read(), grpc.StatusCode.INVALID_ARGUMENT)
        assert reasons(error) == ["RESUME_TOKEN_INVALID"]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"partition": {}}, "partition.count"),
        ({"partition": {"count": MOST_PARTITIONS + 1}}, "partition.count"),
        ({"partition": {"count": 2, "index": 2}}, "partition.index"),
        ({"partition": {"count": 2, "index": -1}}, "partition.index"),
        ({"partition": {"count": 2}, "order_by": "label"}, "order_by"),
    ],
)
async def test_a_partition_that_makes_no_sense_is_refused(client: Client, asked: dict[str, Any], field: str) -> None:
    error = await refused(client.open_stream(**asked).read(), grpc.StatusCode.INVALID_ARGUMENT)
    assert [v.field for v in details(error, "BadRequest")[0].field_violations] == [field]


async def test_a_partition_reads_its_range_of_the_index_only(
    lab: Lab,
    session: psycopg.Connection[Any],  # noqa: F811
) -> None:
    await lab.insert(readings(lab, ROWS))
    planner, end = Planner(lab.dataset), tuple(AFTER[name] for name in lab.dataset.key)
    key = "ROW(site, day, grade, manual, serial)"
    first = explain(session, planner.plan(EVERYTHING, (), (end, end)).page, None)
    assert f"Index Cond: (({key} > ROW(" in first
    assert f"({key} <= ROW(" in first.split("Index Cond:")[2]
    later = explain(session, planner.plan(EVERYTHING, end, (end, end)).page, None)
    assert later.count(f"{key} > ROW(") == 1
    assert "Filter" not in later


async def test_a_sample_of_the_rows_gives_parts_of_about_one_size(lab: Lab, client: Client) -> None:
    await lab.insert(readings(lab, 30_000))
    await cut_into_parts(lab, 20.0)
    sizes = [len(await part(client, 3, index)) for index in range(3)]
    assert sum(sizes) == 30_000
    assert all(6_000 <= size <= 15_000 for size in sizes), sizes
    async with lab.session() as connection:
        assert await connection.fetchval("SELECT jsonb_array_length(key_bounds) FROM penstock.datasets") == PARTS - 1
