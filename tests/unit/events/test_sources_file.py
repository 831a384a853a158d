"""The sources file: what it may say, and every problem of it at once, by line and path, with what to do."""

from __future__ import annotations

import pytest

from ingest_service.sources import Source, Sources
from ingest_service.sources_file import read_sources
from shared.errors import ConfigError

DATASETS = ("ports",)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_sources(text, name="s.yaml", datasets=DATASETS)
    assert caught.value.reason == "SOURCES_INVALID"
    return caught.value.message.splitlines()


def test_sources_come_in_the_order_of_the_file_with_the_parts_that_are_set() -> None:
    text = """
sources:
  - dataset: ports
    bucket: lake
    prefix: exports/
    suffix: .csv
    glob: "**/[0-9]*"
  - {dataset: ports, bucket: "123"}
"""
    assert read_sources(text, name="s.yaml", datasets=DATASETS, more_buckets=["archive"]) == Sources(
        sources=(
            Source(dataset="ports", bucket="lake", prefix="exports/", suffix=".csv", glob="**/[0-9]*"),
            Source(dataset="ports", bucket="123"),
        ),
        more_buckets=frozenset({"archive"}),
    )


def test_all_problems_are_told_at_once_by_line_and_path() -> None:
    text = """sources:
  - dataset: trains
    bucket: s3://lake
    colour: blue
  - bucket: lake
    prefix: /exports
    glob: a**/{b,c}
    bucket: pond
  - dataset: 7
    bucket: lake
    suffix: [a]
more: {}
"""
    assert problems(text) == [
        "s.yaml:12: more: is not known: use sources",
        "s.yaml:4: sources[0].colour: is not known: use dataset, bucket, prefix, suffix, glob",
        "s.yaml:2: sources[0].dataset: no contract has the dataset 'trains': add its contract, or name one of: ports",
        "s.yaml:3: sources[0].bucket: 's3://lake' is no bucket name: write it without s3:// and without a path",
        "s.yaml:8: sources[1].bucket: is given twice: remove one",
        "s.yaml:5: sources[1]: has no dataset: name the dataset to load into",
        "s.yaml:7: sources[1].glob: 'a**/{b,c}': ** stands for whole folders: put it between slashes, such as **/*.csv",
        "s.yaml:7: sources[1].glob: 'a**/{b,c}': there are no alternatives in braces: write a source for each",
        "s.yaml:6: sources[1].prefix: '/exports': keys begin without a slash and without the bucket: leave it out",
        "s.yaml:9: sources[2].dataset: must be text: put it in quotes",
        "s.yaml:11: sources[2].suffix: must be text: put it in quotes",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "s.yaml:1: is empty: list the sources under `sources`"),
        ("a: [", "s.yaml:1: is not YAML: expected the node content, but found '<stream end>'"),
        ("- a", "s.yaml:1: document: must be a mapping with sources"),
        ("{}", "s.yaml:1: sources: is missing: list the sources under it"),
        ("sources: []", "s.yaml:1: sources: must be a list of sources, one `- dataset: ...` each"),
        ("sources:", "s.yaml:1: sources: must be a list of sources, one `- dataset: ...` each"),
        ("sources: [a]", "s.yaml:1: sources[0]: must be a mapping with dataset, bucket, prefix, suffix, glob"),
        ("sources: [{dataset: ports, bucket: lake, prefix: ''}]", "must not be empty"),
        ("sources: [{dataset: ports, bucket: lake, prefix: 'a/*/'}]", "patterns go into glob"),
        ("sources: [{dataset: ports, bucket: lake, glob: /a}]", "take a slash out"),
        ("sources: [{dataset: ports, bucket: lake, prefix: no}]", "must be text"),
        ("[" * 2000, "is not YAML"),
        ("#" * (1 << 20) + "#", "is larger than"),
    ],
)
def test_file_of_another_form_is_one_problem(text: str, line: str) -> None:
    (problem,) = problems(text)
    assert line in problem


def test_source_that_an_earlier_one_leaves_nothing_for_is_refused() -> None:
    text = """
sources:
  - {dataset: ports, bucket: lake, prefix: a/}
  - {dataset: ports, bucket: lake, prefix: a/b/}
  - {dataset: ports, bucket: pond, prefix: a/b/}
"""
    assert problems(text) == [
        "s.yaml:4: sources[1]: takes nothing, sources[0] takes it all before: put the narrower one first, or remove it"
    ]
