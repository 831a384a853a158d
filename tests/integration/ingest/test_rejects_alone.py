"""Only the rows that a load left out, under a contract that takes them, without a change to anything else."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from penstock.ingest.v1 import ingest_pb2

from ingest_service.decode import DecodeLimits, Dialect
from ingest_service.ledger import listing, populates
from ingest_service.ledger.changes import Scope
from ingest_service.ledger.records import Load, LoadPhase, LoadState, LoadTrigger
from ingest_service.ledger.rejects import left_out
from ingest_service.load import LoadLimits
from ingest_service.maintenance import Maintenance
from ingest_service.messages import load_message
from ingest_service.populate import check_request, retry_request
from ingest_service.reconcile.comparison import GapKind
from ingest_service.rejects_request import rejects_request
from ingest_service.routing import ObjectUri
from ingest_service.sources import Source
from ingest_service.unload import Unloader
from ingest_service.watch import Watched
from shared.contract.build import load_contracts
from shared.contract.model import Dataset, FilePolicy
from shared.errors import FailedPrecondition, InvalidRequest, NotFound
from tests.integration.ingest.reconciling import kinds, reconcile
from tests.integration.ingest.rig import Rig, by_key, until
from tests.integration.ingest.test_populate import followed
from tests.integration.ingest.test_watch import follower, watching
from tests.integration.ingest.written_things import FORMATS, records, separated
from tests.integration.merge.lab import CONTRACT, Thing

# Several blocks a file, also of few rows.
BLOCKS = LoadLimits(decode=DecodeLimits(block_bytes=256, block_rows=4))


def contract(highest: int, *, longest: int = 1000, percent: int = 80) -> str:
    """The lab's, with rules: wire and policy are the same."""
    text = CONTRACT.replace("FILE_POLICY_MERGE", f"FILE_POLICY_MERGE max_reject_percent: {percent}")
    text = text.replace("int64 rank = 5;", f"int64 rank = 5 [(buf.validate.field).int64.lte = {highest}];")
    text = text.replace("searchable: true }]", f"searchable: true }}, (buf.validate.field).string.max_len = {longest}]")
    return text.replace("import ", 'import "buf/validate/validate.proto";\nimport ', 1)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """The contract at first, mended by half, and mended; the last one allows no rejects."""
    texts = {"strict": contract(100, longest=30), "half": contract(200), "mended": contract(1000, percent=0)}
    found = {}
    for name, text in texts.items():
        folder = tmp_path_factory.mktemp(name)
        (folder / "thing.proto").write_text(text)
        found[name] = load_contracts(folder).datasets["things"]
    return found


def thing(number: int, rank: int = 1, label: str = "x") -> Thing:
    return Thing(owner="o", number=number, label=label, rank=rank)


async def put(rig: Rig, data: bytes, key: str = "things/a.csv") -> None:
    await rig.s3.put_object(Bucket=rig.bucket, Key=key, Body=data)


async def load(rig: Rig, dataset: Dataset, key: str = "things/a.csv", **fields: Any) -> Load:
    job = replace(rig.job(key, LoadTrigger.POPULATE, **fields), dataset=dataset)
    return await rig.loader(limits=BLOCKS).load(job)


@pytest.mark.parametrize("suffix", FORMATS)
async def test_only_rows_that_were_left_out_arrive(rig: Rig, datasets: dict[str, Dataset], suffix: str) -> None:
    """Of several blocks, of blocks without any, rows over two lines among them; one row broke two rules."""
    assert len({(dataset.fingerprint, dataset.file_policy) for dataset in datasets.values()}) == 1
    break_ = " " if suffix == "tsv" else "\n"
    bad = {3: thing(3, 500), 4: thing(4, 500, f"two{break_}lines"), 11: thing(11, 500, "l" * 40), 39: thing(39, 500)}
    things = [bad.get(number, thing(number, label=f"a{break_}b" if number == 2 else "x")) for number in range(40)]
    key = f"things/a.{suffix}"
    await put(rig, FORMATS[suffix](things), key)
    first = await load(rig, datasets["strict"], key)
    assert (first.state, first.rows_inserted, first.read.rows_rejected) == (LoadState.SUCCEEDED, 36, 4)
    newer = [thing(5, 7, "newer"), thing(3, 8, "newer")]
    await rig.put(newer, "things/newer.csv")
    await load(rig, datasets["strict"], "things/newer.csv")
    second = await load(rig, datasets["mended"], key, rejects_of=first.id)
    assert (second.state, second.rejects_of, second.dataset_version) == (LoadState.SUCCEEDED, first.id, 3)
    assert (second.read.rows_read, second.read.rows_rejected, second.read.rows_duplicate) == (40, 0, 0)
    assert (second.rows_inserted, second.rows_updated, second.rows_unchanged) == (3, 1, 0)
    assert await rig.table() == by_key([*things, newer[0]])


