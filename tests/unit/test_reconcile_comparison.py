"""What a reconcile makes of an object that lies in a bucket, and where it looks."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_service.ledger.decision import AppliedObject
from ingest_service.ledger.records import Load, LoadState, LoadTrigger, ObjectVersion
from ingest_service.objects import ListedObject
from ingest_service.reconcile.comparison import GapKind, Place, Window, end_of, judge, places, replaces
from ingest_service.routing import ObjectUri
from ingest_service.sources import Source, Sources
from shared.contract.model import SnapshotOrder
from tests.unit.ledger_loads import NOON, load_of
from tests.unit.test_ledger_decision import SECOND, applied, version

MINUTE = 60 * SECOND


def listed(etag: str = "e1", last_modified: dt.datetime = NOON) -> ListedObject:
    return ListedObject(bucket="b", key="k", etag=etag, last_modified=last_modified, size_bytes=1)


def attempt(state: LoadState, reason: str = "", fingerprint: str = "f", **changes: object) -> Load:
    facts = {"state": state, "reason": reason, "fingerprint": fingerprint, "created_at": NOON + 2 * MINUTE}
    return load_of(version(**changes), **facts)


FAILED = attempt(LoadState.FAILED, "CORRUPT_GZIP")


@pytest.mark.parametrize(
    ("held", "kind"),
    [
        (None, GapKind.MISSING),
        (applied(version()), None),
        (applied(version(etag="e0")), GapKind.OUTDATED),
        (applied(version(last_modified=NOON - SECOND)), GapKind.OUTDATED),
        (applied(version(), removed=True), GapKind.MISSING),
        (applied(version(), removed=True, unloaded=True), None),
        (applied(version(etag="e0"), removed=True, unloaded=True), GapKind.MISSING),
        (replace(applied(version()), fingerprint="other"), None),
    ],
    ids=["unknown", "loaded", "overwritten", "uploaded-again", "came-back", "unloaded", "new-after-unload", "contract"],
)
def test_object_in_the_bucket_is_compared_with_what_is_applied(
    held: AppliedObject | None, kind: GapKind | None
) -> None:
    assert judge(listed(), held, None, "f") is kind


def test_times_are_compared_in_whole_seconds() -> None:
    """HEAD has no fractions; some stores list them."""
    fraction = listed(last_modified=NOON + dt.timedelta(milliseconds=250))
    assert judge(fraction, applied(version()), None, "f") is None

    truth, order = applied(ObjectVersion(bucket="b", key="l", last_modified=NOON)), SnapshotOrder.LAST_MODIFIED
    assert not replaces(fraction, truth, order), "of one second: the key decides"
    assert replaces(replace(fraction, key="m"), truth, order)


@pytest.mark.parametrize(
    ("last", "kind"),
    [
        (FAILED, GapKind.FAILED),
        (attempt(LoadState.CANCELLED, "CANCELLED"), GapKind.FAILED),
        (attempt(LoadState.RUNNING), None),
        (attempt(LoadState.FAILED, "S3_UNAVAILABLE"), GapKind.MISSING),
        (attempt(LoadState.ABANDONED, "SHUTDOWN"), GapKind.MISSING),
        (attempt(LoadState.FAILED, "CORRUPT_GZIP", etag="e0"), GapKind.MISSING),
        (attempt(LoadState.FAILED, "CORRUPT_GZIP", last_modified=NOON - SECOND), GapKind.MISSING),
        (attempt(LoadState.FAILED, "CORRUPT_GZIP", fingerprint="other"), GapKind.MISSING),
        (attempt(LoadState.SUPERSEDED, "OBJECT_GONE"), GapKind.MISSING),
    ],
    ids=["for-good", "cancelled", "in-work", "for-now", "stopped", "other-version", "older", "contract", "superseded"],
)
def test_object_that_failed_for_good_is_not_tried_again_until_something_changes(
    last: Load, kind: GapKind | None
) -> None:
    assert judge(listed(), None, last, "f") is kind


def test_bug_of_a_reconcile_is_not_met_again_every_hour() -> None:
    bug = attempt(LoadState.FAILED, "INTERNAL")
    assert judge(listed(), None, bug, "f") is GapKind.MISSING, "an event brings it back"
    assert judge(listed(), None, replace(bug, trigger=LoadTrigger.RECONCILE), "f") is GapKind.FAILED


def test_attempt_that_never_opened_its_object_counts_for_what_was_there_long_before_it() -> None:
    denied = attempt(LoadState.FAILED, "S3_ACCESS_DENIED", etag=None, last_modified=None)
    assert judge(listed(), None, denied, "f") is GapKind.FAILED
    assert judge(listed(last_modified=NOON + 2 * MINUTE), None, denied, "f") is GapKind.MISSING
    of_a_version = replace(denied, object=replace(denied.object, version_id="v"))
    assert judge(listed(), None, of_a_version, "f") is GapKind.MISSING, "an event's version need not be the current one"


def source(dataset: str, prefix: str = "", glob: str = "", bucket: str = "b") -> Source:
    return Source(dataset=dataset, bucket=bucket, prefix=prefix, glob=glob)


SOURCES = Sources(
    sources=(
        source("a", "in/"),
        source("b", "in/", "2024/*.csv"),
        source("c", "other/"),
        source("a", "in/", bucket="far"),
    )
)


def place(prefix: str, *datasets: str, bucket: str = "b") -> Place:
    return Place(bucket=bucket, prefix=prefix, datasets=datasets)


@pytest.mark.parametrize(
    ("datasets", "within", "expected"),
    [
        ("abc", None, [place("in/", "a", "b"), place("other/", "c"), place("in/", "a", bucket="far")]),
        ("b", None, [place("in/2024/", "b")]),
        ("abc", ("b", ""), [place("in/", "a", "b"), place("other/", "c")]),
        ("abc", ("b", "in/2024/07/"), [place("in/2024/07/", "a", "b")]),
        ("abc", ("b", "nowhere/"), []),
        ("c", ("far", ""), []),
    ],
)
def test_each_place_is_listed_once_for_all_its_datasets(
    datasets: str, within: tuple[str, str] | None, expected: list[Place]
) -> None:
    uri = ObjectUri(bucket=within[0], key=within[1]) if within else None
    assert places(SOURCES, datasets, uri) == expected


def test_window_is_half_open() -> None:
    window = Window(since=NOON, before=NOON + MINUTE)
    moments = (NOON - SECOND, NOON, NOON + MINUTE - SECOND, NOON + MINUTE)
    assert [window.holds(moment) for moment in moments] == [False, True, True, False]
    assert Window().holds(NOON)


@given(st.text(max_size=4), st.text(max_size=4))
def test_end_of_a_prefix_comes_behind_everything_that_begins_with_it(prefix: str, rest: str) -> None:
    end = end_of(prefix)
    if end is None:
        assert prefix.strip("\U0010ffff") == ""
    else:
        assert (prefix + rest).encode() < end.encode()
        assert not end.startswith(prefix) or not prefix
