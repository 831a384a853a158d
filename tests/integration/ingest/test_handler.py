"""What becomes of one event: it goes only when the ledger, or the log of an event that is nobody's, says why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from ingest_service.consumer import Outcome
from ingest_service.decode import Dialect
from ingest_service.events import EventKind, ObjectEvent
from ingest_service.handler import EventHandler
from ingest_service.ledger.records import LoadState
from ingest_service.objects import ObjectHead, OpenObject
from ingest_service.sources import Source, Sources, sources_by_name
from shared.errors import PermissionDenied
from tests.integration.ingest.rig import GatedStore, Rig, by_key
from tests.integration.merge.lab import Thing

ONE = Thing(owner="a", number=1, label="one", rank=1)


class DeniedStore(GatedStore):
    """S3 without s3:ListBucket: it says 403 of a key that is not there."""

    async def head(self, *args: Any, **kwargs: Any) -> ObjectHead:
        raise _denied()

    @asynccontextmanager
    async def open_object(self, *args: Any, **kwargs: Any) -> AsyncIterator[OpenObject]:
        raise _denied()
        yield


def _denied() -> PermissionDenied:
    return PermissionDenied("GetObject was refused", reason="S3_ACCESS_DENIED")


def handler(rig: Rig, **changes: Any) -> EventHandler:
    parts: dict[str, Any] = {
        "datasets": {"things": rig.lab.dataset},
        "sources": rig.sources,
        "loader": rig.loader(),
        "store": rig.store,
        "pool": rig.pool,
        "owner": "test",
    }
    return EventHandler(**(parts | changes))


def event(
    rig: Rig, kind: EventKind = EventKind.CREATED, key: str = "things/a.csv", sequencer: str = "05"
) -> ObjectEvent:
    return ObjectEvent(bucket=rig.bucket, key=key, kind=kind, sequencer=sequencer, event_name="test")


async def test_created_object_is_loaded(rig: Rig) -> None:
    await rig.put([ONE])
    assert (await handler(rig)(event(rig))).terminal
    assert await rig.table() == by_key([ONE])


async def test_late_create_event_of_a_removed_object_changes_nothing(rig: Rig) -> None:
    handle = handler(rig)
    assert (await handle(event(rig, EventKind.REMOVED, sequencer="07"))).terminal
    await rig.put([ONE])
    assert (await handle(event(rig, sequencer="05"))).terminal
    assert [load.reason for load in await rig.ledger()] == ["OBJECT_REMOVED"]
    assert await rig.table() == {}


async def test_removal_that_leaves_an_object_loads_it(rig: Rig) -> None:
    """Removing a delete marker brings the object back without a create event."""
    await rig.put([ONE])
    assert (await handler(rig)(event(rig, EventKind.REMOVED))).terminal
    assert await rig.table() == by_key([ONE])


@pytest.mark.parametrize("kind", list(EventKind))
async def test_event_that_s3_will_never_answer_ends_in_the_ledger(rig: Rig, kind: EventKind) -> None:
    """To try it again for ever takes a place among the messages in flight: forty such stop everything."""
    denied = DeniedStore(rig.s3)
    loader = replace(rig, store=denied).loader()
    assert (await handler(rig, store=denied, loader=loader)(event(rig, kind))).terminal
    assert [(load.state, load.reason) for load in await rig.ledger()] == [(LoadState.FAILED, "S3_ACCESS_DENIED")]


async def test_event_of_a_dataset_that_only_newer_processes_serve_is_left_to_them(rig: Rig) -> None:
    """While a contract rolls out, the processes of before still receive: what they deleted would be lost."""
    await rig.put([ONE])
    outcome = await handler(rig, datasets={}, sources=sources_by_name([], [rig.bucket]))(event(rig))
    assert outcome == Outcome(terminal=False, give_back=True, reason="DATASET_NOT_SERVED")


async def test_event_of_no_dataset_is_nobodys(rig: Rig) -> None:
    for key in ("else/where.csv", "Nothing At All"):
        assert (await handler(rig)(event(rig, key=key))).terminal
        assert await rig.ledger(key) == []


def fed(rig: Rig, *datasets: str, prefix: str = "") -> Sources:
    return Sources(sources=tuple(Source(dataset=name, bucket=rig.bucket, prefix=prefix) for name in datasets))


async def test_event_is_handled_for_every_dataset_that_its_object_feeds(rig: Rig) -> None:
    """One that cannot be loaded yet does not keep the others from it, and its next attempt does not load them again."""
    await rig.put([ONE])
    datasets = {"things": rig.lab.dataset, "later": replace(rig.lab.dataset, name="later")}
    handle = handler(rig, datasets=datasets, sources=fed(rig, "later", "things"))
    outcome = await handle(event(rig))
    assert not outcome.terminal
    assert await rig.table() == by_key([ONE])
    assert outcome.rest is not None
    assert not (await outcome.rest(event(rig))).terminal
    assert [load.dataset for load in await rig.ledger()] == ["later", "things", "later"]


async def test_unforeseen_failure_in_one_dataset_keeps_no_other_from_the_event(rig: Rig) -> None:
    await rig.put([ONE])
    datasets = {"things": rig.lab.dataset}
    with pytest.raises(KeyError):
        await handler(rig, datasets=datasets, sources=fed(rig, "forgotten", "things"))(event(rig))
    assert await rig.table() == by_key([ONE])


@pytest.mark.parametrize("key", ["things/_SUCCESS", "things/_temporary/0/a.csv", "things/.a.csv"])
async def test_hidden_object_is_skipped_and_the_ledger_says_why(rig: Rig, key: str) -> None:
    await rig.put([ONE], key)
    assert (await handler(rig)(event(rig, key=key))).terminal
    assert [(load.state, load.reason) for load in await rig.ledger(key)] == [(LoadState.SKIPPED, "HIDDEN_OBJECT")]
    assert await rig.table() == {}


async def test_object_is_read_in_the_dialect_of_its_source(rig: Rig) -> None:
    await rig.put_text("owner;number;label;rank\na;1;one;1\n")
    sources = Sources(sources=(Source(dataset="things", bucket=rig.bucket, dialect=Dialect(delimiter=";")),))
    assert (await handler(rig, sources=sources)(event(rig))).terminal
    assert await rig.table() == by_key([ONE])


async def test_event_outside_of_every_source_is_nobodys(rig: Rig) -> None:
    await rig.put([ONE])
    assert (await handler(rig, sources=fed(rig, "things", prefix="exports/"))(event(rig))).terminal
    assert await rig.ledger() == []
