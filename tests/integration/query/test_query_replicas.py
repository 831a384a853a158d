"""Reads from a real streaming replica: used while it is well, never for a version or an epoch that it has not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from opentelemetry import trace

from ingest_service.ledger import datasets
from query_service.app import opened_replicas, opened_server, query_pool, versions_pool
from query_service.database import Database
from query_service.settings import QueryLimits, QuerySettings, ReplicaSettings, read_settings
from query_service.versions import Versions
from shared.errors import ConfigError
from shared.local.postgres import EmbeddedPostgres
from shared.settings import DatabaseSettings, RpcSettings
from tests.conftest import new_database
from tests.e2e.running_stack import eventually
from tests.integration.query.lab import Client, Lab, details, migrated_lab, readings, reasons, refused, serving
from tests.integration.query.standby import Standby
from tests.integration.query.test_query_stream import read_rest, rows_of
from tests.integration.query.test_query_versions import COMMIT

PATIENT_S = 3600.0
DELAY = "4s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A primary and a replica that follows it."""

    primary: EmbeddedPostgres
    standby: Standby
    template: Lab

    @contextmanager
    def lab(self) -> Iterator[Lab]:
        """A database of its own on both, with ten rows at version 1."""
        with new_database(self.primary, self.template.database) as url:
            yield Lab(url=url, contracts=self.template.contracts)

    def replica_url(self, lab: Lab) -> str:
        return self.standby.url(lab.database)


@contextmanager
def started(directory: Path) -> Iterator[Pair]:
    with ExitStack() as parts:
        primary = parts.enter_context(EmbeddedPostgres(directory / "primary", durable=False, ephemeral=True))
        template = parts.enter_context(migrated_lab(primary, directory / "lab"))
        standby = Standby(primary, directory / "standby")
        parts.callback(standby.destroy)
        parts.callback(standby.stop)
        standby.start()
        yield Pair(primary=primary, standby=standby, template=template)


