"""Which object, which dataset, and whether the bucket may be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_service.routing import (
    ObjectUri,
    choose_dataset,
    dataset_of,
    is_folder_marker,
    parse_prefix,
    parse_uri,
    require_readable,
)
from shared.errors import InvalidRequest, PermissionDenied


@given(
    st.from_regex(r"[a-z0-9][a-z0-9.-]{1,20}", fullmatch=True),
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=50),
)
def test_uri_round_trips_for_any_key(bucket: str, key: str) -> None:
    uri = ObjectUri(bucket=bucket, key=key)
    assert parse_uri(str(uri)) == uri


def test_query_fragment_and_percent_are_part_of_the_key() -> None:
    assert parse_uri("s3://lake/a%20b?c#d//e").key == "a%20b?c#d//e"


@pytest.mark.parametrize(
    "text", ["", "lake/a", "http://lake/a", "s3:/lake/a", "s3://", "s3:///a", "s3://lake", "s3://lake/"]
)
def test_what_names_no_object_is_refused_naming_the_field(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_uri(text, field="uri")
    assert caught.value.violations[0].field == "uri"


@pytest.mark.parametrize("key", ["a\x00b", "é" * 513])
def test_key_that_s3_or_the_ledger_cannot_hold_is_refused(key: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_uri(f"s3://lake/{key}")


def test_prefix_may_be_a_whole_bucket() -> None:
    assert parse_prefix("s3://lake") == parse_prefix("s3://lake/") == ObjectUri(bucket="lake", key="")


@pytest.mark.parametrize(
    ("key", "dataset"),
    [
        ("airports/a.csv", "airports"),
        ("airports/2024/05/a.csv", "airports"),
        ("airports/", "airports"),
        ("airports", None),
        ("/airports/a.csv", None),
        ("Airports/a.csv", None),
        ("9lives/a.csv", None),
        ("a-b/a.csv", None),
        (f"{'a' * 49}/a.csv", None),
    ],
)
def test_first_segment_names_the_dataset(key: str, dataset: str | None) -> None:
    assert dataset_of(key) == dataset


def test_requested_dataset_wins_over_the_key() -> None:
    assert choose_dataset("airports/a.csv", requested="ports", known={"airports", "ports"}) == "ports"
    assert choose_dataset("airports/a.csv", requested="", known={"airports", "ports"}) == "airports"


@pytest.mark.parametrize(("key", "requested"), [("airports/a.csv", "nope"), ("a.csv", ""), ("nope/a.csv", "")])
def test_unknown_dataset_is_refused_with_the_known_ones(key: str, requested: str) -> None:
    with pytest.raises(InvalidRequest, match="airports"):
        choose_dataset(key, requested=requested, known={"airports"})


def test_only_configured_buckets_are_readable() -> None:
    require_readable("lake", {"lake", "pond"})
    with pytest.raises(PermissionDenied, match="lake, pond") as caught:
        require_readable("sea", {"lake", "pond"})
    assert caught.value.reason == "BUCKET_NOT_CONFIGURED"


def test_folder_markers_end_in_a_slash() -> None:
    assert is_folder_marker("airports/")
    assert not is_folder_marker("airports/a.csv")
