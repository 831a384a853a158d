"""Files of a MIRROR dataset: what lies in the bucket is in the table, and what is removed goes."""

from __future__ import annotations

import pytest

from ingest_service.events import EventKind
from ingest_service.ledger.records import LoadState, LoadTrigger
from tests.integration.ingest.rig import Rig, by_key, many
from tests.integration.ingest.test_handler import event, handler
from tests.integration.merge.conftest import mirror_template, mirrors
from tests.integration.merge.lab import Lab

__all__ = ["mirror_template", "mirrors"]

B = "things/b.csv"


@pytest.fixture
def lab(mirrors: Lab) -> Lab:
    """The rig's dataset here: one with FILE_POLICY_MIRROR and max_reject_percent 50."""
    return mirrors


async def test_removed_object_takes_its_rows_and_the_other_ones_come_back(rig: Rig) -> None:
    await rig.put(many(2, "a"))
    await rig.put(many(4, "b"), B)
    handle = handler(rig)
    await handle(event(rig))
    await handle(event(rig, key=B))
    await rig.s3.delete_object(Bucket=rig.bucket, Key=B)
    for _ in range(2):
        assert (await handle(event(rig, EventKind.REMOVED, B, "06"))).terminal
    assert await rig.table() == by_key(many(2, "a"))
    assert await rig.version() == 3
    removals = [load for load in await rig.ledger(B) if load.trigger is LoadTrigger.UNLOAD]
    assert [(load.state, load.object.sequencer, load.dataset_version) for load in removals] == [
        (LoadState.SUCCEEDED, "06", 3)
    ]


async def test_late_create_event_of_a_removed_object_brings_no_row_back(rig: Rig) -> None:
    await rig.put(many(2))
    handle = handler(rig)
    await handle(event(rig, sequencer="05"))
    await rig.s3.delete_object(Bucket=rig.bucket, Key="things/a.csv")
    await handle(event(rig, EventKind.REMOVED, sequencer="06"))
    await handle(event(rig, sequencer="05"))
    assert await rig.table() == {}
    assert await rig.version() == 2


async def test_rejected_row_keeps_what_its_object_held(rig: Rig) -> None:
    header = "owner,number,label,rank\n"
    await rig.put_text(header + "a,1,one,1\na,2,two,2\na,3,three,3\n")
    await rig.loader().load(rig.job())
    await rig.put_text(header + "a,1,uno,1\na,2,dos,not a number\n")
    load = await rig.loader().load(rig.job())
    assert (load.state, load.rows_deleted) == (LoadState.SUCCEEDED, 1)
    assert {key: thing.label for key, thing in (await rig.table()).items()} == {("a", 1): "uno", ("a", 2): "two"}