# What cannot even be cut, or has another type, and where it stands: in lines, in elements of an array, in rows.
SPOILT = {
    "csv": (
        b'owner,number,label,rank\no,1,x,1\no,2,x\no,3,x,word\no,4,\xff,1\n\no,5,"two\nlines",500\no,6,x,1\n',
        (3, 4, 5, 7),
    ),
    "ndjson": (
        (
            b'{"owner":"o","number":1}\n{"owner":"o","number":2,"rank":"x"}\n[1]\nword\n\n'
            b'{"owner":"o","number":3,"rank":500}\n{"owner":"o","number":4}\n'
        ),
        (2, 3, 4, 6),
    ),
    "json": (
        (
            b'[{"owner":"o","number":1},{"owner":"o","number":2,"rank":"x"},[1],{"owner":"o","number":3,"rank":500},'
            b'{"owner":"o"},{"owner":"o","number":4}]'
        ),
        (2, 3, 4, 5),
    ),
}


@pytest.mark.parametrize("suffix", SPOILT)
async def test_rows_that_cannot_be_read_are_found_again_as_well(
    rig: Rig, datasets: dict[str, Dataset], suffix: str
) -> None:
    data, places = SPOILT[suffix]
    await put(rig, data, f"things/a.{suffix}")
    first = await load(rig, datasets["strict"], f"things/a.{suffix}")
    async with rig.lab.connect() as connection:
        assert (await left_out(connection, first.id)).places == places
    second = await load(rig, datasets["half"], f"things/a.{suffix}", rejects_of=first.id)
    assert (second.state, second.read.rows_rejected) == (LoadState.SUCCEEDED, len(places))
    third = await load(
        rig, replace(datasets["mended"], max_reject_percent=80), f"things/a.{suffix}", rejects_of=second.id
    )
    assert (third.state, third.rows_inserted) == (LoadState.SUCCEEDED, 1)
    assert third.read.rows_rejected == len(places) - 1


async def test_row_that_comes_again_later_in_the_object_is_not_its_last_word(
    rig: Rig, datasets: dict[str, Dataset]
) -> None:
    """The good row of before stays, also where a newer object has replaced it; a bad row behind a good one arrives."""
    await put(rig, separated([
        thing(1, 500), thing(2, 2), thing(4, 500, "b"), thing(1, 1), thing(2, 500), thing(3, 501), thing(3, 502),
        *(thing(number) for number in range(10, 20)), thing(4, 4),
    ]))  # fmt: skip
    first = await load(rig, datasets["strict"])
    assert (first.rows_inserted, first.read.rows_rejected) == (13, 5)
    await rig.put([thing(4, 7, "newer")], "things/newer.csv")
    await load(rig, datasets["strict"], "things/newer.csv")
    second = await load(rig, datasets["mended"], rejects_of=first.id)
    assert (second.state, second.rows_inserted, second.rows_updated) == (LoadState.SUCCEEDED, 1, 1)
    assert second.read.rows_duplicate == 3
    expected = [thing(1, 1), thing(2, 500), thing(3, 502), thing(4, 7, "newer"), *map(thing, range(10, 20))]
    assert await rig.table() == by_key(expected)


