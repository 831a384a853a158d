"""What notifications lost is found and mended, once, by the way of events, and after everybody else."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from ingest_service.events import EventKind
from ingest_service.ledger.cancel import cancel_load
from ingest_service.ledger.records import LoadState, LoadTrigger
from ingest_service.load import LoadLimits
from ingest_service.reconcile import reconciler as reconciling
from ingest_service.reconcile.comparison import GapKind, Window
from ingest_service.reconcile.reconciler import Report
from ingest_service.routing import ObjectUri
from ingest_service.sources import Source, Sources
from ingest_service.unload import Unloader
from shared.errors import NotFound, Unavailable
from tests.integration.ingest.reconciling import found, kinds, reconcile, reconciler, scope_of
from tests.integration.ingest.rig import GatedStore, Rig, by_key, many, until
from tests.integration.ingest.test_handler import event, handler
from tests.integration.merge.lab import Thing

ONE = Thing(owner="a", number=1, label="one", rank=1)
TWO = Thing(owner="a", number=2, label="two", rank=2)


async def states(rig: Rig, key: str = "things/a.csv") -> list[tuple[LoadTrigger, LoadState]]:
    return [(load.trigger, load.state) for load in await rig.ledger(key)]


async def test_object_whose_create_event_was_lost_is_loaded_and_then_is_no_gap(rig: Rig) -> None:
    await rig.put([ONE])
    report, steps = await reconcile(rig)
    assert kinds(steps) == [(GapKind.MISSING, "a.csv")]
    assert await rig.table() == by_key([ONE])
    assert await states(rig) == [(LoadTrigger.RECONCILE, LoadState.SUCCEEDED)]
    tally = report.tallies["things"]
    assert (tally.listed, tally.mended, tally.left) == (1, 1, 0)
    report, steps = await reconcile(rig)
    assert (steps, found(report)) == ([], {})


async def test_object_whose_overwriting_was_not_told_is_loaded_again(rig: Rig) -> None:
    await rig.put([ONE])
    await handler(rig)(event(rig))
    await rig.put([replace(ONE, label="uno")])
    _, steps = await reconcile(rig)
    assert kinds(steps) == [(GapKind.OUTDATED, "a.csv")]
    assert await rig.table() == by_key([replace(ONE, label="uno")])


async def test_late_event_of_what_a_reconcile_loaded_is_a_no_op(rig: Rig) -> None:
    await rig.put([ONE])
    await reconcile(rig)
    assert (await handler(rig)(event(rig))).terminal
    assert await states(rig) == [
        (LoadTrigger.RECONCILE, LoadState.SUCCEEDED),
        (LoadTrigger.EVENT, LoadState.ALREADY_APPLIED),
    ]
    assert await rig.version() == 1


async def test_removal_that_was_not_told_is_noted_and_deletes_nothing_of_a_merge_dataset(rig: Rig) -> None:
    await rig.put([ONE])
    await handler(rig)(event(rig))
    await rig.s3.delete_object(Bucket=rig.bucket, Key="things/a.csv")
    report, steps = await reconcile(rig)
    assert kinds(steps) == [(GapKind.GONE, "a.csv")]
    assert await rig.table() == by_key([ONE])
    assert await rig.version() == 1
    assert report.tallies["things"].mended == 1
    assert (await reconcile(rig))[1] == []


async def test_object_that_came_back_untold_is_loaded(rig: Rig) -> None:
    await rig.put([ONE])
    await handler(rig)(event(rig, sequencer="05"))
    await rig.s3.delete_object(Bucket=rig.bucket, Key="things/a.csv")
    await handler(rig)(event(rig, EventKind.REMOVED, sequencer="06"))
    await rig.put([TWO])
    _, steps = await reconcile(rig)
    assert kinds(steps) == [(GapKind.MISSING, "a.csv")]
    assert await rig.table() == by_key([ONE, TWO])


async def test_dry_run_tells_every_gap_and_changes_nothing(rig: Rig) -> None:
    for name in ("gone", "old", "bad"):
        await (rig.put_text("no,key\n", "things/bad.csv") if name == "bad" else rig.put([ONE], f"things/{name}.csv"))
        await rig.loader().load(rig.job(f"things/{name}.csv"))
    await rig.s3.delete_object(Bucket=rig.bucket, Key="things/gone.csv")
    await rig.put([TWO], "things/old.csv")
    await rig.put([TWO], "things/new.csv")
    before = await _everything(rig)
    report, steps = await reconcile(rig, dry_run=True)
    assert set(kinds(steps)) == {
        (GapKind.FAILED, "bad.csv"),
        (GapKind.GONE, "gone.csv"),
        (GapKind.MISSING, "new.csv"),
        (GapKind.OUTDATED, "old.csv"),
    }
    assert found(report) == dict.fromkeys(GapKind, 1)
    assert await _everything(rig) == before


async def _everything(rig: Rig) -> list[Any]:
    async with rig.lab.connect() as connection:
        tables = ("penstock.loads", "penstock.objects", "penstock.datasets", 'data."things"')
        return [await connection.fetch(f"SELECT * FROM {table} ORDER BY 1") for table in tables]


async def test_object_that_failed_for_good_is_told_and_not_tried_again_until_it_is_another(rig: Rig) -> None:
    await rig.put_text("no,key\n")
    await handler(rig)(event(rig))
    for _ in range(2):
        report, (step,) = await reconcile(rig)
        assert (step.gap.kind, step.load and step.load.reason) == (GapKind.FAILED, "MISSING_KEY_COLUMN")
        assert found(report) == {GapKind.FAILED: 1}
    assert len(await rig.ledger()) == 1
    await rig.put([ONE])
    _, steps = await reconcile(rig)
    assert kinds(steps) == [(GapKind.MISSING, "a.csv")]
    assert await rig.table() == by_key([ONE])


async def test_object_that_failed_under_another_contract_is_tried_again(rig: Rig) -> None:
    await rig.put_text("no,key\n")
    await handler(rig)(event(rig))
    await rig.execute("UPDATE penstock.loads SET fingerprint = 'before'")
    assert kinds((await reconcile(rig))[1]) == [(GapKind.MISSING, "a.csv")]
    assert kinds((await reconcile(rig))[1]) == [(GapKind.FAILED, "a.csv")]


async def test_what_somebody_took_back_stays_taken_back(rig: Rig) -> None:
    await rig.put([ONE])
    await handler(rig)(event(rig))
    uri = ObjectUri(bucket=rig.bucket, key="things/a.csv")
    await Unloader(pool=rig.pool, owner="test").unload(rig.lab.dataset, uri)
    assert (await reconcile(rig))[1] == []
    await rig.put([TWO])
    assert kinds((await reconcile(rig))[1]) == [(GapKind.MISSING, "a.csv")]
    assert await rig.table() == by_key([TWO])


async def test_load_that_is_in_work_is_no_gap_and_a_cancelled_one_not_tried_again(rig: Rig) -> None:
    await rig.put(many(2_000))
    rig.store.gate.clear()
    loading = asyncio.create_task(rig.loader().load(rig.job()))
    await rig.store.reading.wait()
    assert (await reconcile(rig, dry_run=True))[1] == []
    (running,) = await rig.ledger()
    async with rig.lab.connect() as connection:
        await cancel_load(connection, running.id, "somebody")
    rig.store.gate.set()
    assert (await loading).state is LoadState.CANCELLED
    assert kinds((await reconcile(rig))[1]) == [(GapKind.FAILED, "a.csv")]
    assert len(await rig.ledger()) == 1


async def test_the_oldest_of_several_missing_objects_is_loaded_first(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are upserted in commit order, and a listing is in the order of keys. Also where memory holds only some."""
    for key in ("z", "y", "x"):
        await rig.put([replace(ONE, label=key)], f"things/{key}.csv")
    times = {"things/z.csv": 1, "things/y.csv": 2, "things/x.csv": 3}
    _aged(rig, monkeypatch, times)
    _, steps = await reconcile(rig)
    assert [name for _, name in kinds(steps)] == ["z.csv", "y.csv", "x.csv"]
    assert await rig.table() == by_key([replace(ONE, label="x")])
    monkeypatch.setattr(reconciling, "WAITING", 2)
    for key in ("things/a.csv", "things/b.csv", "things/c.csv"):
        await rig.put([ONE], key)
    _aged(rig, monkeypatch, {"things/a.csv": 2, "things/b.csv": 1, "things/c.csv": 3} | times)
    _, steps = await reconcile(rig)
    assert [name for _, name in kinds(steps)] == ["b.csv", "a.csv", "c.csv"]


