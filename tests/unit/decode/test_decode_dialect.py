"""A source's dialect: what departs from the defaults is read as told, and a dialect that cannot be meant is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ingest_service.decode import Dialect, MalformedObject

PATHS = pytest.mark.parametrize("row_by_row", [False, True])


@pytest.mark.parametrize("delimiter", [";", "|", "\t", " ", "^", "]", "-", "\\", ")", "."])
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_any_ascii_character_may_be_the_delimiter(decode: Any, delimiter: str, chunk: int) -> None:
    data = f'icao{delimiter}name\nAAAA{delimiter}"a{delimiter}""b""\nc"\nBBBB{delimiter}x,y\n'.encode()
    got = decode("airports", "a.csv", data, chunk=chunk, dialect=Dialect(delimiter=delimiter))
    assert [row["name"] for row in got.rows] == [f'a{delimiter}"b"\nc', "x,y"]
    assert (got.lines, got.rejects) == ([2, 4], [])


@pytest.mark.parametrize("quote", ["'", "|", "^", "]"])
def test_another_quote_takes_the_place_of_the_usual_one(decode: Any, quote: str) -> None:
    data = f'icao,name\nAAAA,{quote}a,{quote}{quote}b{quote}\nBBBB,"x"\n'.encode()
    got = decode("airports", "a.csv", data, dialect=Dialect(quote=quote))
    assert [row["name"] for row in got.rows] == [f"a,{quote}b", '"x"']


def test_without_quoting_quotes_are_text_and_every_line_is_a_row(decode: Any) -> None:
    got = decode("airports", "a.csv", b'icao;name\nAAAA;"a\nBBBB;b"\n', dialect=Dialect(delimiter=";", quote=None))
    assert [row["name"] for row in got.rows] == ['"a', 'b"']


def test_format_of_the_source_wins_over_the_name(decode: Any) -> None:
    assert decode("airports", "a.txt", b"icao\nAAAA\n", dialect=Dialect(format="csv")).rows == [{"icao": "AAAA"}]
    assert decode("airports", "a.csv", b'{"icao":"AAAA"}', dialect=Dialect(format="ndjson")).rows == [{"icao": "AAAA"}]


@pytest.mark.parametrize("key", ["a.csv", "a.tsv"])
def test_files_without_a_header_line_take_their_columns_from_the_dialect(decode: Any, key: str) -> None:
    dialect = Dialect(header=("icao", "", "name", "colour"))
    data = b"AAAA,1,one,red\nBBBB,2,two,blue\n"
    data = data if key == "a.csv" else data.replace(b",", b"\t")
    got = decode("airports", key, data, dialect=dialect)
    assert got.rows == [{"icao": "AAAA", "name": "one"}, {"icao": "BBBB", "name": "two"}]
    assert (got.lines, got.unknown) == ([1, 2], {"colour"})


def test_first_row_of_a_file_without_header_may_be_bad(decode: Any) -> None:
    got = decode("airports", "a.csv", b'AAAA,"x"y\nBBBB,b\n', dialect=Dialect(header=("icao", "name")))
    assert got.faults == [(1, "", "csv.quote")]
    assert got.rows == [{"icao": "BBBB", "name": "b"}]


def test_header_of_the_dialect_must_name_the_key(decode: Any) -> None:
    with pytest.raises(MalformedObject) as failure:
        decode("airports", "a.csv", b"AAAA,1\n", dialect=Dialect(header=("code", "name")))
    assert failure.value.reason == "MISSING_KEY_COLUMN"


@PATHS
def test_null_tokens_without_quotes_are_absent_values(decode: Any, row_by_row: bool) -> None:
    data = b'icao,name,elevation_ft\nAAAA,NULL,\\N\nBBBB,"NULL",1\nCCCC,x,"\\N"\n'
    dialect = Dialect(null_tokens=("NULL", "\\N"))
    got = decode("airports", "a.csv", data, dialect=dialect, row_by_row=row_by_row)
    assert got.rows == [{"icao": "AAAA"}, {"icao": "BBBB", "name": "NULL", "elevation_ft": 1.0}]
    assert got.faults == [(4, "elevation_ft", "type.double")]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"format": "xml"}, "format 'xml' is not known"),
        ({"delimiter": ""}, "delimiter '' must be one ASCII character"),
        ({"delimiter": "||"}, "must be one ASCII character"),
        ({"delimiter": "\n"}, "neither line end nor NUL"),
        ({"quote": "»"}, "quote '»' must be one ASCII character"),
        ({"delimiter": '"'}, "the same character"),
        ({"header": ()}, "header names no column"),
        ({"header": ("a", "b", "a")}, "header names 'a' 2 times"),
        ({"header": (" a",)}, "begins or ends with a space"),
        ({"null_tokens": ("",)}, "always absent"),
        ({"format": "json", "null_tokens": ("-",)}, "null_tokens is for csv and tsv"),
        ({"format": "tsv", "quote": "'"}, "quote is for csv"),
    ],
)
def test_dialect_that_cannot_be_meant_is_refused_with_the_reason(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("|", r"\|")):
        Dialect(**values)
