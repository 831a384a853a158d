"""Any sequence of puts, overwrites, deletes, duplicate, late and crashing deliveries equals a model of the bucket.

Ledger and merge on a real Postgres, for every policy; deliveries read what the bucket holds then, as S3 does.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest_service.ledger import loads, objects
from ingest_service.ledger.datasets import LockTimes
from ingest_service.ledger.records import LoadStart, LoadState, LoadTrigger, ObjectVersion, ReadCounts
from ingest_service.merge import merge as merging
from ingest_service.merge import mirror
from ingest_service.merge.staging import stage
from shared.contract.model import FilePolicy
from tests.integration.merge.fold import Address, Content, Fold, newest_claims
from tests.integration.merge.lab import DAY, NEVER_BULK, Lab, Thing, chunks

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_EMPTY = """
TRUNCATE data.things, data.things__deleted, penstock.objects, penstock.loads, penstock.rejects;
UPDATE penstock.datasets SET version = 0, row_count = 0, snapshot_object = NULL
"""
_KEYS = ("things/a.csv", "things/b.csv", "things/c.csv")
_FILES = st.dictionaries(st.integers(0, 5), st.sampled_from(["x", "y"]), max_size=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """A put or an overwrite; `later` whole seconds after the one before, so that many share a Last-Modified."""

    key: str
    rows: dict[int, str]
    later: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """A removal of the object, if it is there."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """The newest version of the object is deleted, if there is an older one: that comes back, as old as it was."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """The `place`-th waiting event, modulo their number. `crash`: where its process ends; `again`: it comes back."""

    place: int
    crash: str
    again: bool


_STEP = st.one_of(
    st.builds(Put, key=st.sampled_from(_KEYS), rows=_FILES, later=st.booleans()),
    st.builds(Delete, key=st.sampled_from(_KEYS)),
    st.builds(
        Deliver,
        place=st.integers(0, 20),
        crash=st.sampled_from(["", "", "before commit", "after commit"]),
        again=st.booleans(),
    ),
)
_STEPS = st.lists(_STEP, min_size=3, max_size=30)
_MIRRORED_STEPS = st.lists(st.one_of(_STEP, st.builds(Restore, key=st.sampled_from(_KEYS))), min_size=3, max_size=30)


Steps: TypeAlias = list[Put | Delete | Restore | Deliver]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What S3 says: something was created, or removed, at that place in the order of its key."""

    key: str
    number: int
    removed: bool


@dataclass(kw_only=True)
class Bucket:
    """The bucket as it is now, what waits in the queue, and what the table must hold."""

    fold: Fold
    now: dt.datetime = DAY
    count: int = 0
    present: dict[Address, Content] = field(default_factory=dict)
    older: dict[Address, list[Content]] = field(default_factory=dict)
    queue: list[Event] = field(default_factory=list)

    def put(self, step: Put) -> None:
        self.count += 1
        self.now += dt.timedelta(seconds=step.later)
        version = ObjectVersion(bucket="lab", key=step.key, etag=f"e{self.count}", last_modified=self.now)
        things = [Thing(owner="o", number=number, label=label) for number, label in step.rows.items()]
        content = Content(version=version, things=things)
        if content.address in self.present:
            self.older.setdefault(content.address, []).append(self.present[content.address])
        self.present[content.address] = content
        self.queue.append(Event(key=step.key, number=self.count, removed=False))

    def delete(self, step: Delete) -> None:
        if self.present.pop(("lab", step.key), None) is not None:
            self.count += 1
            self.queue.append(Event(key=step.key, number=self.count, removed=True))

    def restore(self, step: Restore) -> None:
        address = ("lab", step.key)
        if address in self.present and self.older.get(address):
            self.count += 1
            self.present[address] = self.older[address].pop()
            self.queue.append(Event(key=step.key, number=self.count, removed=True))


class Crashed(Exception):
    """The process ends here."""


async def deliver(lab: Lab, connection: Connection, bucket: Bucket, event: Event, crash: str) -> None:
    """What handler and loader do with one event. Raises Crashed; the model follows what was committed."""
    found = bucket.present.get(("lab", event.key))
    sequencer = f"{event.number:04X}"
    if found is None:
        if event.removed:
            await remove(
                lab, connection, bucket, ObjectVersion(bucket="lab", key=event.key, sequencer=sequencer), crash
            )
        return
    version = replace(found.version, sequencer=sequencer)
    load = await lab.start(connection, version, LoadTrigger.EVENT)
    async with stage(connection, lab.dataset, chunks(lab.copy_bytes(found.things))) as staged:
        with _crashing(crash == "before commit"):
            await merging.merge(connection, lab.dataset, load, staged, ReadCounts(), NEVER_BULK)
    ended = await loads.get_load(connection, load.id)
    if ended.state is LoadState.SUCCEEDED:
        bucket.fold.applied(found)
    assert ended.dataset_version == bucket.fold.version
    if crash == "after commit":
        raise Crashed


async def remove(lab: Lab, connection: Connection, bucket: Bucket, gone: ObjectVersion, crash: str) -> None:
    if not lab.dataset.mirrors:
        await objects.remove_object(connection, lab.dataset, gone)
        return
    seen = await objects.applied_object(connection, "things", gone.bucket, gone.key)
    start = LoadStart(id=uuid.uuid4(), dataset="things", object=gone, trigger=LoadTrigger.UNLOAD, owner="lab")
    with _crashing(crash == "before commit"):
        result = await mirror.remove(connection, lab.dataset, start, seen, LockTimes())
    if result is not None:
        bucket.fold.removed((gone.bucket, gone.key))
        assert result.dataset_version == bucket.fold.version
    if crash == "after commit":
        raise Crashed