def _aged(rig: Rig, monkeypatch: pytest.MonkeyPatch, seconds: dict[str, int]) -> None:
    """The listing with other times: to write objects seconds apart takes seconds."""
    list_pages = GatedStore.list_pages

    async def aged(store: GatedStore, bucket: str, prefix: str) -> Any:
        async for page in list_pages(store, bucket, prefix):
            yield [
                replace(one, last_modified=one.last_modified.replace(microsecond=0, second=seconds[one.key]))
                if one.key in seconds
                else one
                for one in page
            ]

    monkeypatch.setattr(rig.store, "list_pages", aged.__get__(rig.store))


async def test_events_go_before_a_reconcile(rig: Rig) -> None:
    """One load runs; the reconcile asked for the next place, and then an event came."""
    await rig.put(many(2_000), "things/running.csv")
    await rig.put([ONE], "things/lost.csv")
    loader = rig.loader(limits=LoadLimits(concurrency=1))
    handle = handler(rig, loader=loader)
    rig.store.gate.clear()
    running = asyncio.create_task(handle(event(rig, key="things/running.csv")))
    await rig.store.reading.wait()
    scope = scope_of(rig)
    run = reconciler(rig, loader=loader).run(scope, Report.of(scope))
    reconciled = asyncio.create_task(anext(run))
    await until(lambda: bool(loader._slots._patient))
    await rig.put([TWO])
    told = asyncio.create_task(handle(event(rig)))
    await until(lambda: bool(loader._slots._hurried))
    rig.store.gate.set()
    await asyncio.gather(running, reconciled, told)
    await run.aclose()
    (lost,), (fresh,) = await rig.ledger("things/lost.csv"), await rig.ledger()
    assert (lost.state, fresh.state) == (LoadState.SUCCEEDED, LoadState.SUCCEEDED)
    assert (lost.dataset_version, fresh.dataset_version) == (3, 2)


