"""A listing and the ledger, side by side: every object on which they differ is found, a page at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from ingest_service.ledger import listing, objects
from ingest_service.ledger.objects import KeyRange
from ingest_service.objects import ListedObject
from ingest_service.reconcile import walk as walking
from ingest_service.reconcile.comparison import Gap, GapKind, Window, places
from ingest_service.reconcile.walk import Walk
from ingest_service.sources import Source, Sources
from shared.errors import FailedPrecondition
from tests.integration.ingest.rig import Rig
from tests.integration.merge.lab import Lab, Thing

ONE = Thing(owner="a", number=1, label="one", rank=1)


def walk_of(rig: Rig, **changes: Any) -> Walk:
    parts: dict[str, Any] = {
        "pool": rig.pool,
        "store": rig.store,
        "sources": rig.sources,
        "datasets": {"things": rig.lab.dataset},
        "window": Window(),
    }
    return Walk(**(parts | changes))


async def gaps(rig: Rig, walk: Walk | None = None) -> dict[str, GapKind]:
    """By key."""
    walk, sources = walk or walk_of(rig), rig.sources
    found: list[Gap] = []
    for place in places(replace(sources, sources=sources.sources[:1]), ["things"]):
        async for step in walk.look(place):
            found += step.gaps
    kinds = {gap.uri.key: gap.kind for gap in found}
    assert len(kinds) == len(found), "each is told once"
    return kinds


async def test_bucket_and_ledger_are_compared_both_ways(rig: Rig) -> None:
    for name in ("loaded", "overwritten", "gone"):
        await rig.put([ONE], f"things/{name}.csv")
        await rig.loader().load(rig.job(f"things/{name}.csv"))
    await rig.put([replace(ONE, label="two")], "things/overwritten.csv")
    await rig.put([ONE], "things/missing.csv")
    await rig.s3.delete_object(Bucket=rig.bucket, Key="things/gone.csv")
    assert await gaps(rig) == {
        "things/overwritten.csv": GapKind.OUTDATED,
        "things/missing.csv": GapKind.MISSING,
        "things/gone.csv": GapKind.GONE,
    }


async def test_what_is_no_data_and_what_no_source_takes_is_no_gap(rig: Rig) -> None:
    for key in ("things/", "things/_SUCCESS", "things/.crc", "elsewhere/a.csv"):
        await rig.put([ONE], key)
    await rig.loader().load(rig.job("elsewhere/a.csv"))
    await rig.s3.delete_object(Bucket=rig.bucket, Key="elsewhere/a.csv")
    assert await gaps(rig) == {}


async def test_object_that_stays_but_is_no_longer_its_sources_is_not_gone(rig: Rig) -> None:
    await rig.put([ONE])
    await rig.loader().load(rig.job())
    narrowed = Sources(sources=(Source(dataset="things", bucket=rig.bucket, prefix="things/", suffix=".gz"),))
    assert await gaps(rig, walk_of(rig, sources=narrowed)) == {}
    await rig.s3.delete_object(Bucket=rig.bucket, Key="things/a.csv")
    assert await gaps(rig, walk_of(rig, sources=narrowed)) == {}


async def test_window_leaves_out_what_was_written_before_it(rig: Rig) -> None:
    await rig.put([ONE], "things/old.csv")
    await rig.put([ONE], "things/new.csv")
    listed = [one async for one in rig.store.list_prefix(rig.bucket, "things/")]
    window = Window(since=listed[-1].last_modified.replace(year=2200))
    assert await gaps(rig, walk_of(rig, window=window)) == {}


async def test_object_that_was_uploaded_and_loaded_behind_the_listing_is_not_gone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_pages = rig.store.list_pages

    async def then_upload(*args: Any) -> AsyncGenerator[list[ListedObject], None]:
        async for page in list_pages(*args):
            yield page
        await rig.put([ONE], "things/z.csv")
        await rig.loader().load(rig.job("things/z.csv"))

    monkeypatch.setattr(rig.store, "list_pages", then_upload)
    assert await gaps(rig) == {}


@pytest.mark.slow
async def test_thousands_of_keys_are_compared_in_bounded_pages(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any characters: S3 lists by UTF-8 bytes, which is not how UTF-16 or a locale sorts."""
    odd = [f"things/{char}{number:04d}" for char in "Aaz~é\uffee\U0001f600" for number in range(10)]
    keys = [f"things/{number:05d}" for number in range(2_930)] + odd
    slots = asyncio.Semaphore(16)

    async def put(key: str) -> None:
        async with slots:
            await rig.s3.put_object(Bucket=rig.bucket, Key=key, Body=b"")

    await asyncio.gather(*map(put, keys))
    listed = [one async for one in rig.store.list_prefix(rig.bucket, "things/")]
    loaded, gone = listed[::3], [f"{key}!" for key in keys[::2]]
    rows = [(one.key, one.etag, one.last_modified) for one in loaded] + [(key, "e", None) for key in gone]
    await _apply(rig.lab, rig.bucket, rows)
    monkeypatch.setattr(walking, "LEDGER_PAGE", 100)
    pages = _watched_pages(rig, monkeypatch)
    found = await gaps(rig)
    assert {key for key, kind in found.items() if kind is GapKind.GONE} == set(gone)
    assert {key for key, kind in found.items() if kind is GapKind.MISSING} == set(keys) - {one.key for one in loaded}
    assert len(found) == len(gone) + len(keys) - len(loaded)
    assert len(pages["bucket"]) == 12
    assert max(pages["bucket"]) <= 250
    assert max(pages["ledger"]) <= 100


