"""A MIRROR dataset is the bucket again after a reconcile, whatever was not told."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from ingest_service.ledger.records import LoadState, LoadTrigger
from ingest_service.objects import ListedObject
from ingest_service.reconcile.comparison import GapKind, Window
from tests.integration.ingest.reconciling import kinds, reconcile
from tests.integration.ingest.rig import Rig, by_key, many
from tests.integration.ingest.test_handler import event, handler
from tests.integration.merge.conftest import mirror_template, mirrors
from tests.integration.merge.lab import Lab

__all__ = ["mirror_template", "mirrors"]

B = "things/b.csv"


@pytest.fixture
def lab(mirrors: Lab) -> Lab:
    """The rig's dataset here: one with FILE_POLICY_MIRROR."""
    return mirrors


async def test_removal_that_was_not_told_takes_the_rows_and_brings_the_other_ones_back(rig: Rig) -> None:
    await rig.put(many(2, "a"))
    await rig.put(many(4, "b"), B)
    handle = handler(rig)
    await handle(event(rig))
    await handle(event(rig, key=B))
    await rig.s3.delete_object(Bucket=rig.bucket, Key=B)
    long_ago = Window(since=(await rig.ledger(B))[0].created_at.replace(year=2200))
    _, steps = await reconcile(rig, window=long_ago)
    assert kinds(steps) == [(GapKind.GONE, "b.csv")], "whatever the window: what is gone has no Last-Modified"
    assert await rig.table() == by_key(many(2, "a"))
    assert [(load.trigger, load.state) for load in await rig.ledger(B)] == [
        (LoadTrigger.EVENT, LoadState.SUCCEEDED),
        (LoadTrigger.UNLOAD, LoadState.SUCCEEDED),
    ]
    assert (await reconcile(rig))[1] == []


async def test_object_that_a_listing_lacks_and_s3_has_stays(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing alone deletes nothing: the key is asked for."""
    await rig.put(many(2, "a"))
    await handler(rig)(event(rig))

    async def nothing(*_: Any) -> AsyncGenerator[list[ListedObject], None]:
        for page in list[list[ListedObject]]():
            yield page

    monkeypatch.setattr(rig.store, "list_pages", nothing)
    _, steps = await reconcile(rig)
    assert kinds(steps) == [(GapKind.GONE, "a.csv")]
    assert [load.state for load in await rig.ledger()] == [LoadState.SUCCEEDED, LoadState.ALREADY_APPLIED]
    assert await rig.table() == by_key(many(2, "a"))


async def test_version_whose_deletion_was_not_told_gives_way_to_the_one_before_it(rig: Rig) -> None:
    """It has the older Last-Modified and no event that says that it is newer."""
    await rig.s3.put_bucket_versioning(Bucket=rig.bucket, VersioningConfiguration={"Status": "Enabled"})
    await rig.put(many(2, "a"))
    await handler(rig)(event(rig, sequencer="05"))
    newer = await rig.put(many(4, "b"))
    await handler(rig)(event(rig, sequencer="06"))
    await rig.execute("UPDATE penstock.objects SET last_modified = last_modified + interval '1 hour'")
    await rig.s3.delete_object(Bucket=rig.bucket, Key="things/a.csv", VersionId=newer)
    _, steps = await reconcile(rig)
    assert kinds(steps) == [(GapKind.OUTDATED, "a.csv")]
    assert await rig.table() == by_key(many(2, "a"))
    assert (await reconcile(rig))[1] == []


async def test_moved_object_frees_its_rows_before_they_are_loaded_again(rig: Rig) -> None:
    await rig.put(many(3, "a"))
    await handler(rig)(event(rig))
    await rig.put(many(3, "a"), B)
    await rig.s3.delete_object(Bucket=rig.bucket, Key="things/a.csv")
    _, steps = await reconcile(rig)
    assert kinds(steps) == [(GapKind.GONE, "a.csv"), (GapKind.MISSING, "b.csv")]
    assert await rig.table() == by_key(replace(thing, label="a") for thing in many(3))
