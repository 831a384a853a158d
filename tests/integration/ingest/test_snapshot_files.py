"""Files of a SNAPSHOT dataset: bad rows keep what stood there, a truncated dump fails, Populate takes the newest."""

from __future__ import annotations

import uuid

import pytest

from ingest_service import pipeline
from ingest_service.events import EventKind
from ingest_service.ledger.records import LoadState, LoadTrigger
from ingest_service.load import Progress
from ingest_service.populate import PopulateRequest
from tests.integration.ingest.rig import Rig, many
from tests.integration.ingest.test_handler import event, handler
from tests.integration.merge.conftest import snapshot_template, snapshots
from tests.integration.merge.lab import Lab

__all__ = ["snapshot_template", "snapshots"]

HEADER = "owner,number,label,rank\n"


@pytest.fixture
def lab(snapshots: Lab) -> Lab:
    """The rig's dataset here: one with FILE_POLICY_SNAPSHOT and max_reject_percent 50."""
    return snapshots


async def populate(rig: Rig, prefix: str = "things/") -> None:
    request = PopulateRequest(
        request_id=uuid.uuid4(),
        dataset=rig.lab.dataset,
        bucket=rig.bucket,
        key=prefix,
        is_prefix=True,
        only_sourced=False,
        force=False,
        validate_only=False,
        trigger=LoadTrigger.POPULATE,
        wire=prefix.encode(),
    )
    async with rig.populates() as populates:
        async for _ in populates.follow(request):
            pass


async def test_rejected_row_with_a_readable_key_keeps_its_row(rig: Rig) -> None:
    await rig.put_text(HEADER + "a,1,one,1\na,2,two,2\na,3,three,3\na,4,four,4\n")
    await rig.loader().load(rig.job())
    long = "x" * 2700  # too long for the index on label: found after decoding
    await rig.put_text(HEADER + f"a,1,one,1\na,2,two,not a number\na,3,{long},3\nb,9,new,9\n", "things/b.csv")
    progress = Progress(uri="watched")
    load = await rig.loader().load(rig.job("things/b.csv"), progress)
    assert progress.reading.rejected_keys == [], "whoever watches progress holds them"
    assert (load.state, load.read.rows_rejected, load.rows_deleted, load.message) == (LoadState.SUCCEEDED, 2, 1, "")
    labels = {key: thing.label for key, thing in (await rig.table()).items()}
    assert labels == {("a", 1): "one", ("a", 2): "two", ("a", 3): "three", ("b", 9): "new"}


async def test_rejected_row_without_a_readable_key_keeps_all_rows(rig: Rig) -> None:
    await rig.put_text(HEADER + "a,1,one,1\na,2,two,2\na,3,three,3\n")
    await rig.loader().load(rig.job())
    await rig.put_text(HEADER + "a,1,uno,1\na,2,dos,2\na,no number,drei,3\n")
    load = await rig.loader().load(rig.job())
    assert (load.state, load.rows_updated, load.rows_deleted) == (LoadState.SUCCEEDED, 2, 0)
    assert load.message.startswith("nothing was deleted")
    assert len(await rig.table()) == 3


async def test_more_rejected_keys_than_memory_holds_keep_all_rows(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "KEPT_KEY_BYTES", 10)
    await rig.put_text(HEADER + "a,1,one,1\na,2,two,2\na,3,three,3\n")
    await rig.loader().load(rig.job())
    await rig.put_text(HEADER + "a,1,uno,1\na,2,dos,2\na,3,drei,bad\n")
    load = await rig.loader().load(rig.job())
    assert (load.rows_deleted, load.read.keys_unreadable) == (0, 1)
    assert load.message.startswith("nothing was deleted")


@pytest.mark.parametrize("text", [HEADER, ""], ids=["header-only", "no-bytes"])
async def test_empty_file_fails_and_wipes_nothing(rig: Rig, text: str) -> None:
    await rig.put(many(5))
    await rig.loader().load(rig.job())
    await rig.put_text(text)
    load = await rig.loader().load(rig.job())
    assert (load.state, load.reason) == (LoadState.FAILED, "SNAPSHOT_TOO_SMALL")
    assert f"s3://{rig.bucket}/things/a.csv" in load.message
    assert len(await rig.table()) == 5


async def test_removal_of_a_snapshot_keeps_its_rows(rig: Rig) -> None:
    await rig.put(many(3))
    handle = handler(rig)
    await handle(event(rig, sequencer="05"))
    await rig.s3.delete_object(Bucket=rig.bucket, Key="things/a.csv")
    assert (await handle(event(rig, EventKind.REMOVED, sequencer="06"))).terminal
    assert len(await rig.table()) == 3
    assert await rig.version() == 1


async def test_older_object_is_not_even_read(rig: Rig) -> None:
    await rig.put(many(3), "things/a.csv")
    await rig.put(many(4), "things/b.csv")
    await rig.loader().load(rig.job("things/b.csv"))
    load = await rig.loader().load(rig.job("things/a.csv"))
    assert (load.state, load.reason, load.read.rows_read) == (LoadState.SUPERSEDED, "NEWER_SNAPSHOT_APPLIED", 0)


async def test_populate_of_a_prefix_loads_the_newest_object_alone(rig: Rig) -> None:
    """All of one second, most likely: then the key decides. A folder marker is no snapshot."""
    for key in ("things/b.csv", "things/c.csv", "things/a.csv", "things/z/"):
        await rig.put(many(len(key)), key)
    listed = [one async for one in rig.store.list_prefix(rig.bucket, "things/") if not one.key.endswith("/")]
    newest = listed[-1].key
    await populate(rig)
    for key in ("things/a.csv", "things/b.csv", "things/c.csv"):
        states = [load.state for load in await rig.ledger(key)]
        assert states == ([LoadState.SUCCEEDED] if key == newest else [])
