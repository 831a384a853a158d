"""Of a SNAPSHOT dataset only the newest object counts, in a reconcile as anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from ingest_service.reconcile.comparison import GapKind
from ingest_service.routing import ObjectUri
from ingest_service.sources import Source, Sources
from ingest_service.unload import Unloader
from shared.contract.model import Dataset, SnapshotOrder
from shared.local.postgres import EmbeddedPostgres
from tests.integration.ingest.reconciling import kinds, reconcile
from tests.integration.ingest.rig import Rig, many
from tests.integration.ingest.test_handler import event, handler
from tests.integration.merge.conftest import snapshot_template
from tests.integration.merge.lab import Lab, Thing, cloned

__all__ = ["snapshot_template"]

A, B, C = (f"things/{name}.csv" for name in "abc")


@pytest.fixture
def lab(postgres: EmbeddedPostgres, snapshot_template: tuple[str, Dataset]) -> Iterator[Lab]:
    """The rig's dataset here: one with FILE_POLICY_SNAPSHOT, ordered by key: the tests' objects are of one second."""
    template, dataset = snapshot_template
    with cloned(postgres, template) as name:
        yield Lab(url=postgres.url(name), dataset=replace(dataset, snapshot_order=SnapshotOrder.KEY))


async def shown(rig: Rig) -> set[str]:
    """Labels of the rows: the key of the object that they are of."""
    return {thing.label for thing in (await rig.table()).values()}


async def test_only_the_newest_object_is_loaded_and_older_ones_are_no_gap(rig: Rig) -> None:
    for key in (B, C, A, "things/z/", "things/_SUCCESS"):
        await rig.put(many(3, key), key)
    report, steps = await reconcile(rig)
    assert kinds(steps) == [(GapKind.MISSING, "c.csv")]
    assert report.tallies["things"].listed == 3
    assert await shown(rig) == {C}
    assert [await rig.ledger(key) for key in (A, B)] == [[], []]
    assert (await reconcile(rig))[1] == []


async def test_newer_object_and_another_version_of_the_newest_are_gaps_and_an_older_one_is_none(rig: Rig) -> None:
    await rig.put(many(3, B), B)
    await handler(rig)(event(rig, key=B))
    await rig.put(many(3, A), A)
    assert (await reconcile(rig))[1] == []
    await rig.put(many(4, B), B)
    assert kinds((await reconcile(rig))[1]) == [(GapKind.OUTDATED, "b.csv")]
    await rig.put(many(4, C), C)
    assert kinds((await reconcile(rig))[1]) == [(GapKind.MISSING, "c.csv")]
    assert await shown(rig) == {C}


async def test_newest_object_that_failed_for_good_is_told_and_nothing_older_loaded_instead(rig: Rig) -> None:
    await rig.put(many(10, B), B)
    await handler(rig)(event(rig, key=B))
    await rig.put(many(1, C), C)
    await handler(rig)(event(rig, key=C))
    _, (step,) = await reconcile(rig)
    assert (step.gap.kind, step.load and step.load.reason) == (GapKind.FAILED, "SNAPSHOT_TOO_SMALL")
    assert await shown(rig) == {B}


async def test_snapshot_that_somebody_took_back_stays_taken_back(rig: Rig) -> None:
    for key in (A, B):
        await rig.put(many(3, key), key)
        await handler(rig)(event(rig, key=key))
    await Unloader(pool=rig.pool, owner="test").unload(rig.lab.dataset, ObjectUri(bucket=rig.bucket, key=B))
    assert (await reconcile(rig))[1] == []
    await rig.loader().load(rig.job(A))
    assert (await reconcile(rig))[1] == []
    assert await shown(rig) == {A}


async def test_snapshot_that_is_gone_is_told_once_and_keeps_its_rows(rig: Rig) -> None:
    await rig.put(many(3, B), B)
    await handler(rig)(event(rig, key=B))
    await rig.put(many(3, A), A)
    await rig.s3.delete_object(Bucket=rig.bucket, Key=B)
    assert kinds((await reconcile(rig))[1]) == [(GapKind.GONE, "b.csv")]
    assert (await reconcile(rig))[1] == []
    assert await shown(rig) == {B}


async def test_snapshot_in_parts_whose_marker_was_not_told_is_loaded_from_its_parts(rig: Rig) -> None:
    """A part by itself is nothing, in a listing as in an event."""
    parts = Source(dataset="things", bucket=rig.bucket, prefix="things/", suffix=".csv", parts=True)
    rig = replace(rig, sources=Sources(sources=(parts,)))
    await rig.put([Thing(owner="o", number=1, label="mon")], "things/mon/1.csv")
    await rig.put([Thing(owner="o", number=2, label="mon")], "things/mon/2.csv")
    assert (await reconcile(rig))[1] == []
    await rig.put_text("", "things/mon/_SUCCESS")
    _, (step,) = await reconcile(rig)
    assert (step.gap.kind, step.gap.uri.key) == (GapKind.MISSING, "things/mon/_SUCCESS")
    assert len(await rig.table()) == 2
    assert (await reconcile(rig))[1] == []
