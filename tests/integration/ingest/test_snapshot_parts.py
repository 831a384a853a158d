"""A snapshot in parts: one load, one version, one whole truth, and only once the folder's marker is there."""

from __future__ import annotations

import asyncio
import gzip
import io
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pyarrow as pa
import pytest
from penstock.ingest.v1 import ingest_pb2
from pyarrow import parquet

from ingest_service import parts
from ingest_service.consumer import Outcome
from ingest_service.events import EventKind
from ingest_service.ledger import listing
from ingest_service.ledger.records import Load, LoadState, LoadTrigger, StoredReject
from ingest_service.load import LoadLimits
from ingest_service.merge.merge import MergeLimits
from ingest_service.messages import load_message, reject_line
from ingest_service.objects import ListedObject, ObjectChanged, OpenObject
from ingest_service.populate import check_request
from ingest_service.routing import Role
from ingest_service.sources import Source, Sources
from shared.errors import FailedPrecondition, InvalidRequest, Unavailable
from tests.integration.ingest.rig import GatedStore, Rig, by_key, csv_of, many
from tests.integration.ingest.test_handler import event, handler
from tests.integration.ingest.test_snapshot_files import HEADER, lab, snapshot_template, snapshots
from tests.integration.merge.lab import Thing

__all__ = ["lab", "snapshot_template", "snapshots"]

MARKER = "things/1/_SUCCESS"
FIRST, SECOND = "things/1/part-1.csv", "things/1/part-2.csv"


@pytest.fixture
def rig(rig: Rig) -> Rig:
    """The rig, with a source whose objects come as parts."""
    return replace(
        rig, sources=Sources(sources=(Source(dataset="things", bucket=rig.bucket, prefix="things/", parts=True),))
    )


async def arrive(rig: Rig, key: str = MARKER, sequencer: str = "05") -> Outcome:
    return await handler(rig)(event(rig, key=key, sequencer=sequencer))


async def last_load(rig: Rig, key: str = MARKER) -> Load:
    return (await rig.ledger(key))[-1]


async def rejects_of(rig: Rig, load: Load) -> list[StoredReject]:
    async with rig.lab.connect() as connection:
        return await listing.list_rejects(connection, load.id, limit=10)


async def put_folder(rig: Rig, folder: str, *contents: list[Thing]) -> None:
    for number, things in enumerate(contents, 1):
        await rig.put(things, f"{folder}part-{number}.csv")
    await rig.put_text("", f"{folder}_SUCCESS")


async def populate(rig: Rig, **fields: Any) -> list[Load]:
    message = ingest_pb2.PopulateRequest(dataset="things", **fields)
    request = check_request(message, uuid.uuid4(), {"things": rig.lab.dataset}, rig.sources)
    async with rig.populates() as populates:
        return [load async for one in populates.follow(request) if isinstance(one, list) for load in one]