@pytest.fixture(scope="module")
def shared_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with started(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


@pytest.fixture
def pair(shared_pair: Pair) -> Iterator[Pair]:
    """One that other tests use too: it must be left as it was."""
    shared_pair.standby.give_way_after(DELAY)
    yield shared_pair
    shared_pair.standby.follow()


@pytest.fixture
def own_pair(tmp_path: Path) -> Iterator[Pair]:
    """One that may be killed or promoted."""
    with started(tmp_path) as pair:
        yield pair


@pytest.fixture
async def lab(pair: Pair) -> AsyncIterator[Lab]:
    with pair.lab() as lab:
        await fill(pair, lab)
        yield lab


async def fill(pair: Pair, lab: Lab, count: int = 10, **fields: Any) -> None:
    await lab.insert(readings(lab, count, **fields))
    await lab.execute("SELECT pg_notify('penstock_version', '')")
    pair.standby.catch_up()


@asynccontextmanager
async def replicated(
    pair: Pair, lab: Lab, caplog: pytest.LogCaptureFixture, *, max_lag_s: float = PATIENT_S, **options: Any
) -> AsyncIterator[Client]:
    """A server that uses its replica."""
    replicas = ReplicaSettings(urls=(pair.replica_url(lab),), max_lag_s=max_lag_s)
    with caplog.at_level(logging.INFO, "query_service.replicas"):
        async with serving(lab, replicas=replicas, **options) as client:
            await until_said(caplog, "is used")
            yield client


async def until_said(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Returns once the newest line about the replica ends so or holds it, and forgets it."""
    async with asyncio.timeout(30):
        while not any(text in r.message for r in caplog.records if r.name == "query_service.replicas"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    caplog.clear()


async def commit(lab: Lab) -> None:
    """A version that takes the first row away."""
    await lab.execute("DELETE FROM data.readings WHERE serial = (SELECT min(serial) FROM data.readings)")
    await lab.execute(COMMIT)


async def version_of(client: Client, **fields: Any) -> int:
    return int((await client.call("ListReadings", **fields)).dataset_version)


async def test_a_replica_answers_with_its_own_version_and_the_primary_where_a_newer_one_is_demanded(
    pair: Pair, lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    async with replicated(pair, lab, caplog) as client:
        pair.standby.hold()
        await commit(lab)
        page = await client.call("ListReadings")
        assert (page.dataset_version, len(page.readings)) == (1, 10)
        page = await client.call("ListReadings", at_least_version=2)
        assert (page.dataset_version, len(page.readings)) == (2, 9)
        key = {"site": "A", "day": page.readings[0].day}
        assert (await client.call("GetReading", **key)).serial == 0
        await refused(client.call("GetReading", at_least_version=2, **key), grpc.StatusCode.NOT_FOUND)
        counts = [await client.call("CountReadings", label="l0", at_least_version=version) for version in (0, 2)]
        assert [(c.dataset_version, c.count) for c in counts] == [(1, 4), (2, 3)]
        batches = [
            await client.call("BatchGetReadings", requests=[key], at_least_version=version) for version in (0, 2)
        ]
        assert [len(batch.readings) for batch in batches] == [1, 0]
        pair.standby.follow()
        pair.standby.catch_up()
        assert await version_of(client) == 2


async def test_streams_read_the_replica_and_the_primary_where_a_newer_version_is_demanded(
    pair: Pair, lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    async with replicated(pair, lab, caplog) as client:
        pair.standby.hold()
        await commit(lab)
        messages = await client.stream()
        assert (messages[0].status.version, len(rows_of(messages))) == (1, 10)
        messages = await client.stream(at_least_version=2)
        assert (messages[0].status.version, len(rows_of(messages))) == (2, 9)
        (resumed,) = await client.stream(resume_token=messages[-1].resume_token)
        assert (resumed.status.version, resumed.status.snapshot_changed) == (2, False)


async def test_pages_never_go_back_to_an_older_version(pair: Pair, lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    async with replicated(pair, lab, caplog) as client:
        pair.standby.hold()
        await commit(lab)
        first = await client.call("ListReadings", page_size=3, at_least_version=2)
        second = await client.call(
            "ListReadings", page_size=3, page_token=first.next_page_token, require_same_version=True
        )
        assert (first.dataset_version, second.dataset_version) == (2, 2)


@pytest.mark.slow
async def test_a_replica_that_lacks_a_version_for_too_long_is_left_out_until_it_has_it(
    pair: Pair, lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    async with replicated(pair, lab, caplog, max_lag_s=0.5) as client:
        pair.standby.hold()
        await commit(lab)
        await until_said(caplog, "is behind in readings")
        assert await version_of(client) == 2
        pair.standby.follow()
        await until_said(caplog, "is used")
        assert await version_of(client) == 2


async def test_a_replica_of_another_epoch_is_not_used(pair: Pair, lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    async with replicated(pair, lab, caplog) as client:
        pair.standby.hold()
        await lab.execute("UPDATE penstock.datasets SET epoch = gen_random_uuid(), version = 1")
        await lab.execute("SELECT pg_notify('penstock_version', '')")
        await until_said(caplog, "is behind in readings")
        await lab.execute("DELETE FROM data.readings")
        assert not (await client.call("ListReadings")).readings


@pytest.mark.slow
async def test_a_killed_replica_costs_no_call_and_is_used_again_once_it_is_back(
    own_pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    with own_pair.lab() as lab:
        await fill(own_pair, lab)
        async with replicated(own_pair, lab, caplog) as client:
            stop = asyncio.Event()

            async def read_on() -> int:
                count = 0
                while not stop.is_set():
                    assert await version_of(client) == 1
                    count += 1
                return count

            async with asyncio.TaskGroup() as group:
                readers = [group.create_task(read_on()) for _ in range(4)]
                await version_of(client)
                own_pair.standby.kill()
                await until_said(caplog, "is not used")
                await version_of(client)
                own_pair.standby.start()
                await until_said(caplog, "is used")
                stop.set()
            assert all(reader.result() for reader in readers)


@pytest.mark.slow
async def test_a_stream_that_gives_way_to_replication_is_told_to_resume_and_does(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    with pair.lab() as lab:
        await fill(pair, lab, 20_000, payload=b"x" * 1000)
        async with replicated(pair, lab, caplog) as client:
            stream = client.open_stream(timeout_s=60)
            messages = [await stream.read()]
            pair.standby.give_way_after("0")
            async with conflict(lab):
                await asyncio.to_thread(wait_until_idle, pair)  # its client takes nothing meanwhile
            error = await refused(read_rest(stream, messages), grpc.StatusCode.UNAVAILABLE)
            assert details(error, "RetryInfo")
            assert reasons(error)[0] in ("REPLICA_CONFLICT", "DATABASE_UNREACHABLE")
            rest = await client.stream(resume_token=messages[-1].resume_token)
            assert len(rows_of(messages)) + len(rows_of(rest)) == 20_000


async def test_a_statement_that_gives_way_to_replication_is_asked_once_more_on_the_primary(
    pair: Pair, lab: Lab
) -> None:
    settings = QuerySettings(
        contracts=None,
        rpc=RpcSettings(),
        database=DatabaseSettings(url=lab.url),
        limits=QueryLimits(),
        replicas=ReplicaSettings(urls=(pair.replica_url(lab),), max_lag_s=PATIENT_S),
    )
    slow_on_a_replica = """
        SELECT d.epoch, d.version, pg_is_in_recovery() AS replica, count(r.serial) AS rows,
            pg_sleep(CASE WHEN pg_is_in_recovery() THEN 30 ELSE 0 END)::text AS slept
        FROM penstock.datasets AS d, data.readings AS r WHERE d.name = $1 GROUP BY 1, 2
    """
    async with database_of(settings) as database:
        call = asyncio.create_task(database.fetch_row(lab.dataset, slow_on_a_replica, ("readings",), 60, at_least=0))
        await until_sleeping(pair)
        pair.standby.give_way_after("0")
        async with conflict(lab):
            await until_sleeping(pair, count=0)
        row = await call
        assert (row["replica"], row["version"], row["rows"]) == (False, 1, 10)


@asynccontextmanager
async def conflict(lab: Lab) -> AsyncIterator[None]:
    """Has the replica replay what nothing that reads the table there can stand."""
    async with lab.session() as blocker, blocker.transaction():
        await blocker.execute("LOCK TABLE data.readings")
        await blocker.execute("SELECT pg_current_xact_id(), pg_switch_wal()")
        yield


async def until_sleeping(pair: Pair, count: int = 1) -> None:
    asked = f"SELECT {count} = (SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep')"
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(pair.standby.ask, asked):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def database_of(settings: QuerySettings) -> AsyncIterator[Database]:
    """The database as handlers have it, its replica in use."""
    async with (
        query_pool(settings) as pool,
        versions_pool(settings) as listening,
        opened_server(settings, pool) as primary,
    ):
        versions = Versions(listening)
        hearing = asyncio.create_task(versions.run())
        await versions.changed("readings", beyond=-1, timeout_s=20)
        async with opened_replicas(settings, versions) as replicas, asyncio.timeout(60):
            while replicas.choose("readings") is None:  # noqa: ASYNC110  a look tells nobody
                await asyncio.sleep(0.01)
            tracer = trace.get_tracer(__name__)
            yield Database(primary, replicas=replicas, versions=versions, tracer=tracer, limits=settings.limits)
        hearing.cancel()
        await asyncio.wait([hearing])


@pytest.mark.slow
async def test_a_stream_on_a_replica_ends_before_it_would_have_to_give_way(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    with pair.lab() as lab:
        await fill(pair, lab, 20_000, payload=b"x" * 1000)
        async with replicated(pair, lab, caplog) as client:
            stream = client.open_stream(timeout_s=60)
            messages = [await stream.read()]
            await asyncio.to_thread(wait_until_idle, pair)  # its client takes nothing meanwhile
            error = await refused(read_rest(stream, messages), grpc.StatusCode.UNAVAILABLE)
            assert "at most 2 s" in str(error.details())
            rest = await client.stream(resume_token=messages[-1].resume_token)
            assert len(rows_of(messages)) + len(rows_of(rest)) == 20_000


def wait_until_idle(pair: Pair) -> None:
    eventually(
        lambda: pair.standby.ask(
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'penstock-query' "
            "AND state <> 'idle' AND backend_xmin IS NOT NULL)"
        )
    )


async def load(url: str, lab: Lab) -> None:
    """What a load does at its end: the next version."""
    connection = await asyncpg.connect(url, server_settings={"role": "penstock_ingest"})
    try:
        async with datasets.locked(connection, lab.dataset, datasets.LockTimes()) as held:
            await datasets.bump(connection, held, row_delta=0)
    finally:
        await connection.close()


@pytest.mark.slow
async def test_versions_that_were_lost_with_a_primary_come_again_in_another_epoch(own_pair: Pair) -> None:
    with own_pair.lab() as lab:
        await fill(own_pair, lab)
        await load(lab.url, lab)
        own_pair.standby.catch_up()
        own_pair.standby.cut_off()
        await load(lab.url, lab)
        async with serving(lab) as client:
            (lost,) = await client.stream()
        own_pair.standby.promote()
        promoted = replace(lab, url=own_pair.replica_url(lab))
        async with serving(promoted) as client:
            (before,) = await client.stream(resume_token=lost.resume_token)
            await load(promoted.url, lab)
            (after,) = await client.stream(resume_token=lost.resume_token, at_least_version=lost.status.version)
            stream = client.open_stream(resume_token=lost.resume_token, require_same_version=True)
            await refused(stream.read(), grpc.StatusCode.ABORTED)
        # What the replica had is what it was; what was lost and what came instead are not the same.
        assert (before.status.epoch, before.status.version) == (lost.status.epoch, lost.status.version - 1)
        assert (after.status.version, after.status.snapshot_changed) == (lost.status.version, True)
        assert after.status.epoch != lost.status.epoch


def test_replica_urls_are_checked_and_never_shown() -> None:
    environ = {"PENSTOCK_TLS": "off", "PENSTOCK_DATABASE_URL": "postgresql://u:p@h/d"}
    good = {"PENSTOCK_REPLICA_URLS": "postgresql://u:secret@a/d, postgresql://u:secret@b/d"}
    settings = read_settings(environ | good)
    assert settings.replicas.urls == ("postgresql://u:secret@a/d", "postgresql://u:secret@b/d")
    assert "secret" not in repr(settings)
    with pytest.raises(ConfigError, match="PENSTOCK_REPLICA_URLS, number 2,") as caught:
        read_settings(environ | {"PENSTOCK_REPLICA_URLS": "postgresql://u:secret@a/d,secret"})
    assert "secret" not in caught.value.message