def _watched_pages(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """How many entries each page of the bucket's listing and of the ledger had."""
    pages: dict[str, list[int]] = {"bucket": [], "ledger": []}
    list_pages, held_objects = rig.store.list_pages, objects.held_objects

    async def listed(*args: Any) -> AsyncGenerator[list[ListedObject], None]:
        async for page in list_pages(*args):
            pages["bucket"].append(len(page))
            yield page

    async def held(*args: Any, **more: Any) -> Any:
        page = await held_objects(*args, **more)
        pages["ledger"].append(len(page))
        return page

    monkeypatch.setattr(rig.store, "list_pages", listed)
    monkeypatch.setattr(objects, "held_objects", held)
    return pages


async def _apply(lab: Lab, bucket: str, rows: list[tuple[Any, ...]]) -> None:
    async with lab.connect() as connection:
        await connection.executemany(
            "INSERT INTO penstock.objects (dataset, bucket, key, etag, last_modified) "
            "VALUES ('things', $4, $1, $2, $3)",
            [(*row, bucket) for row in rows],
        )


async def test_bucket_that_is_not_listed_in_order_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second object would look gone."""
    for key in ("things/a.csv", "things/b.csv"):
        await rig.put([ONE], key)
    list_pages = rig.store.list_pages

    async def backwards(*args: Any) -> AsyncGenerator[list[ListedObject], None]:
        async for page in list_pages(*args):
            yield page[::-1]

    monkeypatch.setattr(rig.store, "list_pages", backwards)
    with pytest.raises(FailedPrecondition, match="order of its keys"):
        await gaps(rig)


async def test_pages_of_the_ledger_are_read_through_their_indexes(lab: Lab) -> None:
    statement, keys = objects._held_statement(KeyRange(after="a", last="b"))
    async with lab.connect() as connection, connection.transaction():
        await connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        held = await connection.fetch(f"EXPLAIN {statement}", "things", "lab", 10, *keys)
        attempts = await connection.fetch(f"EXPLAIN {listing._LAST_ATTEMPTS}", "things", "lab", ["k"])
    plan = "\n".join(row[0] for row in held)
    assert "Index Scan using objects_dataset_bucket_key_key" in plan
    assert "(key > 'a'::text) AND (key <= 'b'::text)" in plan.partition("Index Cond:")[2]
    assert any("Index Scan Backward using loads_by_object" in row[0] for row in attempts)