async def test_what_is_bad_still_is_the_new_loads_to_name_and_nothing_comes_twice(
    rig: Rig, datasets: dict[str, Dataset]
) -> None:
    await put(rig, separated([thing(0), thing(1, 150), thing(2, 500), thing(3), thing(4)]))
    first = await load(rig, datasets["strict"])
    second = await load(rig, datasets["half"], rejects_of=first.id)
    assert (second.state, second.rows_inserted, second.read.rows_rejected) == (LoadState.SUCCEEDED, 1, 1)
    await rig.put([thing(1, 7, "newer")], "things/newer.csv")
    await load(rig, datasets["strict"], "things/newer.csv")
    again = await load(rig, datasets["mended"], rejects_of=first.id)
    assert (again.state, again.reason) == (LoadState.ALREADY_APPLIED, "REJECTS_ALREADY_APPLIED")
    assert str(second.id) in again.message
    third = await load(rig, datasets["mended"], rejects_of=second.id)
    assert (third.state, third.rows_inserted) == (LoadState.SUCCEEDED, 1)
    assert (await rig.table()) == by_key([thing(0), thing(1, 7, "newer"), thing(2, 500), thing(3), thing(4)])
    assert await rig.version() == 4


async def test_rejects_are_not_loaded_again_after_the_whole_object_was(rig: Rig, datasets: dict[str, Dataset]) -> None:
    await put(rig, separated([thing(1), thing(2, 500)]))
    first = await load(rig, datasets["strict"])
    whole = await load(rig, datasets["mended"], force=True)
    late = await load(rig, datasets["mended"], rejects_of=first.id)
    assert (late.state, late.dataset_version) == (LoadState.ALREADY_APPLIED, 2)
    assert str(whole.id) in late.message


async def test_two_at_once_load_them_once(rig: Rig, datasets: dict[str, Dataset]) -> None:
    await put(rig, separated([thing(1), thing(2, 500)]))
    first = await load(rig, datasets["strict"])
    both = await asyncio.gather(*(load(rig, datasets["mended"], rejects_of=first.id) for _ in range(2)))
    assert sorted(one.state for one in both) == [LoadState.ALREADY_APPLIED, LoadState.SUCCEEDED]
    assert await rig.version() == 2


async def test_stopped_in_the_middle_nothing_is_loaded_and_the_next_attempt_loads_them(
    rig: Rig, datasets: dict[str, Dataset]
) -> None:
    await put(rig, separated([thing(1), thing(2, 500)]))
    first = await load(rig, datasets["strict"])
    async with rig.locked_dataset():
        merging = asyncio.create_task(load(rig, datasets["mended"], rejects_of=first.id))
        await until(lambda: _merges(rig))
        merging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await merging
    assert await rig.table() == by_key([thing(1)])
    second = await load(rig, datasets["mended"], rejects_of=first.id)
    assert (second.state, second.rows_inserted) == (LoadState.SUCCEEDED, 1)
    assert [one.state for one in await rig.ledger()] == [
        LoadState.SUCCEEDED,
        LoadState.ABANDONED,
        LoadState.SUCCEEDED,
    ]


async def _merges(rig: Rig) -> bool:
    return any(one.phase is LoadPhase.MERGING for one in await rig.ledger())


async def test_too_many_bad_rows_still_fail_the_load_and_rows_loaded_before_do_not_count(
    rig: Rig, datasets: dict[str, Dataset]
) -> None:
    await put(rig, separated([thing(1, 1, "l" * 40), thing(2, 150), thing(3, 500)]))
    first = await load(rig, datasets["half"])
    assert first.read.rows_rejected == 1
    still = replace(datasets["strict"], max_reject_percent=0)
    failed = await load(rig, still, rejects_of=first.id)
    assert (failed.state, failed.reason, failed.read.rows_rejected) == (LoadState.FAILED, "TOO_MANY_REJECTS", 1)
    assert "1 of 3 rows rejected" in failed.message
    mended = await load(rig, datasets["mended"], rejects_of=first.id)
    assert (mended.state, mended.rows_inserted) == (LoadState.SUCCEEDED, 1)


