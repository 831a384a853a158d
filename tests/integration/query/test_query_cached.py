"""Cached answers: exact by version, asked for once, never mislabelled, bypassed while nobody listens."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import psycopg
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from query_service.settings import CacheSettings
from shared.local.postgres import EmbeddedPostgres
from tests.integration.query.lab import Client, Lab, locked, readings, refused, serving, until
from tests.integration.query.test_query_versions import COMMIT

MIB = 1024 * 1024
END_LISTENING = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'penstock-query-versions' AND datname = $1"""


class Meters:
    """What the cache has counted."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False)

    def _points(self, name: str) -> list[Any]:
        data: Any = self._reader.get_metrics_data()
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]

    def results(self) -> Counter[str]:
        """Calls by result."""
        points = self._points("penstock.cache.requests")
        return Counter({point.attributes["penstock.cache.result"]: point.value for point in points})

    def kept_bytes(self) -> int:
        (point,) = self._points("penstock.cache.size")
        return int(point.value)


@pytest.fixture
def meters() -> Meters:
    return Meters()


@pytest.fixture
async def cached(lab: Lab, meters: Meters) -> AsyncIterator[Client]:
    """A server with a cache, over ten rows that it has heard of."""
    await lab.insert(readings(lab, 10))
    async with serving(lab, cache=CacheSettings(max_bytes=MIB), meters=meters.provider) as client:
        await until_cached(client, meters)
        yield client


async def until_cached(client: Client, meters: Meters) -> None:
    """Returns once the server hears of versions; what is kept then is of no later use."""
    async with asyncio.timeout(20):
        while not meters.results().keys() & {"miss", "shared_hit"}:
            await client.call("ListReadings", page_size=999)


async def forget_rows(lab: Lab) -> None:
    """Takes all rows away behind the service's back: whoever still gets some gets what was kept."""
    await lab.execute("DELETE FROM data.readings")


def serials(page: Any) -> list[int]:
    return [record.serial for record in page.readings]


async def test_an_answer_is_kept_and_equal(lab: Lab, cached: Client, meters: Meters) -> None:
    first = await cached.call("ListReadings", page_size=3)
    await forget_rows(lab)
    assert await cached.call("ListReadings", page_size=3) == first
    assert serials(first) == [0, 1, 2]
    assert meters.results()["hit"] == 1
    assert meters.kept_bytes() > 0


async def test_a_get_is_kept_and_a_missing_row_is_not(lab: Lab, cached: Client) -> None:
    record = readings(lab, 11)[10]
    key = {"site": record.site, "day": record.day, "serial": record.serial}
    await refused(cached.call("GetReading", **key), grpc.StatusCode.NOT_FOUND)
    await lab.insert([record], version=1)
    assert await cached.call("GetReading", **key) == record
    await forget_rows(lab)
    assert await cached.call("GetReading", **key) == record


async def test_batches_and_counts_are_kept(lab: Lab, cached: Client, meters: Meters) -> None:
    record = readings(lab, 1)[0]
    keys = [{"site": record.site, "day": record.day, "serial": serial} for serial in (3, 99, 1)]
    batch = await cached.call("BatchGetReadings", requests=keys)
    count = await cached.call("CountReadings", label="l1")
    before = meters.results()
    await forget_rows(lab)
    assert await cached.call("BatchGetReadings", requests=keys) == batch
    assert await cached.call("CountReadings", label="l1") == count
    assert (len(batch.readings), count.count) == (2, 3)
    assert meters.results() - before == Counter(hit=2)


async def test_every_part_of_a_request_counts(lab: Lab, cached: Client) -> None:
    first = await cached.call("ListReadings", page_size=4)
    await cached.call("ListReadings", page_size=4, label=["l0"])
    second = await cached.call("ListReadings", page_size=4, page_token=first.next_page_token)
    await forget_rows(lab)
    assert serials(await cached.call("ListReadings", page_size=4, label=["l0"])) == [0, 3, 6, 9]
    again = await cached.call("ListReadings", page_size=4, page_token=first.next_page_token)
    assert (again, serials(again)) == (second, [4, 5, 6, 7])
    assert serials(await cached.call("ListReadings", page_size=5)) == []


