"""The sources file: what it may say, and every problem of it at once, by line and path, with what to do."""

from __future__ import annotations

import pytest

from ingest_service.decode import Dialect
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
        "s.yaml:4: sources[0].colour: is not known: use dataset, bucket, prefix, suffix, glob, parts, dialect",
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
        (
            "sources: [a]",
            "s.yaml:1: sources[0]: must be a mapping with dataset, bucket, prefix, suffix, glob, parts, dialect",
        ),
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


def test_dialect_has_the_fields_of_dialect() -> None:
    text = r"""
sources:
  - dataset: ports
    bucket: lake
    dialect:
      format: csv
      delimiter: "\t"
      quote: null
      header: [icao, "", name]
      null_tokens: ["NULL", "-"]
      timestamp_formats: ["%d.%m.%Y"]
      decimal_comma: true
"""
    (source,) = read_sources(text, name="s.yaml", datasets=DATASETS).sources
    assert source.dialect == Dialect(
        format="csv",
        delimiter="\t",
        quote=None,
        header=("icao", "", "name"),
        null_tokens=("NULL", "-"),
        timestamp_formats=("%d.%m.%Y",),
        decimal_comma=True,
    )


@pytest.mark.parametrize(
    ("dialect", "problem"),
    [
        ("{delimiter: ;;}", "sources[0].dialect: delimiter ';;' must be one ASCII character"),
        ("{delimiter: null}", "sources[0].dialect.delimiter: must be text"),
        ("{null_tokens: [NULL]}", "sources[0].dialect.null_tokens[0]: must be text: put it in quotes"),
        ("{null_tokens: NULL}", "sources[0].dialect.null_tokens: must be a list of texts"),
        ("{decimal_comma: 1}", "sources[0].dialect.decimal_comma: must be true or false"),
        ("{comma: true}", "sources[0].dialect.comma: is not known"),
        ("csv", "sources[0].dialect: must be a mapping with format, delimiter"),
    ],
)
def test_dialect_that_does_not_work_is_told_by_its_place(dialect: str, problem: str) -> None:
    (line,) = problems(f"sources: [{{dataset: ports, bucket: lake, dialect: {dialect}}}]")
    assert line.startswith(f"s.yaml:1: {problem}")


def test_snapshot_may_come_in_parts_and_nothing_else() -> None:
    text = """sources:
  - {dataset: ports, bucket: lake, prefix: %s/, parts: %s}
"""
    for flag in ("true", "false"):
        (source,) = read_sources(text % ("a", flag), name="s.yaml", datasets=DATASETS, snapshots=DATASETS).sources
        assert source.parts is (flag == "true")
    assert problems(text % ("a", "true")) == [
        "s.yaml:2: sources[0].parts: the contract of 'ports' has not FILE_POLICY_SNAPSHOT: leave parts out"
    ]
    assert problems(text % ("a", "1")) == ["s.yaml:2: sources[0].parts: must be true or false"]
