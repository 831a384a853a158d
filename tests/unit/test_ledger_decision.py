"""Which version of an object may be applied over which."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from ingest_service.ledger.decision import AppliedObject, refusal, removal_is_stale, same_version
from ingest_service.ledger.records import Load, LoadState, LoadTrigger, ObjectVersion
from tests.unit.ledger_loads import NOON, load_of

SECOND = dt.timedelta(seconds=1)


def version(**changes: Any) -> ObjectVersion:
    values: dict[str, Any] = {"etag": "e1", "last_modified": NOON, "size_bytes": 1}
    return ObjectVersion(bucket="b", key="k", **(values | changes))


def applied(object_version: ObjectVersion, **changes: Any) -> AppliedObject:
    values: dict[str, Any] = {"removed": False, "updated_at": NOON - SECOND} | changes
    return AppliedObject(id=1, object=object_version, fingerprint="f", dataset_version=3, **values)


def answer(load: Load, held: AppliedObject | None, fingerprint: str = "f") -> LoadState | None:
    refused = refusal(load, held, fingerprint)
    return None if refused is None else refused.state


def test_object_never_seen_is_applied() -> None:
    assert answer(load_of(version()), None) is None


def test_identical_version_is_already_applied() -> None:
    assert answer(load_of(version()), applied(version())) is LoadState.ALREADY_APPLIED


def test_identical_version_is_applied_again_under_another_contract() -> None:
    assert answer(load_of(version()), applied(version()), "other") is None


def test_identical_version_is_applied_again_by_force() -> None:
    assert answer(load_of(version(), force=True), applied(version())) is None


def test_equal_etag_alone_never_skips() -> None:
    """Monday's file uploaded again to undo Tuesday's."""
    monday_again = version(last_modified=NOON + 2 * SECOND)
    assert answer(load_of(monday_again), applied(version())) is None


def test_version_id_decides_where_there_is_one() -> None:
    assert same_version(version(version_id="1"), version(version_id="1", etag="other"))
    assert not same_version(version(version_id="1"), version(version_id="2"))
    assert not same_version(version(version_id="1"), version())
    assert not same_version(version(etag=None), version(etag=None))


@pytest.mark.parametrize("force", [False, True])
def test_older_event_never_overwrites_newer_object(force: bool) -> None:
    newer = applied(version(sequencer="0B", etag="e2"))
    older = load_of(version(sequencer="0A", last_modified=NOON + SECOND), force=force)
    assert answer(older, newer) is LoadState.SUPERSEDED


def test_later_event_wins_even_with_an_older_last_modified() -> None:
    """A deleted version brings the one before it back."""
    restored = load_of(version(sequencer="0C", etag="e0", last_modified=NOON - SECOND))
    assert answer(restored, applied(version(sequencer="0B"))) is None


@pytest.mark.parametrize("force", [False, True])
def test_last_modified_decides_where_a_sequencer_is_missing(force: bool) -> None:
    held = applied(version(etag="e2"))
    late = load_of(version(sequencer="0A", last_modified=NOON - SECOND), force=force)
    assert answer(late, held) is LoadState.SUPERSEDED
    assert answer(load_of(version(sequencer="0A", last_modified=NOON + SECOND)), held) is None


def test_reconcile_reads_what_is_current_and_may_go_back_to_a_deleted_versions_predecessor() -> None:
    """Its version is older, and it is what lies in the bucket after the ledger was asked."""
    restored = load_of(version(etag="e0", last_modified=NOON - SECOND), trigger=LoadTrigger.RECONCILE)
    assert answer(restored, applied(version())) is None
    assert answer(restored, applied(version(), removed=True)) is None
    assert answer(restored, applied(version(), updated_at=NOON + SECOND)) is LoadState.SUPERSEDED
    assert answer(replace(restored, trigger=LoadTrigger.POPULATE), applied(version())) is LoadState.SUPERSEDED


def test_create_event_older_than_the_removal_is_superseded() -> None:
    gone = applied(version(etag=None, last_modified=None, sequencer="0B"), removed=True)
    assert answer(load_of(version(sequencer="0A")), gone) is LoadState.SUPERSEDED
    assert answer(load_of(version(sequencer="0C")), gone) is None


def test_event_of_the_unloaded_version_is_superseded_but_a_caller_may_load_it_again() -> None:
    gone = applied(version(), removed=True)
    assert answer(load_of(version(sequencer="0A")), gone) is LoadState.SUPERSEDED
    assert answer(load_of(version(), trigger=LoadTrigger.POPULATE), gone) is None


def test_caller_whose_load_began_before_the_removal_is_superseded() -> None:
    gone = applied(version(), removed=True, updated_at=NOON + SECOND)
    assert answer(load_of(version(), trigger=LoadTrigger.POPULATE), gone) is LoadState.SUPERSEDED


def test_removal_is_stale_only_when_its_event_is_older() -> None:
    held = applied(version(sequencer="0B"))
    assert removal_is_stale(version(sequencer="0A"), held)
    assert not removal_is_stale(version(sequencer="0C"), held)
    assert not removal_is_stale(version(), held)
    assert not removal_is_stale(version(sequencer="0A"), replace(held, object=version()))
