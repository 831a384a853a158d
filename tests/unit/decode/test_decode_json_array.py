"""A file that is one JSON array: streamed, every element a row, and what is wrong told by its line."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ingest_service.decode import Dialect, MalformedObject

UNDER = Dialect(json_path=("data", "items"))


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    "data",
    [
        b'[{"icao":"AAAA","name":"one"},{"icao":"BBBB","name":"two"}]',
        b' \r\n[ {"icao":"AAAA","name":"one"} , {"icao":"BBBB","name":"two"} ] \n',
        b'\xef\xbb\xbf[{"icao":"AAAA","name":"one"},\n{"icao":"BBBB","name":"two"}]',
        b'[\n  {\n    "icao": "AAAA",\n    "name": "one"\n  },\n  {\n    "icao": "BBBB", "name": "two"\n  }\n]\n',
    ],
)
def test_every_element_is_a_row(decode: Any, data: bytes, chunk: int) -> None:
    got = decode("airports", "a.json", data, chunk=chunk)
    assert got.rows == [{"icao": "AAAA", "name": "one"}, {"icao": "BBBB", "name": "two"}]
    assert got.rejects == []


@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
def test_line_of_a_row_is_where_its_element_begins(decode: Any, chunk: int) -> None:
    data = b'\n[{"icao":"AAAA"}, {"icao":"BBBB",\n"elevation_ft":"x"},\n\n {"icao":"CCCC"},\n1]'
    got = decode("airports", "a.json", data, chunk=chunk)
    assert got.lines == [2, 5]
    assert got.faults == [(2, "elevation_ft", "type.double"), (6, "", "json.object")]
    assert got.rejects[0].raw == b'{"icao":"BBBB",\r"elevation_ft":"x"}'
    assert got.raw == [b'{"icao":"AAAA"}', b'{"icao":"CCCC"}']


def test_rows_that_begin_on_one_line_keep_their_order(decode: Any) -> None:
    got = decode("airports", "a.json", b'[{"icao":"AAAA"},{"icao":"AAAA","name":"x"}]')
    assert got.lines == [1, 1]
    assert got.order == [1, 2]


@pytest.mark.parametrize("data", [b"[]", b" [ ] ", b"", b"\n \n"])
def test_array_without_elements_has_no_rows(decode: Any, data: bytes) -> None:
    assert decode("airports", "a.json", data).rows_read == 0


def test_element_that_is_no_json_is_one_reject(decode: Any) -> None:
    data = b'[{"icao":"AAAA"},{"icao":nope},{"icao":"x\ny"},"text",null,[1],{"icao":"BBBB"}]'
    got = decode("airports", "a.json", data)
    assert got.rows == [{"icao": "AAAA"}, {"icao": "BBBB"}]
    assert [reject.rule for reject in got.rejects] == ["json.syntax"] * 2 + ["json.object"] * 3


def test_brackets_quotes_and_commas_within_strings_are_text(decode: Any) -> None:
    rows = [{"icao": "AAAA", "name": '},{"\\'}, {"icao": "BBBB", "name": ']}\\"'}]
    for indent in (None, 1):
        assert decode("airports", "a.json", json.dumps(rows, indent=indent).encode()).rows == rows


@pytest.mark.parametrize("chunk", [100, 1 << 20])
def test_element_of_any_depth_is_cut(decode: Any, chunk: int) -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [{"a": deep}]
    rows = [{"icao": f"A{number:03}", "deep": deep} for number in range(20)]
    got = decode("airports", "a.json", json.dumps(rows).encode(), chunk=chunk)
    assert [row["icao"] for row in got.rows] == [row["icao"] for row in rows]
    assert got.unknown == {"deep"}


@pytest.mark.parametrize("chunk", [1000, 1 << 20])
def test_long_element_is_one_reject_and_the_rest_is_read(decode: Any, chunk: int) -> None:
    long = b'{"icao":"BBBB","name":"' + b'\\"]x' * 100_000 + b'","x":[{}]}'
    got = decode(
        "airports", "a.json", b'[{"icao":"AAAA"},' + long + b',\n{"icao":"CCCC"}]', chunk=chunk, max_row_bytes=9999
    )
    assert [row["icao"] for row in got.rows] == ["AAAA", "CCCC"]
    assert got.faults == [(1, "", "row.size")]


@pytest.mark.parametrize("chunk", [1, 1 << 20])
@pytest.mark.parametrize(
    "data",
    [
        b'{"data":{"items":[{"icao":"AAAA"}]}}',
        b'{"meta":{"items":[1,"]"],"n":1.5},"data":{"total":1,"items":[{"icao":"AAAA"}],"next":null},"z":"}"} \n',
        b'{"d\\u0061ta" : {"x" : [[]] , "items" : [ {"icao":"AAAA"} ] } }',
    ],
)
def test_array_under_a_path_is_found_past_all_else(decode: Any, data: bytes, chunk: int) -> None:
    got = decode("airports", "a.json", data, chunk=chunk, dialect=UNDER)
    assert got.rows == [{"icao": "AAAA"}]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'[{"icao":"AAAA"}', "TRUNCATED_JSON"),
        (b'[{"icao":"AAAA"},', "TRUNCATED_JSON"),
        (b'[{"icao":"AA', "TRUNCATED_JSON"),
        (b"[", "TRUNCATED_JSON"),
        (b"[1", "TRUNCATED_JSON"),
        (b'[{"icao":"AAAA"}] {"icao":"BBBB"}', "MALFORMED_JSON"),
        (b"[] x", "MALFORMED_JSON"),
        (b'[{"icao":"AAAA"},]', "MALFORMED_JSON"),
        (b"[,1]", "MALFORMED_JSON"),
        (b"[1,,2]", "MALFORMED_JSON"),
        (b'[{"icao":"AAAA"} {"icao":"BBBB"}]', "MALFORMED_JSON"),
        (b'[{"icao":"AAAA"}}', "MALFORMED_JSON"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_broken_array_fails_the_object(decode: Any, data: bytes, reason: str, chunk: int) -> None:
    with pytest.raises(MalformedObject) as failure:
        decode("airports", "a.json", data, chunk=chunk)
    assert failure.value.reason == reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'[{"icao":"AAAA"}]', "MALFORMED_JSON"),
        (b'{"data":{"rows":[]}}', "MISSING_JSON_PATH"),
        (b'{"data":[]}', "MALFORMED_JSON"),
        (b'{"data":{"items":{}}}', "MALFORMED_JSON"),
        (b'{"data":{"items":[]}', "TRUNCATED_JSON"),
        (b'{"data":{"items":[]}}}', "MALFORMED_JSON"),
        (b'{"data":{"items":[]} "x":1}', "MALFORMED_JSON"),
        (b'{"meta":[1,2', "TRUNCATED_JSON"),
        (b'{"meta":"x', "TRUNCATED_JSON"),
        (b"{data:{}}", "MALFORMED_JSON"),
        (b'{"a":}', "MALFORMED_JSON"),
        (b'{"a":1 "data":{"items":[]}}', "MALFORMED_JSON"),
        (b'{"a":1,}', "MALFORMED_JSON"),
        (b'{,"data":{"items":[]}}', "MALFORMED_JSON"),
        (b'{"a":1,,"data":{"items":[]}}', "MALFORMED_JSON"),
        (b'{"data":{"items":[],}}', "MALFORMED_JSON"),
    ],
)
def test_path_that_does_not_lead_to_an_array_fails_the_object(decode: Any, data: bytes, reason: str) -> None:
    with pytest.raises(MalformedObject) as failure:
        decode("airports", "a.json", data, dialect=UNDER)
    assert failure.value.reason == reason


@pytest.mark.parametrize("chunk", [1, 1 << 20])
@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'{"data":{"items":[{"icao":"AAAA"}],"items":[{"icao":"BBBB"}]}}', "items"),
        (b'{"data":{"items":[{"icao":"AAAA"}]},\n"data":{"items":[{"icao":"BBBB"}]}}', "data"),
        (b'{"data":{"items":[]},"x":1,"d\\u0061ta":null}', "data"),
    ],
)
def test_rows_are_never_lost_to_a_second_member_of_the_path(decode: Any, data: bytes, name: str, chunk: int) -> None:
    with pytest.raises(MalformedObject, match=f"'{name}' stands twice") as failure:
        decode("airports", "a.json", data, chunk=chunk, dialect=UNDER)
    assert failure.value.reason == "MALFORMED_JSON"


def test_names_of_the_path_may_stand_elsewhere(decode: Any) -> None:
    data = b'{"items":0,"data":{"data":1,"items":[{"icao":"AAAA"}],"data":2},"x":{"data":1},"items":1}'
    assert decode("airports", "a.json", data, dialect=UNDER).rows == [{"icao": "AAAA"}]


@pytest.mark.parametrize(
    "data", [b"[" * 2_000_000, b"[[" + (b"[" * 10 + b"]" * 10) * 100_000, b'[["' + b"n" * 2_000_000]
)
def test_long_value_that_never_ends_is_read_in_linear_time(decode: Any, data: bytes) -> None:
    begin = time.process_time()
    for head, dialect in ((b"[", Dialect()), (b'{"x":', UNDER)):
        with pytest.raises(MalformedObject, match="cut off"):
            decode("airports", "a.json", head + data, chunk=1 << 16, dialect=dialect, max_row_bytes=99_999)
    assert time.process_time() - begin < 1.5


def test_long_name_is_read_in_linear_time(decode: Any) -> None:
    data = b'{"' + b"n" * 12_000_000 + b'":1,"data":{"items":[{"icao":"AAAA"}]}}'
    begin = time.process_time()
    assert decode("airports", "a.json", data, chunk=1 << 16, dialect=UNDER).rows == [{"icao": "AAAA"}]
    assert time.process_time() - begin < 1.5


@pytest.mark.parametrize("chunk", [1000, 1 << 20])
@pytest.mark.parametrize("size", [100, 300, 70_000, 200_000])
def test_brackets_are_counted_past_strings_of_any_length(decode: Any, size: int, chunk: int) -> None:
    text = b'"' + b'\\"]}' * (size // 4) + b'"'
    value = b"[{}," * 9 + b",".join([text, b"[]", text]) + b"]" * 9
    data = b'{"x":' + value + b',"data":{"items":[' + value + b',{"icao":"AAAA"}]}}'
    got = decode("airports", "a.json", data, chunk=chunk, dialect=UNDER)
    assert (got.rows, got.rows_read) == ([{"icao": "AAAA"}], 2)


def test_blocks_of_an_array_are_bounded_in_rows(decode: Any) -> None:
    data = b"[" + b",".join([b'{"icao":"AAAA"}'] * 50_000) + b"]"
    got = decode("airports", "a.json", data, block_rows=1000)
    assert (len(got.rows), got.order) == (50_000, list(range(1, 50_001)))
    assert got.largest_block <= 16_000


def test_json_path_is_for_json_only() -> None:
    with pytest.raises(ValueError, match="json_path is for json, not for csv"):
        Dialect(format="csv", json_path=("a",))