@contextmanager
def _crashing(wanted: bool) -> Iterator[None]:
    """Ends the merge in the middle of its transaction, when all of its rows are written."""
    with pytest.MonkeyPatch.context() as patch:
        if wanted:

            async def crash(*_: object) -> None:
                raise Crashed

            patch.setattr(loads, "finish_merged", crash)
        yield


async def settle(lab: Lab, connection: Connection, bucket: Bucket, *, backwards: bool) -> None:
    while bucket.queue:
        await deliver(lab, connection, bucket, bucket.queue.pop(-1 if backwards else 0), "")
    bucket.fold.check_settled(bucket.present)
    await check(lab, connection, bucket.fold)


async def check(lab: Lab, connection: Connection, fold: Fold) -> None:
    held = await lab.rows(connection)
    assert {key: row.wire for key, row in held.items()} == {key: lab.wire(thing) for key, thing in fold.rows.items()}
    assert {key: row.version for key, row in held.items()} == fold.changed_at
    tombstones = await connection.fetch("SELECT owner, number, _version FROM data.things__deleted")
    assert sorted(((row["owner"], int(row["number"])), row["_version"]) for row in tombstones) == sorted(
        fold.tombstones
    )
    assert await lab.version(connection) == (fold.version, len(fold.rows))
    if fold.policy is FilePolicy.MIRROR:
        await check_owners(connection, fold)


async def check_owners(connection: Connection, fold: Fold) -> None:
    """The table says whose each row is, and every other row that lies in the bucket waits in the shadow."""
    known = await connection.fetch("SELECT id, bucket, key FROM penstock.objects")
    addresses = {row["id"]: (row["bucket"], row["key"]) for row in known}
    shown = await connection.fetch("SELECT owner, number, _object FROM data.things")
    owners = {(row["owner"], int(row["number"])): addresses[row["_object"]] for row in shown}
    assert owners == newest_claims(fold.claims.values())[1]
    waiting = await connection.fetch("SELECT owner, number, label, _object FROM data.things__shadow")
    assert {
        (addresses[row["_object"]], Thing(owner=row["owner"], number=int(row["number"]), label=row["label"]))
        for row in waiting
    } == fold.waiting()


async def run(lab: Lab, steps: Steps, *, backwards: bool) -> None:
    bucket = Bucket(fold=Fold(policy=lab.dataset.file_policy))
    async with lab.connect("penstock") as owner:
        await owner.execute(_EMPTY)
        if lab.dataset.mirrors:
            await owner.execute("TRUNCATE data.things__shadow")
    async with lab.connect() as connection:
        for step in steps:
            if isinstance(step, Put):
                bucket.put(step)
            elif isinstance(step, Delete):
                bucket.delete(step)
            elif isinstance(step, Restore):
                bucket.restore(step)
            elif bucket.queue:
                event = bucket.queue[step.place % len(bucket.queue)]
                try:
                    await deliver(lab, connection, bucket, event, step.crash)
                    if not step.again:
                        bucket.queue.remove(event)
                except Crashed:
                    pass  # not acknowledged: it comes again
                await check(lab, connection, bucket.fold)
        await settle(lab, connection, bucket, backwards=backwards)


def _tolerant(lab: Lab) -> Lab:
    """Small files come and go here: what guards against truncated ones is tested elsewhere."""
    return replace(lab, dataset=replace(lab.dataset, min_rows_percent=0.0))


_QUICK = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
_LONG = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@_QUICK
@given(steps=_STEPS, backwards=st.booleans())
async def test_any_deliveries_of_merged_objects_equal_a_fold_in_ledger_order(
    lab: Lab, steps: Steps, backwards: bool
) -> None:
    await run(lab, steps, backwards=backwards)


@_QUICK
@given(steps=_STEPS, backwards=st.booleans())
async def test_any_deliveries_of_snapshots_leave_the_newest(snapshots: Lab, steps: Steps, backwards: bool) -> None:
    await run(_tolerant(snapshots), steps, backwards=backwards)


@_QUICK
@given(steps=_MIRRORED_STEPS, backwards=st.booleans())
async def test_any_deliveries_of_mirrored_objects_leave_what_lies_in_the_bucket(
    mirrors: Lab, steps: Steps, backwards: bool
) -> None:
    await run(mirrors, steps, backwards=backwards)


@pytest.mark.slow
@_LONG
@given(steps=_STEPS, backwards=st.booleans())
async def test_200_sequences_of_merged_objects(lab: Lab, steps: Steps, backwards: bool) -> None:
    await run(lab, steps, backwards=backwards)


@pytest.mark.slow
@_LONG
@given(steps=_STEPS, backwards=st.booleans())
async def test_200_sequences_of_snapshots(snapshots: Lab, steps: Steps, backwards: bool) -> None:
    await run(_tolerant(snapshots), steps, backwards=backwards)


@pytest.mark.slow
@_LONG
@given(steps=_MIRRORED_STEPS, backwards=st.booleans())
async def test_200_sequences_of_mirrored_objects(mirrors: Lab, steps: Steps, backwards: bool) -> None:
    await run(mirrors, steps, backwards=backwards)
