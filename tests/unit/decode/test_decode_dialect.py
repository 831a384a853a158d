"""A source's dialect: what departs from the defaults is read as told, and a dialect that cannot be meant is refused."""

from __future__ import annotations

from datetime import datetime
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


@PATHS
def test_decimal_comma_is_read_and_a_point_is_never_guessed_at(decode: Any, row_by_row: bool) -> None:
    data = b"icao;elevation_ft\nAAAA;1234,5\nBBBB;-1,5e3\nCCCC;7\nDDDD;1.234,5\nEEEE;1,2,3\nFFFF;NaN\nGGGG;1.5\n"
    got = decode("airports", "a.csv", data, dialect=Dialect(delimiter=";", decimal_comma=True), row_by_row=row_by_row)
    assert [row["elevation_ft"] for row in got.rows[:3]] == [1234.5, -1500.0, 7.0]
    assert got.rows[3]["icao"] == "FFFF"
    assert got.faults == [(line, "elevation_ft", "type.double") for line in (5, 6, 8)]


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


@PATHS
@pytest.mark.parametrize(
    ("time_format", "text", "usual"),
    [
        ("%d.%m.%Y %H:%M:%S", "31.01.2024 10:20:30", "2024-01-31T10:20:30+00:00"),
        ("%m/%d/%Y", "1/2/2024", "2024-01-02T00:00:00+00:00"),
        ("%d-%b-%y %H:%M", "05-Sep-69 7:05", "1969-09-05T07:05:00+00:00"),
        ("%d-%b-%y", "5-Feb-68", "2068-02-05T00:00:00+00:00"),
        ("%Y%m%d%H%M%S", "20240131102030", "2024-01-31T10:20:30+00:00"),
        ("%Y/%m/%d %H:%M:%S %z", "2024/01/31 00:20:30 +0200", "2024-01-30T22:20:30+00:00"),
        ("100%% %Y|%m|%d", "100% 2024|02|29", "2024-02-29T00:00:00+00:00"),
    ],
)
def test_times_in_the_formats_of_the_source_are_read(
    decode: Any, row_by_row: bool, time_format: str, text: str, usual: str
) -> None:
    dialect = Dialect(delimiter=";", timestamp_formats=(time_format,))
    data = f"carrier;number;update_time\nC;1;{text}\nC;2;{text}\n".encode()
    got = decode("shipments", "a.csv", data, dialect=dialect, row_by_row=row_by_row)
    assert got.rejects == []
    assert [row["update_time"] for row in got.rows] == [{"seconds": seconds(usual), "nanos": 0}] * 2


@PATHS
def test_first_format_that_fits_decides_and_the_usual_form_is_read_besides(decode: Any, row_by_row: bool) -> None:
    dialect = Dialect(timestamp_formats=("%d/%m/%Y %H:%M:%S.%f", "%m/%d/%Y", "%Y-%d-%m"))
    texts = ["13/02/2024 01:02:03.5", "02/13/2024", "2024-13-02", "2024-02-13T00:00:00Z"]
    wrong = ["13/02/2024", "31/02/2024 00:00:00.0", "x", "2024-02-13"]
    rows = [*texts, *wrong]
    data = "\n".join(
        ["carrier,number,update_time", *(f"C,{number},{text}" for number, text in enumerate(rows))]
    ).encode()
    got = decode("shipments", "a.csv", data, dialect=dialect, row_by_row=row_by_row)
    day = seconds("2024-02-13T00:00:00+00:00")
    assert [row["update_time"] for row in got.rows] == [
        {"seconds": day + 3723, "nanos": 500_000_000},
        *[{"seconds": day, "nanos": 0}] * 3,
    ]
    assert got.faults == [(line, "update_time", "type.timestamp") for line in (6, 7, 8, 9)]


@PATHS
def test_format_without_time_of_day_holds_for_dates(decode: Any, row_by_row: bool) -> None:
    dialect = Dialect(timestamp_formats=("%d.%m.%Y", "%d.%m.%Y %H:%M"))
    data = b"carrier,number,ship_date\nC,1,29.2.2024\nC,2,29.2.2023\nC,3,1.1.2024 10:00\nC,4,2024-02-29\n"
    got = decode("shipments", "a.csv", data, dialect=dialect, row_by_row=row_by_row)
    assert [row["ship_date"] for row in got.rows] == [{"year": 2024, "month": 2, "day": 29}] * 2
    assert got.faults == [(3, "ship_date", "type.date"), (4, "ship_date", "type.date")]


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
        ({"timestamp_formats": ("%Y-%m-%d %I %p",)}, "%I of .* is not known"),
        ({"timestamp_formats": ("%Y-%m-%d %",)}, "%% of .* is not known"),
        ({"timestamp_formats": ("%Y-%m",)}, "needs one of %d"),
        ({"timestamp_formats": ("%Y-%m-%d-%d",)}, "has %d 2 times"),
        ({"timestamp_formats": ("%Y %y %m %d",)}, "needs one of %Y %y"),
        ({"timestamp_formats": ("%Y-%m-%d %H:%S",)}, "has %S without %M"),
        ({"format": "tsv", "quote": "'"}, "quote is for csv"),
    ],
)
def test_dialect_that_cannot_be_meant_is_refused_with_the_reason(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("|", r"\|")):
        Dialect(**values)