async def test_a_request_is_the_same_however_it_is_encoded(lab: Lab, cached: Client, meters: Meters) -> None:
    padded = b"\x08\x04\x12\x00"  # page_size 4, and a page_token that is empty
    first = await cached.call("ListReadings", padded)
    before = meters.results()
    await forget_rows(lab)
    for request in (b"\x08\x04", b"\x08\x84\x80\x00", b"\x08\x09\x08\x04", padded):
        assert await cached.call("ListReadings", request) == first
    assert serials(first) == [0, 1, 2, 3]
    assert meters.results() - before == Counter(hit=4)


async def test_a_request_that_is_none_or_has_unknown_fields_is_refused_with_a_cache_too(cached: Client) -> None:
    for request in (b"\xff\xff", b"\xf8\x7f\x01"):
        await refused(cached.call("ListReadings", request), grpc.StatusCode.INVALID_ARGUMENT)


async def test_a_new_version_is_read_and_one_that_is_demanded_is_exact(lab: Lab, cached: Client) -> None:
    assert len((await cached.call("ListReadings")).readings) == 10
    for version in range(2, 12):
        await lab.execute("DELETE FROM data.readings WHERE serial = $1", version)
        await lab.execute(COMMIT)
        page = await cached.call("ListReadings", at_least_version=version)
        assert page.dataset_version == version
        assert version not in serials(page)


async def test_a_demand_that_is_met_shares_what_is_kept(cached: Client, meters: Meters) -> None:
    before = meters.results()
    pages = [await cached.call("ListReadings", at_least_version=version) for version in (0, 1, 1)]
    assert pages[0] == pages[1] == pages[2]
    assert meters.results() - before == Counter(miss=1, hit=2)


async def test_a_request_that_is_refused_is_refused_again(cached: Client) -> None:
    for _ in range(2):
        await refused(cached.call("ListReadings", page_size=-1), grpc.StatusCode.INVALID_ARGUMENT)
        await refused(cached.call("ListReadings", at_least_version=-1), grpc.StatusCode.INVALID_ARGUMENT)


async def test_nothing_kept_is_served_while_nobody_listens(
    lab: Lab, cached: Client, meters: Meters, postgres: EmbeddedPostgres
) -> None:
    await cached.call("ListReadings")
    await forget_rows(lab)
    with psycopg.connect(postgres.url(), autocommit=True) as outside:
        outside.execute(f"ALTER DATABASE {lab.database} ALLOW_CONNECTIONS false".encode())
        outside.execute(END_LISTENING.replace("$1", "%s").encode(), [lab.database])
        async with asyncio.timeout(20):
            while serials(await cached.call("ListReadings")):
                pass
        assert meters.results()["bypass"] > 0
        outside.execute(f"ALTER DATABASE {lab.database} ALLOW_CONNECTIONS true".encode())


async def test_calls_for_the_same_ask_once(lab: Lab, cached: Client, meters: Meters) -> None:
    before = meters.results()
    async with lab.session() as blocker, blocker.transaction():
        await blocker.execute("LOCK TABLE data.readings")
        calls = [asyncio.create_task(cached.call("ListReadings")) for _ in range(20)]
        await until(lab, locked(1))
        await until_running(cached, 20)
        await until(lab, locked(1))
    pages = await asyncio.gather(*calls)
    assert all(serials(page) == list(range(10)) for page in pages)
    assert meters.results() - before == Counter(miss=1, joined=19)


async def until_running(client: Client, count: int) -> None:
    async with asyncio.timeout(20):
        while len(client.server.in_flight) < count:  # noqa: ASYNC110  nothing tells when one comes in
            await asyncio.sleep(0.01)


async def test_who_waits_for_a_call_that_is_cancelled_asks_by_itself(lab: Lab, cached: Client) -> None:
    async with lab.session() as blocker, blocker.transaction():
        await blocker.execute("LOCK TABLE data.readings")
        first = asyncio.create_task(cached.call("ListReadings"))
        await until(lab, locked(1))
        second = asyncio.create_task(cached.call("ListReadings"))
        await until_running(cached, 2)
        first.cancel()
        await asyncio.wait([first])
    assert len((await second).readings) == 10


async def test_an_answer_of_another_version_than_was_heard_is_not_kept(
    lab: Lab, cached: Client, meters: Meters
) -> None:
    before = meters.kept_bytes()
    async with lab.session() as blocker:
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE data.readings")
            call = asyncio.create_task(cached.call("ListReadings"))
            await until(lab, locked(1))
            await blocker.execute("UPDATE penstock.datasets SET version = version + 1")
        page = await call
    assert page.dataset_version == 2
    assert meters.kept_bytes() == before
