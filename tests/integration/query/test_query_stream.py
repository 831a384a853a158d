"""Stream against a real Postgres and a real gRPC server: one snapshot, resumable at every message."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from query_service import plan
from query_service.settings import QueryLimits
from query_service.stream import FIRST_ROWS
from tests.integration.query.lab import (
    COMPLETE,
    IDLE,
    MAX_ROWS,
    Client,
    Lab,
    details,
    locked,
    readings,
    reasons,
    refused,
    serving,
    until,
)

KIB = 1024


def rows_of(messages: list[Any]) -> list[Any]:
    return [record for message in messages for record in message.readings]


async def read_rest(stream: Any, messages: list[Any]) -> None:
    while (message := await stream.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
        messages.append(message)


async def test_a_stream_frames_its_rows_with_status_and_tokens(lab: Lab, client: Client) -> None:
    rows = readings(lab, 3000, payload=b"x" * 100)
    await lab.insert(rows)
    messages = await client.stream()
    assert rows_of(messages) == rows
    first, last = messages[0].status, messages[-1].status
    assert (first.version, first.end_reason, first.snapshot_changed) == (1, 0, False)
    assert (last.version, last.end_reason, last.rows) == (1, COMPLETE, 3000)
    assert (first.epoch, first.query_id) == (last.epoch, last.query_id)
    assert all(message.resume_token for message in messages)
    assert not any(message.HasField("status") for message in messages[1:-1])


async def test_an_empty_stream_is_one_message_that_says_complete(client: Client) -> None:
    (message,) = await client.stream()
    assert (message.status.end_reason, message.status.rows, message.status.version) == (COMPLETE, 0, 0)
    assert message.resume_token


async def test_a_stream_that_ends_with_a_full_page_is_complete(lab: Lab, client: Client) -> None:
    rows = readings(lab, FIRST_ROWS)
    await lab.insert(rows)
    messages = await client.stream()
    assert rows_of(messages) == rows
    assert (messages[-1].status.end_reason, messages[-1].status.rows) == (COMPLETE, FIRST_ROWS)
    (again,) = await client.stream(resume_token=messages[-1].resume_token, require_same_version=True)
    assert (len(again.readings), again.status.end_reason) == (0, COMPLETE)


async def test_messages_between_first_and_last_have_64_kib_to_1_mib(lab: Lab, client: Client) -> None:
    rows = readings(lab, 12_000, payload=b"x" * 150) + [
        lab.reading(site="B", day="2024-05-01", serial=n, payload=b"y" * 20_000) for n in range(100)
    ]
    await lab.insert(rows)
    messages = await client.stream()
    assert rows_of(messages) == rows
    sizes = [message.ByteSize() for message in messages[1:-1]]
    assert len(sizes) > 3
    assert all(64 * KIB <= size <= 1024 * KIB + 1000 for size in sizes), sizes


@pytest.mark.parametrize("cut", [0, 1, 2])
async def test_resuming_at_the_same_version_is_exact(lab: Lab, client: Client, cut: int) -> None:
    rows = readings(lab, 10_000)
    await lab.insert(rows)
    messages = await client.stream()
    resumed = await client.stream(resume_token=messages[cut].resume_token, require_same_version=True)
    assert rows_of(messages[: cut + 1]) + rows_of(resumed) == rows
    assert not resumed[0].status.snapshot_changed
    assert resumed[-1].status.rows == len(rows_of(resumed))


async def test_resuming_after_the_end_is_an_empty_complete_stream(lab: Lab, client: Client) -> None:
    await lab.insert(readings(lab, 5))
    (message,) = await client.stream()
    (again,) = await client.stream(resume_token=message.resume_token)
    assert (len(again.readings), again.status.end_reason) == (0, COMPLETE)


async def test_resuming_an_empty_stream_begins_at_the_beginning(lab: Lab, client: Client) -> None:
    (message,) = await client.stream()
    await lab.insert(readings(lab, 2))
    (resumed,) = await client.stream(resume_token=message.resume_token)
    assert len(resumed.readings) == 2
    assert resumed.status.snapshot_changed


async def test_resuming_at_a_newer_version_says_so_or_aborts(lab: Lab, client: Client) -> None:
    await lab.insert(readings(lab, 1000))
    messages = await client.stream()
    token = messages[0].resume_token
    cut = len(messages[0].readings)
    await lab.execute("DELETE FROM data.readings WHERE serial IN ($1, $2)", cut - 1, cut)
    await lab.insert([lab.reading(site="B", day="2024-05-01")])
    resumed = await client.stream(resume_token=token)
    assert [resumed[0].status.snapshot_changed, resumed[0].status.version] == [True, 2]
    assert not any(message.status.snapshot_changed for message in resumed[1:])
    assert rows_of(resumed)[0].serial == cut + 1
    assert rows_of(resumed)[-1].site == "B"
    stream = client.open_stream(resume_token=token, require_same_version=True)
    error = await refused(stream.read(), grpc.StatusCode.ABORTED)
    assert reasons(error) == ["VERSION_CHANGED"]


async def test_another_epoch_is_another_version(lab: Lab, client: Client) -> None:
    await lab.insert(readings(lab, 1))
    (message,) = await client.stream()
    await lab.execute("UPDATE penstock.datasets SET epoch = gen_random_uuid()")
    (resumed,) = await client.stream(resume_token=message.resume_token)
    assert resumed.status.snapshot_changed


async def test_a_running_stream_does_not_see_later_loads(lab: Lab, client: Client) -> None:
    rows = readings(lab, 20_000, payload=b"x" * 400)
    await lab.insert(rows)
    stream = client.open_stream()
    messages = [await stream.read()]
    await lab.execute("DELETE FROM data.readings")
    await lab.insert([lab.reading(site="Z", day="2024-05-01")])
    await read_rest(stream, messages)
    assert rows_of(messages) == rows
    assert messages[-1].status.version == 1


async def test_max_rows_ends_the_stream_and_says_why(lab: Lab, client: Client) -> None:
    await lab.insert(readings(lab, 700))
    messages = await client.stream(max_rows=600)
    assert (len(rows_of(messages)), messages[-1].status.end_reason) == (600, MAX_ROWS)
    rest = await client.stream(max_rows=100, resume_token=messages[-1].resume_token)
    assert (len(rows_of(rest)), rest[-1].status.end_reason) == (100, COMPLETE)


async def test_filters_apply_and_bind_the_token(lab: Lab, client: Client) -> None:
    await lab.insert(readings(lab, 3000))
    messages = await client.stream(label="l1")
    assert [r.serial for r in rows_of(messages)] == list(range(1, 3000, 3))
    stream = client.open_stream(label="l2", resume_token=messages[0].resume_token)
    error = await refused(stream.read(), grpc.StatusCode.INVALID_ARGUMENT)
    assert reasons(error) == ["RESUME_TOKEN_INVALID"]


@pytest.mark.parametrize("token", [b"garbage!", b"\xff\x00", b"QUJD"])
async def test_a_resume_token_that_is_none_is_refused(client: Client, token: bytes) -> None:
    error = await refused(client.open_stream(resume_token=token).read(), grpc.StatusCode.INVALID_ARGUMENT)
    assert reasons(error) == ["RESUME_TOKEN_INVALID"]


async def test_a_cancelled_stream_frees_its_connection(lab: Lab) -> None:
    await lab.insert(readings(lab, 20_000, payload=b"x" * 400))
    async with serving(lab, pool_size=3) as client:
        for _ in range(5):
            stream = client.open_stream()
            await stream.read()
            stream.cancel()
        assert len(rows_of(await client.stream())) == 20_000
        await until(lab, IDLE)


async def test_a_cancelled_call_ends_its_query(lab: Lab, client: Client) -> None:
    await lab.insert(readings(lab, 1))
    async with lab.session() as blocker, blocker.transaction():
        await blocker.execute("LOCK TABLE data.readings")
        call = asyncio.create_task(client.call("ListReadings"))
        await until(lab, locked(1))
        call.cancel()
        await until(lab, locked(0))
    assert len((await client.call("ListReadings")).readings) == 1


async def test_the_callers_deadline_ends_the_query(lab: Lab, client: Client) -> None:
    async with lab.session() as blocker, blocker.transaction():
        await blocker.execute("LOCK TABLE data.readings")
        await refused(client.open_stream(timeout_s=0.3).read(), grpc.StatusCode.DEADLINE_EXCEEDED)
        await until(lab, locked(0))


@pytest.mark.slow
async def test_a_stream_that_lives_too_long_is_cut_short_and_resumes(lab: Lab) -> None:
    rows = readings(lab, 20_000, payload=b"x" * 1000)
    await lab.insert(rows)
    async with serving(lab, limits=QueryLimits(stream_max_age_s=1.5)) as client:
        stream = client.open_stream()
        messages = [await stream.read()]
        await until(lab, IDLE)  # the client takes nothing, so the age limit is what ends it
        error = await refused(read_rest(stream, messages), grpc.StatusCode.UNAVAILABLE)
        assert reasons(error) == ["STREAM_MAX_AGE"]
        assert details(error, "RetryInfo")
        assert not messages[-1].HasField("status") or len(messages) == 1
    async with serving(lab) as client:
        rest = await client.stream(resume_token=messages[-1].resume_token)
        assert rows_of(messages) + rows_of(rest) == rows


async def test_a_draining_server_ends_streams_with_a_status_that_resumes(lab: Lab) -> None:
    rows = readings(lab, 20_000, payload=b"x" * 1000)
    await lab.insert(rows)
    async with serving(lab) as client:
        stream = client.open_stream()
        messages = [await stream.read()]
        client.server.in_flight.interrupt()
        error = await refused(read_rest(stream, messages), grpc.StatusCode.UNAVAILABLE)
        assert details(error, "RetryInfo")
        rest = await client.stream(resume_token=messages[-1].resume_token)
        assert rows_of(messages) + rows_of(rest) == rows


async def test_more_streams_than_the_pool_has_room_for_are_told_to_retry(lab: Lab) -> None:
    await lab.insert(readings(lab, 10))
    async with serving(lab, pool_size=3, limits=QueryLimits(queue_s=0.1)) as client:
        async with lab.session() as blocker, blocker.transaction():
            await blocker.execute("LOCK TABLE data.readings")  # as long as it lasts no stream comes to its end
            stream = asyncio.create_task(client.stream())
            await until(lab, locked(1))
            error = await refused(client.open_stream().read(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            assert reasons(error) == ["TOO_MANY_STREAMS"]
            assert details(error, "RetryInfo")
            page = asyncio.create_task(client.call("ListReadings", page_size=5))
            await until(lab, locked(2))
        assert len((await page).readings) == 5
        assert len(rows_of(await stream)) == 10


NOTHING = 'label != "l0" AND label != "l1" AND label != "l2"'


@pytest.mark.parametrize(("heartbeat_s", "fewest"), [(0.0, 20), (60.0, 2)])
async def test_a_long_search_without_matches_says_how_far_it_is_now_and_then(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, heartbeat_s: float, fewest: int
) -> None:
    """Each page examines 100 rows."""
    monkeypatch.setattr(plan, "EXAMINED_PER_ROW", 0)
    monkeypatch.setattr(plan, "EXAMINED_AT_LEAST", 100)
    await lab.insert([*readings(lab, 2500), lab.reading(site="Z", day="2024-05-01", label="found")])
    async with serving(lab, limits=QueryLimits(heartbeat_s=heartbeat_s)) as client:
        messages = await client.stream(filter=NOTHING)
        assert len(messages) >= fewest
        assert len(messages) <= 30 if heartbeat_s == 0 else len(messages) <= 3
        assert [record.label for record in rows_of(messages)] == ["found"]
        assert messages[0].HasField("status")
        for message in messages[1:-1]:
            assert message.resume_token
            assert not message.HasField("status")
            rest = await client.stream(filter=NOTHING, resume_token=message.resume_token)
            assert [record.label for record in rows_of(rest)] == ["found"] * (1 - len(message.readings))
        assert len({message.resume_token for message in messages[:-1]}) == len(messages) - 1


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
async def test_the_first_and_the_last_date_are_dates_like_any_other(lab: Lab, client: Client, day: str) -> None:
    rows = [lab.reading(site="A", day=day, serial=n, due=day) for n in range(3 * FIRST_ROWS)]
    await lab.insert(rows)
    assert await client.list_all(page_size=100, due=[rows[0].due]) == rows
    messages = await client.stream()
    assert rows_of(messages) == rows
    assert rows_of(await client.stream(resume_token=messages[0].resume_token)) == rows[FIRST_ROWS:]
    key = {name: getattr(rows[5], name) for name in lab.dataset.key}
    assert await client.call("GetReading", **key) == rows[5]
    assert list((await client.call("BatchGetReadings", requests=[key])).readings) == [rows[5]]
    async with lab.session() as session:
        assert await session.fetchval("SELECT DISTINCT day::text FROM data.readings") == day
