"""The newest applied version of each object: kept for ever, replaced only by a newer one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ingest_service.ledger import objects
from ingest_service.ledger.records import LoadState, LoadTrigger, MergeResult, ObjectVersion
from shared.errors import FailedPrecondition
from tests.integration.merge.lab import Lab, Thing

ROWS = [Thing(owner="o", number=1)]


async def _load(lab: Lab, version: ObjectVersion, trigger: LoadTrigger = LoadTrigger.EVENT) -> MergeResult:
    async with lab.connect() as connection:
        return await lab.load(connection, ROWS, version, trigger=trigger)


async def _sequencer(lab: Lab) -> str | None:
    async with lab.connect() as connection:
        held = await objects.applied_object(connection, "things", "lab", "things/a.csv")
    assert held is not None
    return held.object.sequencer


async def test_duplicate_delivery_is_a_no_op(lab: Lab) -> None:
    version = lab.version_of(sequencer="0A")
    assert (await _load(lab, version)).state is LoadState.SUCCEEDED
    again = await _load(lab, version)
    assert (again.state, again.dataset_version) == (LoadState.ALREADY_APPLIED, 1)


async def test_older_event_is_superseded_and_changes_nothing(lab: Lab) -> None:
    older, newer = lab.version_of(sequencer="0A"), lab.version_of(sequencer="0B")
    await _load(lab, newer)
    assert (await _load(lab, older)).state is LoadState.SUPERSEDED
    async with lab.connect() as connection:
        held = await objects.applied_object(connection, "things", "lab", "things/a.csv")
        assert await lab.version(connection) == (1, 1)
    assert held is not None
    assert held.object == newer


async def test_late_event_after_populate_is_ordered_by_last_modified(lab: Lab) -> None:
    first, between, current = (lab.version_of(sequencer=s) for s in ("0A", "0B", "0C"))
    populated = ObjectVersion(bucket="lab", key=current.key, etag=current.etag, last_modified=current.last_modified)
    await _load(lab, first)
    assert (await _load(lab, populated, LoadTrigger.POPULATE)).state is LoadState.SUCCEEDED
    assert await _sequencer(lab) is None
    assert (await _load(lab, between)).state is LoadState.SUPERSEDED
    assert (await _load(lab, current)).state is LoadState.ALREADY_APPLIED
    assert await _sequencer(lab) == "0C"


async def test_populate_of_the_applied_version_keeps_its_sequencer(lab: Lab) -> None:
    version = lab.version_of(sequencer="0A")
    await _load(lab, version)
    without_event = ObjectVersion(bucket="lab", key=version.key, etag=version.etag, last_modified=version.last_modified)
    async with lab.connect() as connection:
        forced = await lab.load(connection, ROWS, without_event, force=True)
    assert (forced.state, forced.rows_unchanged) == (LoadState.SUCCEEDED, 1)
    assert await _sequencer(lab) == "0A"


async def test_removal_before_the_create_event_is_remembered(lab: Lab) -> None:
    created = lab.version_of(sequencer="0A")
    async with lab.connect() as connection:
        removal = ObjectVersion(bucket="lab", key=created.key, sequencer="0B")
        assert await objects.remove_object(connection, lab.dataset, removal)
    result = await _load(lab, created)
    assert (result.state, result.reason) == (LoadState.SUPERSEDED, "OBJECT_REMOVED")
    assert (await _load(lab, lab.version_of(sequencer="0C"))).state is LoadState.SUCCEEDED


async def test_removal_older_than_the_applied_version_is_ignored(lab: Lab) -> None:
    await _load(lab, lab.version_of(sequencer="0B"))
    async with lab.connect() as connection:
        removal = ObjectVersion(bucket="lab", key="things/a.csv", sequencer="0A")
        assert not await objects.remove_object(connection, lab.dataset, removal)
        held = await objects.applied_object(connection, "things", "lab", "things/a.csv")
    assert held is not None
    assert not held.removed


async def test_removal_keeps_the_rows_and_the_version(lab: Lab) -> None:
    await _load(lab, lab.version_of(sequencer="0A"))
    async with lab.connect() as connection:
        removal = ObjectVersion(bucket="lab", key="things/a.csv", sequencer="0B")
        assert await objects.remove_object(connection, lab.dataset, removal)
        assert await lab.version(connection) == (1, 1)


async def test_removal_without_an_event_does_not_outlive_what_was_loaded_since(lab: Lab) -> None:
    """A listing saw no object; before the ledger was told, it was there again and loaded."""
    await _load(lab, lab.version_of())
    gone = ObjectVersion(bucket="lab", key="things/a.csv")
    async with lab.connect() as connection:
        seen = await objects.applied_object(connection, "things", "lab", gone.key)
        await _load(lab, lab.version_of())
        assert not await objects.remove_object(connection, lab.dataset, gone, seen=seen)
        seen = await objects.applied_object(connection, "things", "lab", gone.key)
        assert await objects.remove_object(connection, lab.dataset, gone, seen=seen)


async def test_removal_from_a_dataset_that_was_not_migrated_is_refused(lab: Lab) -> None:
    async with lab.connect("penstock") as owner:
        await owner.execute("DELETE FROM penstock.datasets")
    async with lab.connect() as connection:
        with pytest.raises(FailedPrecondition):
            await objects.remove_object(connection, lab.dataset, ObjectVersion(bucket="lab", key="k"))


async def test_early_refusal_spares_the_download(lab: Lab) -> None:
    version = lab.version_of(sequencer="0A")
    await _load(lab, version)
    async with lab.connect() as connection:
        load = await lab.start(connection, version, LoadTrigger.EVENT)
        refused = await objects.refused(connection, load, lab.dataset)
        assert refused is not None
        assert refused.state is LoadState.ALREADY_APPLIED
        assert await objects.refused(connection, load, replace(lab.dataset, fingerprint="another contract")) is None