async def test_validate_only_says_what_would_become_of_them(rig: Rig, datasets: dict[str, Dataset]) -> None:
    await put(rig, separated([thing(0), thing(1, 150), thing(2, 500)]))
    first = await load(rig, datasets["strict"])
    seen = await load(rig, datasets["half"], rejects_of=first.id, validate_only=True)
    assert (seen.state, seen.read.rows_rejected, await rig.version()) == (LoadState.VALIDATED, 1, 1)
    assert (await load(rig, datasets["mended"], rejects_of=first.id)).rows_inserted == 2


async def test_object_that_was_overwritten_has_other_rows_there(rig: Rig, datasets: dict[str, Dataset]) -> None:
    await put(rig, separated([thing(1), thing(2, 500)]))
    first = await load(rig, datasets["strict"])
    await put(rig, separated([thing(1), thing(3)]))
    replaced = await load(rig, datasets["mended"], rejects_of=first.id)
    assert (replaced.state, replaced.reason) == (LoadState.FAILED, "OBJECT_REPLACED")
    assert replaced.object.uri in replaced.message
    await rig.s3.delete_object(Bucket=rig.bucket, Key="things/a.csv")
    gone = await load(rig, datasets["mended"], rejects_of=first.id)
    assert (gone.state, gone.reason) == (LoadState.FAILED, "OBJECT_GONE")
    assert await rig.table() == by_key([thing(1)])


async def test_older_version_is_read_until_a_newer_one_is_loaded(rig: Rig, datasets: dict[str, Dataset]) -> None:
    enabled = {"Status": "Enabled"}
    await rig.s3.put_bucket_versioning(Bucket=rig.bucket, VersioningConfiguration=enabled)
    await put(rig, separated([thing(1), thing(2, 500), thing(3, 501)]))
    first = await load(rig, datasets["strict"])
    await put(rig, separated([thing(4)]))
    second = await load(rig, replace(datasets["half"], max_reject_percent=100), rejects_of=first.id)
    assert (second.state, second.read.rows_rejected) == (LoadState.SUCCEEDED, 2)
    assert second.object.version_id == first.object.version_id
    await load(rig, datasets["strict"])
    late = await load(rig, datasets["mended"], rejects_of=second.id)
    assert (late.state, late.reason) == (LoadState.SUPERSEDED, "NEWER_VERSION_APPLIED")
    assert await rig.table() == by_key([thing(1), thing(4)])


async def test_unload_takes_them_with_the_other_rows_and_then_they_stay_out(
    rig: Rig, datasets: dict[str, Dataset]
) -> None:
    await rig.put([thing(9)], "things/other.csv")
    await load(rig, datasets["strict"], "things/other.csv")
    await put(rig, separated([thing(1), thing(2, 500), thing(9, 500)]))
    first = await load(rig, datasets["strict"])
    second = await load(rig, datasets["half"], rejects_of=first.id, validate_only=True)
    assert second.state is LoadState.VALIDATED
    await load(rig, datasets["mended"], rejects_of=first.id)
    unloader = Unloader(pool=rig.pool, owner="test")
    taken = await unloader.unload(rig.lab.dataset, ObjectUri(bucket=rig.bucket, key="things/a.csv"))
    assert (taken.rows_deleted, taken.lost.rows) == (3, 1)
    assert await rig.table() == {}
    late = await load(rig, datasets["mended"], rejects_of=first.id)
    assert (late.state, late.reason) == (LoadState.SUPERSEDED, "OBJECT_REMOVED")


async def test_object_counts_as_loaded_and_its_other_rows_as_those_of_the_contract_of_before(
    rig: Rig, datasets: dict[str, Dataset]
) -> None:
    """Late events of it are no news; under another wire a plain Populate still loads the whole object."""
    await put(rig, separated([thing(1), thing(2, 500)]))
    first = await load(rig, datasets["strict"], sequencer="0A")
    await load(rig, datasets["mended"], rejects_of=first.id)
    late = await rig.loader().load(rig.job(sequencer="0B"))
    assert (late.state, late.dataset_version) == (LoadState.ALREADY_APPLIED, 2)
    assert (await reconcile(rig))[1] == []
    await put(rig, separated([thing(3), thing(4, 500)]), "things/b.csv")
    other = await load(rig, datasets["strict"], "things/b.csv")
    await rig.execute("UPDATE penstock.objects SET fingerprint = 'older'")
    await load(rig, datasets["mended"], "things/b.csv", rejects_of=other.id)
    whole = await rig.loader().load(rig.job("things/b.csv"))
    assert (whole.state, whole.rows_unchanged) == (LoadState.SUCCEEDED, 2)


