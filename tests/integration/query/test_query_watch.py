"""Watch against a real Postgres and a real gRPC server: whoever folds its messages has the table."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest

from query_service import watch as watching
from query_service.settings import QueryLimits
from shared.settings import RpcSettings
from tests.integration.query.lab import Client, Lab, details, frame, readings, reasons, refused, serving, typed_value

QUICK = QueryLimits(heartbeat_s=0.05)


class Fold:
    """The rows as a caller of Watch comes to know them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.rows: dict[tuple[Any, ...], Any] = {}
        self.token = b""
        self.versions: list[int] = []

    def apply(self, message: Any) -> None:
        for record in message.deleted:
            self.rows.pop(self.key(record), None)
        self.rows |= {self.key(record): record for record in message.readings}
        self.token = message.resume_token
        self.versions.append(message.dataset_version)

    def key(self, record: Any) -> tuple[Any, ...]:
        return tuple(typed_value(column, record) for column in self.lab.dataset.key_columns)

    async def follow(self, watch: Any, version: int) -> None:
        """Applies messages until they make up that version."""
        while True:
            message = await watch.read()
            self.apply(message)
            if message.dataset_version >= version:
                return


async def load(lab: Lab, upserts: Sequence[Any] = (), deletes: Sequence[Any] = ()) -> None:
    """Changes rows as a load does: in one transaction under the dataset's lock, with tombstones and a new version."""
    keys = lab.dataset.key
    names = [*(column.name for column in lab.dataset.columns), "_wire", "_object", "_version"]
    same = " AND ".join(f"{name} = ${n}" for n, name in enumerate(keys, 1))
    async with lab.session() as session, session.transaction():
        version = 1 + await session.fetchval("SELECT version FROM penstock.datasets WHERE name = 'readings' FOR UPDATE")
        for record in [*deletes, *upserts]:
            key = [typed_value(column, record) for column in lab.dataset.key_columns]
            await session.execute(f"DELETE FROM data.readings WHERE {same}", *key)
            if record in deletes:
                places = ", ".join(f"${n}" for n in range(1, len(keys) + 2))
                columns = ", ".join([*keys, "_version"])
                await session.execute(
                    f"INSERT INTO data.readings__deleted ({columns}) VALUES ({places})", *key, version
                )
        rows = [
            (
                *(typed_value(column, record) for column in lab.dataset.columns),
                frame(record.SerializeToString()),
                1,
                version,
            )
            for record in upserts
        ]
        await session.copy_records_to_table("readings", schema_name="data", records=rows, columns=names)
        await session.execute("UPDATE penstock.datasets SET version = $1 WHERE name = 'readings'", version)
        await session.execute("SELECT pg_notify('penstock_version', 'readings')")


async def table(lab: Lab, fold: Fold) -> dict[tuple[Any, ...], Any]:
    async with lab.session() as session:
        wires = await session.fetch("SELECT _wire FROM data.readings")
    page = lab.response_class("ListReadings").FromString(b"".join(row["_wire"] for row in wires))
    return {fold.key(record): record for record in page.readings}


@asynccontextmanager
async def running(call: Any) -> AsyncIterator[Any]:
    try:
        yield call
    finally:
        call.cancel()


async def test_without_a_version_a_watch_begins_now(lab: Lab, client: Client) -> None:
    rows = readings(lab, 3)
    await load(lab, rows)
    async with running(client.open_watch()) as watch:
        first = await watch.read()
        assert (len(first.readings), len(first.deleted), first.dataset_version) == (0, 0, 1)
        changed = lab.reading(site="A", day="2024-05-01", serial=1, label="new")
        await load(lab, [changed], deletes=[rows[2]])
        news = await watch.read()
        assert list(news.readings) == [changed]
        assert [record.serial for record in news.deleted] == [2]
        assert news.deleted[0].label == ""
        assert news.dataset_version == 2


async def test_from_the_beginning_a_watch_tells_every_row(lab: Lab, client: Client) -> None:
    rows = readings(lab, 3000, payload=b"x" * 1000)
    await load(lab, rows[:2000])
    await load(lab, rows[2000:])
    fold = Fold(lab)
    async with running(client.open_watch(after_version=0)) as watch:
        await fold.follow(watch, 2)
    assert list(fold.rows.values()) == rows
    assert [version for version in fold.versions if version] == [2]


async def test_a_stream_goes_over_into_a_watch_at_its_version(lab: Lab, client: Client) -> None:
    rows = readings(lab, 10)
    await load(lab, rows)
    fold = Fold(lab)
    messages = await client.stream()
    fold.rows = {fold.key(record): record for message in messages for record in message.readings}
    await load(lab, deletes=rows[:3])
    await load(lab, [lab.reading(site="B", day="2024-05-01")])
    status = messages[0].status
    async with running(client.open_watch(after_version=status.version, epoch=status.epoch)) as watch:
        await fold.follow(watch, 3)
    assert fold.rows == await table(lab, fold)