class Meddling(GatedStore):
    """A bucket in which something is done right after each of the first listings of a folder."""

    def __init__(self, rig: Rig, times: int, act: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(rig.s3, rig.store._policy)
        self.left, self.act = times, act

    async def list_prefix(self, bucket: str, prefix: str) -> AsyncIterator[ListedObject]:
        found = [one async for one in super().list_prefix(bucket, prefix)]
        if self.left:
            self.left -= 1
            await self.act()
        for one in found:
            yield one


class Counting(GatedStore):
    """Counts parts that are open, and holds up the opening of the first one until the second one is being opened."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig.s3, rig.store._policy)
        self.asked: list[str] = []
        self.open = self.most = 0
        self.second = asyncio.Event()

    @asynccontextmanager
    async def open_object(self, bucket: str, key: str, **kwargs: Any) -> AsyncIterator[OpenObject]:
        self.asked.append(key)
        if len(self.asked) == 2:
            self.second.set()
        await self.second.wait()
        async with super().open_object(bucket, key, **kwargs) as opened:
            self.open += 1
            self.most = max(self.most, self.open)
            try:
                yield opened
            finally:
                self.open -= 1


async def test_small_parts_are_opened_before_it_is_their_turn(rig: Rig) -> None:
    await put_folder(rig, "things/1/", *(many(20)[n : n + 2] for n in range(0, 20, 2)))
    store = Counting(rig)
    async with asyncio.timeout(20):
        await arrive(replace(rig, store=store))
    assert await rig.table() == by_key(many(20))
    assert store.asked == sorted(store.asked)
    assert (store.open, 2 <= store.most <= parts.OPEN_AHEAD) == (0, True)


async def test_large_parts_are_opened_one_after_the_other(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "OPEN_AHEAD_BYTES", 1)
    await put_folder(rig, "things/1/", many(2), many(4))
    store = Counting(rig)
    store.second.set()
    await arrive(replace(rig, store=store))
    assert (len(await rig.table()), store.most) == (4, 1)


@pytest.mark.parametrize("bad", [0, 2])
async def test_parts_that_were_opened_in_vain_are_closed(rig: Rig, bad: int) -> None:
    texts = [csv_of(many(2))] * 4
    texts[bad] = "no key\n1\n"
    for number, text in enumerate(texts):
        await rig.put_text(text, f"things/1/part-{number}.csv")
    await rig.put_text("", MARKER)
    store = Counting(rig)
    store.second.set()
    await arrive(replace(rig, store=store))
    assert ((await last_load(rig)).reason, store.open) == ("MISSING_KEY_COLUMN", 0)


async def test_parts_wait_for_their_marker_and_are_then_one_load(rig: Rig) -> None:
    things = many(9)
    await put_folder(rig, "things/1/", things[:4], things[4:])
    for key in (FIRST, SECOND):
        assert (await arrive(rig, key)).terminal
        assert (await last_load(rig, key)).reason == "PART_OF_SNAPSHOT"
    assert await rig.table() == {}
    assert (await arrive(rig)).terminal
    load = await last_load(rig)
    assert (load.state, load.read.rows_read, load.rows_inserted, load.dataset_version) == (LoadState.SUCCEEDED, 9, 9, 1)
    told = load_message(load).parts
    assert (told.count, told.size_bytes) == (2, len(csv_of(things[:4]) + csv_of(things[4:])))
    assert load.read.bytes_read == told.size_bytes
    assert await rig.table() == by_key(things)


async def test_event_of_a_part_that_comes_after_the_marker_loads_nothing_twice(rig: Rig) -> None:
    await put_folder(rig, "things/1/", many(2), many(4))
    await arrive(rig)
    assert (await arrive(rig, SECOND)).terminal
    assert (await rig.version(), len(await rig.table())) == (1, 4)


async def test_parts_may_be_of_any_format_and_in_folders_and_what_is_hidden_is_none(rig: Rig) -> None:
    a, b, c, d = many(4)
    table = pa.table({"owner": [c.owner], "number": [c.number], "label": [c.label], "rank": [c.rank]})
    parquet.write_table(table, written := io.BytesIO())
    row = {"owner": b.owner, "number": b.number, "label": b.label, "rank": b.rank}
    for name, body in {
        "a.csv": csv_of([a]).encode(),
        "b.ndjson.gz": gzip.compress(orjson.dumps(row)),
        "deep/er/c.parquet": written.getvalue(),
        "_temporary/d.csv": csv_of([d]).encode(),
        "empty/": b"",
        "empty.csv": b"",
        "_SUCCESS": b"",
    }.items():
        await rig.s3.put_object(Bucket=rig.bucket, Key=f"things/1/{name}", Body=body)
    await arrive(rig)
    assert (await last_load(rig)).state is LoadState.SUCCEEDED
    assert await rig.table() == by_key([a, b, c])


async def test_marker_delivered_again_is_a_no_op_as_long_as_the_parts_are_the_same(rig: Rig) -> None:
    await put_folder(rig, "things/1/", many(3))
    for _ in range(3):
        await arrive(rig)
    assert [load.state for load in await rig.ledger(MARKER)] == [LoadState.SUCCEEDED] + [LoadState.ALREADY_APPLIED] * 2
    await rig.put(many(4, "new"), SECOND)
    await arrive(rig)
    assert await rig.table() == by_key(many(4, "new"))
    assert await rig.version() == 2


async def test_overwritten_part_counts_when_the_marker_comes_anew(rig: Rig) -> None:
    await put_folder(rig, "things/1/", many(4, "old"))
    await arrive(rig)
    await rig.put(many(3, "new"), FIRST)
    await arrive(rig, FIRST, "06")
    assert await rig.table() == by_key(many(4, "old"))
    await rig.put_text("", MARKER)
    await arrive(rig, sequencer="07")
    load = await last_load(rig)
    assert (load.rows_updated, load.rows_deleted) == (3, 1)
    assert await rig.table() == by_key(many(3, "new"))


@pytest.mark.parametrize("bulk_rows", [1, 20_000], ids=["bulk", "plain"])
async def test_key_in_several_parts_has_the_row_of_the_last_part(rig: Rig, bulk_rows: int) -> None:
    """Lines count anew in every part: the third line of the first part comes before the first one of the second."""
    await put_folder(rig, "things/1/", many(5, "first"), many(2, "second"), many(1, "third"))
    await arrive(replace(rig, limits=LoadLimits(merge=MergeLimits(bulk_rows=bulk_rows))))
    load = await last_load(rig)
    assert (load.read.rows_read, load.read.rows_duplicate, load.rows_inserted) == (8, 3, 5)
    labels = [thing.label for _, thing in sorted((await rig.table()).items())]
    assert labels == ["third", "second", "first", "first", "first"]


@pytest.mark.parametrize("overwrites", [True, False])
async def test_part_that_changes_between_listing_and_reading_has_its_folder_listed_again(
    rig: Rig, overwrites: bool
) -> None:
    await put_folder(rig, "things/1/", many(2), many(4))

    async def change() -> None:
        if overwrites:
            await rig.put(many(3, "new"), SECOND)
        else:
            await rig.s3.delete_object(Bucket=rig.bucket, Key=SECOND)

    meddled = replace(rig, store=Meddling(rig, 1, change))
    await arrive(meddled)
    load = await last_load(rig)
    assert (load.state, load.read.rows_read) == (LoadState.SUCCEEDED, 5 if overwrites else 2)
    assert await rig.table() == by_key(many(3, "new") if overwrites else many(2))


async def test_marker_that_is_written_while_its_folder_is_listed_has_it_listed_again(rig: Rig) -> None:
    """What was listed may be half of what was and half of what is to be."""
    await put_folder(rig, "things/1/", many(2))

    async def go_on() -> None:
        await rig.put(many(4), SECOND)
        await rig.put_text("a marker with content has another etag", MARKER)

    await arrive(replace(rig, store=Meddling(rig, 1, go_on)))
    load = await last_load(rig)
    assert (load.object.size_bytes, load.read.rows_read) == (38, 6)
    assert await rig.table() == by_key(many(4))


async def test_marker_that_goes_while_its_folder_is_listed_changes_nothing(rig: Rig) -> None:
    await put_folder(rig, "things/1/", many(2))

    async def take_away() -> None:
        await rig.s3.delete_object(Bucket=rig.bucket, Key=MARKER)

    await arrive(replace(rig, store=Meddling(rig, 1, take_away)))
    load = await last_load(rig)
    assert (load.state, load.reason) == (LoadState.SUPERSEDED, "OBJECT_GONE")
    assert await rig.version() == 0


async def test_folder_that_never_stands_still_fails_for_now_and_changes_nothing(rig: Rig) -> None:
    await put_folder(rig, "things/1/", many(2), many(2))
    numbers = iter(range(100))

    async def change() -> None:
        await rig.put(many(3, str(next(numbers))), SECOND)

    meddled = replace(rig, store=Meddling(rig, 100, change))
    job = rig.job(MARKER, source=rig.sources.sources[0], role=Role.MARKER)
    with pytest.raises(Unavailable) as failed:
        await meddled.loader().load(job)
    assert failed.value.reason == "OBJECT_KEEPS_CHANGING"
    assert not isinstance(failed.value, ObjectChanged)
    assert await rig.version() == 0
    assert not (await arrive(meddled)).terminal


async def test_folder_of_too_many_objects_fails_with_what_to_do(rig: Rig) -> None:
    await put_folder(rig, "things/1/", many(1), many(2))
    rig.store._policy = replace(rig.store._policy, max_listed=2)
    assert (await arrive(rig)).terminal
    load = await last_load(rig)
    assert (load.state, load.reason) == (LoadState.FAILED, "PREFIX_TOO_LARGE")


async def test_older_folder_is_superseded_and_not_even_read(rig: Rig) -> None:
    await put_folder(rig, "things/1/", many(3, "old"))
    await put_folder(rig, "things/2/", many(3, "new"))
    await arrive(rig, "things/2/_SUCCESS")
    await arrive(rig)
    load = await last_load(rig)
    assert (load.state, load.reason, load.read.rows_read) == (LoadState.SUPERSEDED, "NEWER_SNAPSHOT_APPLIED", 0)
    assert await rig.table() == by_key(many(3, "new"))


async def test_newer_folder_replaces_all_parts_of_the_older(rig: Rig) -> None:
    await put_folder(rig, "things/1/", many(2, "old"), many(4, "old"))
    await arrive(rig)
    await put_folder(rig, "things/2/", many(3, "new"))
    await arrive(rig, "things/2/_SUCCESS")
    assert await rig.table() == by_key(many(3, "new"))


async def test_bad_rows_count_over_all_parts_and_name_theirs(rig: Rig) -> None:
    await rig.put(many(4), FIRST)
    await rig.put_text(HEADER + "x,1,good,1\nx,2,bad,many\nx,3,worse,more\n", SECOND)
    await rig.put_text("", MARKER)
    await arrive(rig)
    load = await last_load(rig)
    assert (load.state, load.read.rows_read, load.read.rows_rejected) == (LoadState.SUCCEEDED, 7, 2)
    rejects = await rejects_of(rig, load)
    assert [(one.part, one.line, one.field) for one in rejects] == [(SECOND, 3, "rank"), (SECOND, 4, "rank")]
    line = orjson.loads(reject_line(load, rejects[0]))
    assert (line["object"], line["line"]) == (f"s3://{rig.bucket}/{SECOND}", 3)


async def test_too_many_bad_rows_of_all_parts_fail_the_load_and_the_message_names_the_first(rig: Rig) -> None:
    await rig.put(many(1), FIRST)
    await rig.put_text(HEADER + "x,1,bad,many\nx,2,bad,many\n", SECOND)
    await rig.put_text("", MARKER)
    await arrive(rig)
    load = await last_load(rig)
    assert (load.state, load.reason, await rig.version()) == (LoadState.FAILED, "TOO_MANY_REJECTS", 0)
    assert f"2 of 3 rows rejected, 50 % allowed; the first one: s3://{rig.bucket}/{SECOND}, line 2" in load.message


@pytest.mark.parametrize(
    ("key", "body", "reason"),
    [
        ("things/1/part-2.csv.gz", gzip.compress(b"owner,number\na,1\n", mtime=0)[:-4], "TRUNCATED_GZIP"),
        ("things/1/part-2.txt", b"owner,number\n", "UNSUPPORTED_FORMAT"),
        ("things/1/part-2.parquet", b"PAR1 no more", "CORRUPT_PARQUET"),
        ("things/1/part-2.csv", b"number,label\n1,x\n", "MISSING_KEY_COLUMN"),
    ],
)
async def test_part_that_cannot_be_read_fails_the_whole_and_is_named(
    rig: Rig, key: str, body: bytes, reason: str
) -> None:
    await rig.put(many(2), FIRST)
    await rig.s3.put_object(Bucket=rig.bucket, Key=key, Body=body)
    await rig.put_text("", MARKER)
    assert (await arrive(rig)).terminal
    load = await last_load(rig)
    assert (load.state, load.reason, await rig.version()) == (LoadState.FAILED, reason, 0)
    assert f"s3://{rig.bucket}/{key}: " in load.message


@pytest.mark.parametrize("left", [[], [FIRST]], ids=["empty", "one-part"])
async def test_folder_that_lost_its_parts_fails_and_wipes_nothing(rig: Rig, left: list[str]) -> None:
    await put_folder(rig, "things/1/", many(2), many(8))
    await arrive(rig)
    for key in {FIRST, SECOND}.difference(left):
        await rig.s3.delete_object(Bucket=rig.bucket, Key=key)
        assert (await handler(rig)(event(rig, EventKind.REMOVED, key, "06"))).terminal
    await rig.put_text("", MARKER)
    await arrive(rig, sequencer="07")
    load = await last_load(rig)
    assert (load.state, load.reason) == (LoadState.FAILED, "SNAPSHOT_TOO_SMALL")
    assert await rig.table() == by_key(many(8))


async def test_removal_of_parts_and_marker_keeps_the_rows(rig: Rig) -> None:
    await put_folder(rig, "things/1/", many(3))
    await arrive(rig)
    for number, key in enumerate((FIRST, MARKER)):
        await rig.s3.delete_object(Bucket=rig.bucket, Key=key)
        assert (await handler(rig)(event(rig, EventKind.REMOVED, key, f"0{6 + number}"))).terminal
    assert (await arrive(rig)).terminal
    assert (await rig.version(), len(await rig.table())) == (1, 3)


async def test_folder_that_is_written_again_from_nothing_is_loaded(rig: Rig) -> None:
    """As Spark overwrites: marker and parts are deleted, new parts come under other names, and the marker at last."""
    await put_folder(rig, "things/1/", many(3, "old"))
    await arrive(rig)
    for key in (MARKER, FIRST):
        await rig.s3.delete_object(Bucket=rig.bucket, Key=key)
        await handler(rig)(event(rig, EventKind.REMOVED, key, "06"))
    await rig.put(many(2, "new"), SECOND)
    await arrive(rig, SECOND, "07")
    assert await rig.table() == by_key(many(3, "old"))
    await rig.put_text("", MARKER)
    await arrive(rig, sequencer="08")
    assert await rig.table() == by_key(many(2, "new"))


async def test_populate_of_a_prefix_loads_the_newest_folder_that_has_its_marker(rig: Rig) -> None:
    await put_folder(rig, "things/1/", many(2, "old"))
    await put_folder(rig, "things/2/", many(3, "new"))
    await rig.put(many(4, "unfinished"), "things/3/part-1.csv")
    (load,) = await populate(rig, prefix=f"s3://{rig.bucket}/things/")
    assert (load.state, load.object.key) == (LoadState.SUCCEEDED, "things/2/_SUCCESS")
    assert await rig.table() == by_key(many(3, "new"))


async def test_populate_of_a_prefix_without_any_marker_says_so(rig: Rig) -> None:
    await rig.put(many(2), FIRST)
    with pytest.raises(FailedPrecondition, match="_SUCCESS") as refused:
        await populate(rig, prefix=f"s3://{rig.bucket}/things/1/")
    assert refused.value.reason == "SNAPSHOT_NOT_COMPLETE"


async def test_populate_of_a_marker_loads_its_folder_and_of_a_part_is_refused(rig: Rig) -> None:
    await put_folder(rig, "things/1/", many(2))
    (load,) = await populate(rig, uri=f"s3://{rig.bucket}/{MARKER}")
    assert (load.state, load.trigger, load.rows_inserted) == (LoadState.SUCCEEDED, LoadTrigger.POPULATE, 2)
    for key in (FIRST, "things/1/_metadata"):
        with pytest.raises(InvalidRequest, match="name the _SUCCESS of its folder") as refused:
            await populate(rig, uri=f"s3://{rig.bucket}/{key}")
        assert refused.value.reason == "PART_OF_SNAPSHOT"


async def test_event_of_an_older_marker_loads_the_folder_as_it_is_and_the_later_one_nothing(rig: Rig) -> None:
    """The parts that were there with the older marker are not to be had any more."""
    await rig.s3.put_bucket_versioning(Bucket=rig.bucket, VersioningConfiguration={"Status": "Enabled"})
    versions = []
    for label in ("old", "new"):
        await rig.put(many(3, label), FIRST)
        versions.append(await rig.put_text(label, MARKER))
    for number in (0, 1, 0):
        told = replace(event(rig, key=MARKER, sequencer=f"0{5 + number}"), version_id=versions[number])
        assert (await handler(rig)(told)).terminal
    assert await rig.table() == by_key(many(3, "new"))
    loads = await rig.ledger(MARKER)
    assert [(load.state, load.reason) for load in loads] == [
        (LoadState.SUCCEEDED, ""),
        (LoadState.ALREADY_APPLIED, "VERSION_ALREADY_APPLIED"),
        (LoadState.SUPERSEDED, "NEWER_VERSION_APPLIED"),
    ]
    assert {load.object.version_id for load in loads} == {versions[1]}