async def test_object_that_feeds_several_datasets_is_compared_for_each(rig: Rig) -> None:
    sources = Sources(sources=tuple(Source(dataset=name, bucket=rig.bucket) for name in ("later", "things")))
    datasets = {"things": rig.lab.dataset, "later": replace(rig.lab.dataset, name="later")}
    await rig.put([ONE])
    listings = _counted_listings(rig)
    scope = scope_of(rig, datasets=("later", "things"), dry_run=True)
    report = Report.of(scope)
    run = reconciler(rig, sources=sources, datasets=datasets).run(scope, report)
    steps = [step.gap.source.dataset async for step in run if step is not None]
    assert sorted(steps) == ["later", "things"]
    assert listings == [""], "and listed once"


def _counted_listings(rig: Rig) -> list[str]:
    prefixes: list[str] = []
    list_pages = rig.store.list_pages

    def counted(bucket: str, prefix: str) -> Any:
        prefixes.append(prefix)
        return list_pages(bucket, prefix)

    rig.store.list_pages = counted  # type: ignore[method-assign]
    return prefixes


async def test_place_that_cannot_be_listed_keeps_no_other_from_its_turn(rig: Rig) -> None:
    """The rig's sources name a bucket that does not exist."""
    await rig.put([ONE])
    report, steps = await reconcile(rig, within=None)
    assert kinds(steps) == [(GapKind.MISSING, "a.csv")]
    assert [type(problem) for problem in report.problems] == [NotFound]


async def test_object_that_cannot_be_loaded_now_is_left_to_the_next_run(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("things/a.csv", "things/b.csv", "things/c.csv"):
        await rig.put([ONE], key)
    down = Unavailable("S3 is slow", reason="S3_UNAVAILABLE")
    with monkeypatch.context() as patched:
        patched.setattr(rig.store, "open_object", _raising(down))
        patched.setattr(reconciling, "MOST_PROBLEMS", 2)
        report, steps = await reconcile(rig)
    assert [step.problem for step in steps] == ["S3 is slow"] * 2, "and what so many meet ends the run"
    assert (report.tallies["things"].mended, report.tallies["things"].left) == (0, 3)
    assert len((await reconcile(rig))[1]) == 3
    assert await rig.table() == by_key([ONE])


def _raising(error: Exception) -> Any:
    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    return refuse


async def test_listing_that_differs_from_head_is_looked_into_and_no_gap(rig: Rig) -> None:
    """Some stores list another entity tag than HEAD and GET give; to load that again every hour would be no mending."""
    await rig.put([ONE])
    await handler(rig)(event(rig))
    await rig.execute("UPDATE penstock.objects SET etag = 'of-the-listing'")
    assert kinds((await reconcile(rig, dry_run=True))[1]) == [(GapKind.OUTDATED, "a.csv")]
    await rig.execute("UPDATE penstock.objects SET version_id = 'v1'")
    head = rig.store.head

    async def versioned(*args: Any, **more: Any) -> Any:
        return replace(await head(*args, **more), version_id="v1")

    rig.store.head = versioned  # type: ignore[method-assign]
    report, steps = await reconcile(rig)
    assert (steps, found(report)) == ([], {})


async def test_object_that_s3_does_not_let_look_into_is_outdated_none_the_less(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not be passed over: after a failover the service would be ready without it."""
    await rig.put([ONE])
    await handler(rig)(event(rig))
    await rig.put([TWO])
    monkeypatch.setattr(rig.store, "head", _raising(Unavailable("S3 is slow", reason="S3_UNAVAILABLE")))
    assert kinds((await reconcile(rig, dry_run=True))[1]) == [(GapKind.OUTDATED, "a.csv")]


async def test_only_objects_of_the_window_are_loaded(rig: Rig) -> None:
    await rig.put([ONE])
    listed = [one async for one in rig.store.list_prefix(rig.bucket, "things/")]
    window = Window(before=listed[0].last_modified)
    assert (await reconcile(rig, window=window))[1] == []
    assert len((await reconcile(rig, window=Window(since=listed[0].last_modified)))[1]) == 1


async def test_load_of_a_reconcile_says_so_and_under_which_contract(rig: Rig) -> None:
    await rig.put([ONE])
    _, (step,) = await reconcile(rig)
    assert step.load is not None
    assert isinstance(step.load.id, UUID)
    assert (step.load.trigger, step.load.fingerprint) == (LoadTrigger.RECONCILE, rig.lab.dataset.fingerprint)