async def test_failed_load_of_rejects_is_no_attempt_at_the_object(rig: Rig, datasets: dict[str, Dataset]) -> None:
    """To a reconcile, which would take it for one at what lies in the bucket."""
    await put(rig, separated([thing(1), thing(2, 500)]))
    first = await load(rig, datasets["strict"])
    await put(rig, separated([thing(3)]))
    assert (await load(rig, datasets["mended"], rejects_of=first.id)).state is LoadState.FAILED
    async with rig.lab.connect() as connection:
        attempts = await listing.last_attempts(connection, "things", rig.bucket, ["things/a.csv"])
    assert attempts["things/a.csv"].id == first.id
    assert kinds((await reconcile(rig))[1]) == [(GapKind.OUTDATED, "a.csv")]
    assert await rig.table() == by_key([thing(1), thing(3)])


async def test_rows_that_are_not_where_they_were_are_not_guessed(rig: Rig, datasets: dict[str, Dataset]) -> None:
    body = {"a": records([thing(1), thing(2), thing(3, 500)]), "b": records([thing(4)])}
    await put(rig, orjson.dumps(body), "things/a.json")

    def under(path: str) -> Source:
        dialect = Dialect(json_path=(path,))
        return Source(dataset="things", bucket=rig.bucket, prefix="things/", dialect=dialect)

    first = await load(rig, datasets["strict"], "things/a.json", source=under("a"))
    assert (first.state, first.read.rows_rejected) == (LoadState.SUCCEEDED, 1)
    moved = await load(rig, datasets["mended"], "things/a.json", source=under("b"), rejects_of=first.id)
    assert (moved.state, moved.reason) == (LoadState.FAILED, "REJECTS_MOVED")
    assert await rig.table() == by_key([thing(1), thing(2)])


async def test_rejects_beyond_those_that_are_kept_and_of_older_loads_are_not_had_alone(
    rig: Rig, datasets: dict[str, Dataset]
) -> None:
    message = ingest_pb2.PopulateRequest()
    await put(rig, separated([thing(number, 500 if number > 500 else 1) for number in range(1501)]))
    many = await load(rig, datasets["strict"])
    assert (many.state, many.read.rows_rejected) == (LoadState.SUCCEEDED, 1000)
    await put(rig, separated([thing(number, 500 if number > 500 else 1) for number in range(1502)]), "things/b.csv")
    more = await load(rig, datasets["strict"], "things/b.csv")
    async with rig.lab.connect() as connection:
        rejects_request(message, await left_out(connection, many.id))
        with pytest.raises(FailedPrecondition, match="rejected 1001 rows, and the places of 1000 are kept") as refused:
            rejects_request(message, await left_out(connection, more.id))
        assert refused.value.reason == "REJECTS_NOT_KEPT"
        await rig.execute("UPDATE penstock.rejects SET place = NULL")
        with pytest.raises(FailedPrecondition, match="the places of 0 are kept"):
            rejects_request(message, await left_out(connection, many.id))
        with pytest.raises(NotFound):
            await left_out(connection, UUID(int=7))


