"""Which object, which dataset, and whether the bucket may be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_service.routing import (
    ObjectUri,
    dataset_of,
    is_folder_marker,
    is_hidden,
    parse_prefix,
    parse_uri,
)
from shared.errors import InvalidRequest


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


def test_folder_markers_end_in_a_slash() -> None:
    assert is_folder_marker("airports/")
    assert not is_folder_marker("airports/a.csv")


@pytest.mark.parametrize(
    "key",
    ["d/_SUCCESS", "d/_temporary/0/part-0.csv", "d/.part-0.csv.crc", "d/.hidden/a.csv", "_a/b.csv", "d/_committed_1"],
)
def test_names_that_begin_with_underscore_or_dot_are_no_data(key: str) -> None:
    assert is_hidden(key)


@pytest.mark.parametrize("key", ["d/a_b.csv", "d/a.b/c.csv", "d/_year=2024/a.csv", "d/../e/./f", "d/", "", "a//b"])
def test_other_names_are_data_and_so_are_partitions(key: str) -> None:
    assert not is_hidden(key)


@pytest.mark.parametrize("under", ["_exports/", "_exports", "_exports/2024"])
def test_names_that_begin_in_the_given_prefix_are_meant(under: str) -> None:
    assert not is_hidden("_exports/2024_a.csv", under=under)
    assert is_hidden("_exports/2024_a/_SUCCESS", under=under)
