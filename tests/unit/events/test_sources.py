"""Which objects go to which datasets, with a sources file and without."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_service.routing import ObjectUri, Role
from ingest_service.sources import (
    Source,
    Sources,
    covers,
    glob_leads_to,
    glob_matches,
    sources_by_name,
    unknown_dataset,
)
from shared.errors import InvalidRequest, PermissionDenied

NAMED = sources_by_name(["airports", "ports"], ["lake", "pond"])
FILED = Sources(
    sources=(
        Source(dataset="ports", bucket="lake", prefix="exports/", suffix=".csv", glob="*/ports-*"),
        Source(dataset="airports", bucket="lake", prefix="exports/", glob="**/airports*.csv"),
        Source(dataset="airports_v2", bucket="lake", prefix="exports/", glob="**/airports*.csv"),
        Source(dataset="airports", bucket="lake", prefix="exports/"),
        Source(dataset="ports", bucket="sea"),
    ),
    more_buckets=frozenset({"archive"}),
)


def at(key: str, bucket: str = "lake") -> ObjectUri:
    return ObjectUri(bucket=bucket, key=key)


@pytest.mark.parametrize(
    ("glob", "path", "fits"),
    [
        ("*.csv", "a.csv", True),
        ("*.csv", "d/a.csv", False),
        ("*/a.csv", "d/a.csv", True),
        ("**/*.csv", "a.csv", True),
        ("**/*.csv", "d/e/a.csv", True),
        ("d/**/a.csv", "d/a.csv", True),
        ("d/**/a.csv", "d/e/f/a.csv", True),
        ("d/**/a.csv", "e/a.csv", False),
        ("d/**", "d/a", True),
        ("d/**", "d/e/a", True),
        ("d/**", "d", False),
        ("**", "a", True),
        ("**/d/**/*.csv", "x/d/y/d/a.csv", True),
        ("a?c[0-9][!x].csv", "abc1y.csv", True),
        ("a?c.csv", "a/c.csv", False),
        ("*.CSV", "a.csv", False),
        ("a", "a/", False),
        ("[*]", "*", True),
    ],
)
def test_stars_stay_in_a_segment_and_double_stars_are_folders(glob: str, path: str, fits: bool) -> None:
    assert glob_matches(glob, path) is fits


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_glob_of_one_segment_is_fnmatch(glob: str, path: str) -> None:
    if glob != "**":
        assert glob_matches(glob, path) == fnmatch.fnmatchcase(path, glob)


def test_no_glob_takes_exponential_time() -> None:
    assert not glob_matches("/".join(["**", "*a*"] * 100) + "/b", "/".join(["a" * 10] * 100))


def test_object_feeds_every_dataset_with_a_source_that_takes_it() -> None:
    assert [source.dataset for source in FILED.of(at("exports/x/airports-1.csv"))] == ["airports", "airports_v2"]
    assert FILED.of(at("elsewhere/a.csv")) == FILED.of(at("exports/a.csv", "pond")) == ()


def test_every_part_of_a_source_must_fit() -> None:
    assert [source.dataset for source in FILED.of(at("exports/x/ports-1.csv"))] == ["ports", "airports"]
    for key in ("exports/x/ports-1.txt", "exports/x/y/ports-1.csv", "imports/x/ports-1.csv"):
        assert "ports" not in {source.dataset for source in FILED.of(at(key))}


def test_first_source_of_a_dataset_that_takes_the_object_decides() -> None:
    assert FILED.of_dataset(at("exports/airports.csv"), "airports") is FILED.sources[1]
    assert FILED.of_dataset(at("exports/else.csv"), "airports") is FILED.sources[3]
    assert FILED.of_dataset(at("exports/else.csv"), "ports") is None


def test_without_a_file_the_first_segment_names_the_dataset_in_every_bucket() -> None:
    for bucket in ("lake", "pond"):
        assert [source.dataset for source in NAMED.of(at("airports/2024/a.csv", bucket))] == ["airports"]
    assert NAMED.of(at("airports.csv")) == NAMED.of(at("airports/a.csv", "sea")) == ()


def test_only_by_its_name_an_object_can_feed_a_dataset_that_is_not_known_here() -> None:
    assert unknown_dataset(NAMED, at("trains/a.csv")) == "trains"
    assert unknown_dataset(NAMED, at("trains/a.csv", "sea")) is None
    assert unknown_dataset(FILED, at("trains/a.csv")) is None


def test_requested_dataset_wins_over_the_sources() -> None:
    known = {"airports", "ports"}
    assert NAMED.choose_dataset(at("airports/a.csv"), requested="ports", known=known) == "ports"
    assert NAMED.choose_dataset(at("airports/a.csv"), requested="", known=known) == "airports"
    assert NAMED.choose_dataset(at("airports/2024"), requested="", known=known, is_prefix=True) == "airports"


@pytest.mark.parametrize(("key", "requested"), [("airports/a.csv", "nope"), ("a.csv", ""), ("nope/a.csv", "")])
def test_unknown_dataset_is_refused_with_the_known_ones(key: str, requested: str) -> None:
    for sources in (NAMED, FILED):
        with pytest.raises(InvalidRequest, match="ports"):
            sources.choose_dataset(at(key), requested=requested, known={"ports"})


def test_dataset_must_be_given_where_the_object_feeds_several() -> None:
    with pytest.raises(InvalidRequest, match="feeds airports, airports_v2, so the dataset must be given"):
        FILED.choose_dataset(at("exports/airports.csv"), requested="", known={"airports", "airports_v2"})
    with pytest.raises(InvalidRequest, match="feeds airports, airports_v2, ports"):
        FILED.choose_dataset(at("exports/2024/"), requested="", known={"airports"}, is_prefix=True)
    assert FILED.choose_dataset(at("any/", "sea"), requested="", known={"ports"}, is_prefix=True) == "ports"


def test_only_configured_buckets_are_readable() -> None:
    for bucket in ("lake", "sea", "archive"):
        FILED.require_readable(bucket)
    with pytest.raises(PermissionDenied, match="archive, lake, sea") as caught:
        FILED.require_readable("pond")
    assert caught.value.reason == "BUCKET_NOT_CONFIGURED"


def test_source_that_another_one_covers_is_told() -> None:
    wide = Source(dataset="d", bucket="b", prefix="x/")
    assert covers(wide, Source(dataset="d", bucket="b", prefix="x/y/", glob="*"))
    assert not covers(Source(dataset="d", bucket="b", prefix="x/y/"), wide)
    assert not covers(wide, Source(dataset="e", bucket="b", prefix="x/"))
    assert not covers(Source(dataset="d", bucket="b", glob="*"), wide)
    assert covers(Source(dataset="d", bucket="b", suffix=".csv"), Source(dataset="d", bucket="b", suffix="a.csv"))


@pytest.mark.parametrize(
    ("key", "role"),
    [
        ("out/2024/part-1.csv", Role.PART),
        ("out/part-1.csv", Role.PART),
        ("out/2024/deep/part-1.csv", Role.PART),
        ("out/_SUCCESS", Role.MARKER),
        ("out/2024/_SUCCESS", Role.MARKER),
        ("out/_temporary/0/_SUCCESS", Role.HIDDEN),
        ("out/_temporary/0/part-1.csv", Role.HIDDEN),
        ("out/2024/_metadata", Role.HIDDEN),
        ("out/2024/", Role.DATA),
    ],
)
def test_source_of_parts_tells_parts_from_markers_by_their_names(key: str, role: Role) -> None:
    parts = Source(dataset="d", bucket="lake", prefix="out/", parts=True)
    assert parts.takes(at(key))
    assert parts.role_of(at(key)) is role


def test_without_parts_a_marker_is_hidden_and_all_else_is_data() -> None:
    source = Source(dataset="d", bucket="lake", prefix="out/")
    assert source.role_of(at("out/2024/_SUCCESS")) is Role.HIDDEN
    assert source.role_of(at("out/2024/part-1.csv")) is Role.DATA


def test_marker_is_taken_whatever_the_suffix_in_every_folder_that_the_glob_leads_to() -> None:
    parts = Source(dataset="d", bucket="lake", prefix="out/", suffix=".csv", glob="day-*/*/p*", parts=True)
    assert [parts.takes(at(f"out/{path}")) for path in ("day-1/a/p1.csv", "day-1/a/p1.json")] == [True, False]
    for folder in ("", "day-1/", "day-1/a/"):
        assert parts.takes(at(f"out/{folder}_SUCCESS"))
    for folder in ("night-1/", "day-1/a/b/"):
        assert not parts.takes(at(f"out/{folder}_SUCCESS"))


@pytest.mark.parametrize(
    ("glob", "folder", "leads"),
    [("**/*.csv", "a/b/", True), ("a/**", "a/b/", True), ("a/**", "b/", False), ("*.csv", "a/", False)],
)
def test_glob_leads_to_the_folders_that_may_hold_what_fits(glob: str, folder: str, leads: bool) -> None:
    assert glob_leads_to(glob, folder) is leads


def test_source_that_takes_no_markers_does_not_cover_one_of_parts() -> None:
    parts = Source(dataset="d", bucket="b", prefix="x/", suffix=".csv", parts=True)
    assert not covers(Source(dataset="d", bucket="b", prefix="x/", suffix=".csv"), parts)
    assert covers(Source(dataset="d", bucket="b", prefix="x/"), parts)
    assert covers(parts, parts)