async def test_places_are_those_of_the_object_whatever_else_is_loaded(rig: Rig, datasets: dict[str, Dataset]) -> None:
    """Loads that are committed together tell their rows apart by places of their own."""
    loader = rig.loader(limits=BLOCKS)
    for number in range(3):
        await put(rig, separated([thing(number), thing(10 + number, 500)]), f"things/{number}.csv")
    jobs = [replace(rig.job(f"things/{number}.csv"), dataset=datasets["strict"]) for number in range(3)]
    loads = [await loader.load(job) for job in jobs]
    async with rig.lab.connect() as connection:
        assert {(await left_out(connection, one.id)).places for one in loads} == {(3,)}
    last = await load(rig, datasets["mended"], "things/2.csv", rejects_of=loads[2].id)
    assert (last.state, last.rows_inserted) == (LoadState.SUCCEEDED, 1)


async def test_populate_shows_their_progress_and_is_taken_over_and_retried_as_what_it_is(
    rig: Rig, datasets: dict[str, Dataset]
) -> None:
    await put(rig, separated([thing(1), thing(2, 500)]))
    first = await load(rig, datasets["strict"])
    mended = {"things": datasets["mended"]}
    async with rig.lab.connect() as connection:
        stored = rejects_request(ingest_pb2.PopulateRequest(), await left_out(connection, first.id))
        request = check_request(stored, uuid4(), mended, rig.sources)
        await populates.claim(connection, request.request_id, request.wire, "gone")
        await connection.execute("UPDATE penstock.populates SET heartbeat_at = '-infinity'")
    async with rig.populates() as running:
        await Maintenance(pool=rig.pool, populates=running, datasets=mended, sources=rig.sources).run_once()
        progress, (second,) = await followed(running, request)
        assert (second.state, second.rejects_of, second.rows_inserted) == (LoadState.SUCCEEDED, first.id, 1)
        assert {one.load_id for one in progress} <= {second.id}
        again = check_request(retry_request(second), uuid4(), mended, rig.sources)
        _, (third,) = await followed(running, again)
    assert (third.state, third.trigger, third.rejects_of) == (LoadState.ALREADY_APPLIED, LoadTrigger.RETRY, first.id)
    assert load_message(second).rejects_of == str(first.id)
    assert await rig.version() == 2


@pytest.mark.parametrize("policy", [FilePolicy.SNAPSHOT, FilePolicy.MIRROR])
async def test_objects_that_are_the_whole_truth_are_loaded_whole(rig: Rig, policy: FilePolicy) -> None:
    """Asked for, or taken over when the contract has another policy by now."""
    request = ingest_pb2.PopulateRequest(
        uri=f"s3://{rig.bucket}/things/a.csv", dataset="things", rejects_of=str(uuid4())
    )
    other = {"things": replace(rig.lab.dataset, file_policy=policy)}
    with pytest.raises(FailedPrecondition, match=f"FILE_POLICY_{policy.value}") as refused:
        check_request(request, uuid4(), other, rig.sources)
    assert refused.value.reason == "WHOLE_OBJECTS_ONLY"
    with pytest.raises(InvalidRequest, match="there is no dataset 'things'"):
        check_request(request, uuid4(), {}, rig.sources)


async def test_rejects_are_told_to_watchers_and_settle_no_object(rig: Rig, datasets: dict[str, Dataset]) -> None:
    """Who waits for an upload wants to hear of the object, not of some rows of it later or before."""
    await put(rig, separated([thing(1), thing(2, 500)]))
    first = await load(rig, datasets["strict"])
    failed = await load(rig, replace(datasets["strict"], max_reject_percent=0), rejects_of=first.id)
    assert failed.state is LoadState.FAILED
    wanted = Watched(scope=Scope(bucket=rig.bucket, key="things/a.csv"), until_settled=True)
    async with watching(rig) as watch:
        async with follower(watch, wanted) as following:
            assert [news.load.id for news in await following.rest() if news.load] == [first.id]
        upload = await rig.s3.put_object(Bucket=rig.bucket, Key="things/b.csv", Body=separated([thing(3, 500)]))
        async with follower(watch, replace(wanted, scope=Scope(dataset="things"))) as following:
            second = await load(rig, datasets["mended"], rejects_of=first.id)
            whole = await load(rig, datasets["mended"], "things/b.csv")
            told = [news for news in await following.rest() if news.load]
    assert upload
    assert {news.load.id for news in told if news.load and news.settled} == {second.id, whole.id}