@pytest.mark.parametrize("most", [1, 3, 1000])
async def test_changes_folded_equal_the_table_wherever_the_watch_is_cut(
    lab: Lab, client: Client, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Small pages, so that windows of many versions, parts of one version and cuts within them all occur."""
    chance = random.Random(most)
    monkeypatch.setattr(watching, "MOST_DELETED", most)
    monkeypatch.setattr(watching, "FIRST_ROWS", most)
    monkeypatch.setattr(watching, "rows_after", lambda _: most)
    pool = readings(lab, 12)
    fold = Fold(lab)
    for _ in range(25):
        for _ in range(chance.randrange(4)):
            present = list((await table(lab, fold)).values())
            deletes = chance.sample(present, chance.randrange(len(present) + 1))
            upserts = [record for record in chance.sample(pool, 6) if record not in deletes]
            for record in upserts:
                record.label = f"l{chance.randrange(5)}"
            deleted_keys = {fold.key(record) for record in deletes}
            await load(lab, [r for r in upserts if fold.key(r) not in deleted_keys], deletes)
        asked = {"resume_token": fold.token} if fold.token else {"after_version": 0}
        async with running(client.open_watch(**asked)) as watch:
            for _ in range(chance.randrange(1, 4)):
                fold.apply(await watch.read())
                if fold.versions[-1]:
                    break
    async with lab.session() as session:
        version = await session.fetchval("SELECT version FROM penstock.datasets")
    async with running(client.open_watch(resume_token=fold.token)) as watch:
        await fold.follow(watch, version)
    assert fold.rows == await table(lab, fold)


async def test_loads_that_commit_while_a_watch_reads_leave_no_gap(lab: Lab, client: Client) -> None:
    fold, loads = Fold(lab), 30
    rows = readings(lab, 40)

    async def change() -> None:
        chance = random.Random(7)
        for number in range(loads):
            gone = chance.sample(rows, 5)
            come = [
                lab.reading(site="A", day="2024-05-01", serial=n, label=f"{number}")
                for n in chance.sample(range(40), 9)
            ]
            gone = [record for record in gone if record.serial not in {one.serial for one in come}]
            await load(lab, come, gone)

    async with running(client.open_watch(after_version=0)) as watch, asyncio.TaskGroup() as group:
        group.create_task(change())
        await fold.follow(watch, loads)
    assert fold.rows == await table(lab, fold)
    told = [version for version in fold.versions if version]
    assert told == sorted(told)


async def test_heartbeats_carry_a_token_and_hold_no_connection(lab: Lab) -> None:
    async with serving(lab, limits=QUICK, pool_size=3) as client:
        calls = [client.open_watch() for _ in range(8)]
        for _ in range(3):
            beats = [await call.read() for call in calls]
            assert all(beat.resume_token and not beat.readings and not beat.deleted for beat in beats)
        assert len(await client.list_all()) == 0
        for call in calls:
            call.cancel()


async def test_a_mask_leaves_the_deleted_keys_alone(lab: Lab, client: Client) -> None:
    rows = readings(lab, 2)
    await load(lab, rows)
    async with running(client.open_watch(after_version=1, read_mask={"paths": ["label"]})) as watch:
        await watch.read()
        await load(lab, [lab.reading(site="C", day="2024-05-01", label="x")], rows[:1])
        news = await watch.read()
    assert list(news.readings) == [lab.dataset.message_class(label="x")]
    assert news.deleted[0].site == "A"


async def test_deletions_that_are_forgotten_are_out_of_range(lab: Lab, client: Client) -> None:
    rows = readings(lab, 3)
    await load(lab, rows)
    async with running(client.open_watch()) as watch:
        token = (await watch.read()).resume_token
    await load(lab, deletes=rows[:1])
    await lab.execute("UPDATE penstock.datasets SET deleted_horizon = 2")
    for asked in ({"resume_token": token}, {"after_version": 1}):
        error = await refused(client.open_watch(**asked).read(), grpc.StatusCode.OUT_OF_RANGE)
        assert reasons(error) == ["CHANGES_FORGOTTEN"]
        assert "Stream" in str(error.details())
    async with running(client.open_watch(after_version=2)) as watch:
        assert (await watch.read()).dataset_version == 2


async def test_another_epoch_ends_the_watch(lab: Lab) -> None:
    async with serving(lab, limits=QUICK) as client:
        watch = client.open_watch()
        token = (await watch.read()).resume_token
        await lab.execute("UPDATE penstock.datasets SET epoch = gen_random_uuid()")

        async def until_the_end() -> None:
            while await watch.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
                pass

        assert reasons(await refused(until_the_end(), grpc.StatusCode.ABORTED)) == ["EPOCH_CHANGED"]
        call = client.open_watch(resume_token=token)
        assert reasons(await refused(call.read(), grpc.StatusCode.ABORTED)) == ["EPOCH_CHANGED"]


async def test_a_stopping_server_sends_watches_away_and_does_not_wait_for_them(lab: Lab) -> None:
    patient = RpcSettings(listen="127.0.0.1:0", probe_listen="127.0.0.1:0", drain_s=60.0)
    async with asyncio.timeout(20), AsyncExitStack() as channels:
        async with serving(lab, rpc=patient) as client:
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{client.server.port}")
            watch = replace(client, channel=await channels.enter_async_context(channel)).open_watch()
            await watch.read()
        assert reasons(await refused(watch.read(), grpc.StatusCode.UNAVAILABLE)) == ["WATCH_ENDED"]


async def test_a_watch_has_an_end_and_says_to_call_again(lab: Lab) -> None:
    async with serving(lab, limits=QueryLimits(watch_max_age_s=0.2)) as client:
        watch = client.open_watch()
        await watch.read()
        error = await refused(watch.read(), grpc.StatusCode.UNAVAILABLE)
        assert reasons(error) == ["WATCH_ENDED"]
        assert details(error, "RetryInfo")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"after_version": -1}, "after_version"),
        ({"epoch": "nonsense"}, "epoch"),
        ({"resume_token": b"QUJD"}, "resume_token"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(client: Client, asked: dict[str, Any], field: str) -> None:
    error = await refused(client.open_watch(**asked).read(), grpc.StatusCode.INVALID_ARGUMENT)
    assert [v.field for v in details(error, "BadRequest")[0].field_violations] == [field]
