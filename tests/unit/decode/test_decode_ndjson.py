"""NDJSON: ProtoJSON's rules, what is rejected, and that the columnar and the row-wise path are one."""

from __future__ import annotations

import json
from typing import Any

import pytest


def rows_of(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def shipment(**fields: Any) -> dict[str, Any]:
    return {"carrier": "C", "number": 1, **fields}


@pytest.mark.parametrize("suffix", ["ndjson", "jsonl", "json", "NDJSON"])
def test_one_object_a_line_is_one_row(decode: Any, suffix: str) -> None:
    got = decode("airports", f"in/a.{suffix}", b'{"icao":"AAAA","name":"x"}\n\n{"icao":"BBBB","elevation":5}')
    assert got.rows == [{"icao": "AAAA", "name": "x"}, {"icao": "BBBB", "elevation_ft": 5.0}]
    assert got.lines == [1, 3]
    assert got.raw == [b'{"icao":"AAAA","name":"x"}', b'{"icao":"BBBB","elevation":5}']


def test_proto_name_json_name_and_alias_are_taken_in_that_order(decode: Any) -> None:
    rows = [
        {"icao": "A", "elevation": 1, "elevationFt": 2, "elevation_ft": 3},
        {"icao": "B", "elevation": 1, "elevationFt": 2, "elevation_ft": None},
        {"icao": "C", "elevation": 1},
    ]
    for row_by_row in (False, True):
        got = decode("airports", "a.ndjson", rows_of(*rows), row_by_row=row_by_row)
        assert [row["elevation_ft"] for row in got.rows] == [3.0, 2.0, 1.0]


def test_rows_that_are_no_json_objects_are_rejected(decode: Any) -> None:
    data = b'{"icao":"A"}\n[1]\n{"icao":\n7\n{"icao":"B"}{"icao":"C"}\n{"icao":"D"} x\n  {"icao":"E"} \t\r\n'
    got = decode("airports", "a.ndjson", data)
    assert got.faults == [
        (2, "", "json.object"),
        (3, "", "json.syntax"),
        (4, "", "json.object"),
        (5, "", "json.syntax"),
        (6, "", "json.syntax"),
    ]
    assert got.rejects[1].raw == b'{"icao":'
    assert [row["icao"] for row in got.rows] == ["A", "E"]
    assert got.lines == [1, 7]
    assert got.keys_unreadable == 5


@pytest.mark.parametrize("data", [b"null\n", b"null\n" * 3, b'null\n{"icao":"A"}\n', b" null\n\n", b"null"])
def test_null_for_the_first_row_is_a_reject_and_not_the_end_of_the_process(decode: Any, data: bytes) -> None:
    got = decode("airports", "a.ndjson", data)
    assert got.faults[0] == (1, "", "json.object")
    assert got.rows_read == data.count(b"null") + data.count(b"{")


def test_null_far_from_the_sample_is_no_object(decode: Any) -> None:
    got = decode("airports", "a.ndjson", b'{"icao":"A"}\n' * 500 + b"null\n" + b'{"icao":"A"}\n' * 500)
    assert got.faults == [(501, "", "json.object")]


def test_an_object_over_two_lines_beside_two_on_one_line_does_not_even_out(decode: Any) -> None:
    got = decode("airports", "a.ndjson", b'{"icao":"A"}{"icao":"B"}\n{"icao":"C",\n"name":"x"}\n')
    assert got.rows == []
    assert [fault[2] for fault in got.faults] == ["json.syntax"] * 3


def test_unknown_keys_are_told_also_nested_ones_and_read_over(decode: Any) -> None:
    row = shipment(zz=[{"q": 1}, "mixed"], sender={"city": "X", "planet": "Y"}, parcels=[{"barcode": "b", "mass": 1}])
    for row_by_row in (False, True):
        got = decode("shipments", "a.ndjson", rows_of(*[row] * 60, shipment(late=1)), row_by_row=row_by_row)
        assert got.unknown == {"zz", "sender.planet", "parcels.mass", "late"}
        assert len(got.rows) == 61
        assert got.rejects == []


def test_of_a_name_that_stands_twice_the_last_value_counts(decode: Any) -> None:
    for row_by_row in (False, True):
        got = decode("airports", "a.ndjson", b'{"icao":"A","name":"x","name":"y"}\n', row_by_row=row_by_row)
        assert got.rows == [{"icao": "A", "name": "y"}]


def test_null_is_absent(decode: Any) -> None:
    got = decode("shipments", "a.ndjson", rows_of(shipment(note=None, insured_value=None, tags=None, sender=None)))
    assert got.rows == [{"carrier": "C", "number": 1}]


def test_an_absent_key_is_rejected_and_a_written_default_is_not(decode: Any) -> None:
    got = decode("shipments", "a.ndjson", rows_of({"carrier": "C"}, {"number": 1}, {"carrier": "", "number": "0"}))
    assert got.faults == [(1, "number", "key.missing"), (2, "carrier", "key.missing")]
    assert got.rows == [{"carrier": "", "number": 0}]


def test_text_that_is_not_utf8_names_its_field(decode: Any) -> None:
    got = decode("airports", "a.ndjson", b'{"icao":"A","tz":"x\xff"}\n{"icao":"B"}\n{"\xff\n')
    assert got.faults == [(1, "time_zone", "utf8"), (3, "", "utf8")]
    assert got.rows == [{"icao": "B"}]


def test_nul_in_text_is_rejected_also_in_nested_text(decode: Any) -> None:
    data = rows_of(shipment(note="a\0"), shipment(sender={"city": "\0"}), shipment(note="ok"))
    assert decode("shipments", "a.ndjson", data).faults == [(1, "note", "text.nul"), (2, "sender.city", "text.nul")]


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("sequence", '"-9223372036854775808"', -(2**63)),
        ("sequence", "1e3", 1000),
        ("sequence", "5.0", 5),
        ("number", "18446744073709551615", 2**64 - 1),
        ("state", '"SHIPMENT_STATE_DELIVERED"', 3),
        ("state", "9", 9),
        ("insured_value", '"NaN"', None),
        ("insured_value", '"Infinity"', float("inf")),
        ("insured_value", '"1.5"', 1.5),
        ("insured_value", "5", 5.0),
        ("insured_value", "-0.0", -0.0),
        ("insured_value", "-0", 0.0),
        ("temperature_celsius", "0.1", 0.10000000149011612),
        ("note", '""', {"value": ""}),
        ("customs_id", '"7"', {"value": 7}),
        ("customs_id", "0", {"value": 0}),
        ("update_time", '"1969-12-31T23:59:59.9Z"', {"seconds": -1, "nanos": 900000000}),
        ("update_time", '"0001-01-01T00:00:00Z"', {"seconds": -62135596800, "nanos": 0}),
        ("transit_time", '"0.000000001s"', {"seconds": 0, "nanos": 1}),
        ("ship_date", '"2024-02-29"', {"year": 2024, "month": 2, "day": 29}),
        ("ship_date", '{"year":2024,"month":2,"day":29}', {"year": 2024, "month": 2, "day": 29}),
        ("signature", '"-_8="', b"\xfb\xff"),
        ("signature", '"+/8"', b"\xfb\xff"),
        ("tags", "[]", []),
        ("readings_celsius", '[1,2.5,"-Infinity"]', [1.0, 2.5, float("-inf")]),
        ("counters", '{"b":"2","a":1}', [{"key": "b", "value": 2}, {"key": "a", "value": 1}]),
        ("stops", '{"-3":{"city":"X"}}', [{"key": -3, "value": {"lines": None, "city": "X", "country": None}}]),
        ("sender", "{}", {"lines": None, "city": None, "country": None}),
        ("express", "false", False),
    ],
)
@pytest.mark.parametrize("row_by_row", [False, True])
def test_protojson_values_are_read(decode: Any, field: str, text: str, value: Any, row_by_row: bool) -> None:
    key = {"carrier": '"C"', "number": "1"} | {field: text}
    data = "{" + ",".join(f'"{name}":{written}' for name, written in key.items()) + "}\n"
    got = decode("shipments", "a.ndjson", data.encode(), row_by_row=row_by_row)
    assert got.rejects == []
    if value is None:
        assert got.rows[0][field] != got.rows[0][field]
    else:
        assert repr(got.rows[0][field]) == repr(value)


@pytest.mark.parametrize(
    ("field", "text", "where", "rule"),
    [
        ("pieces", '"x"', "pieces", "type.int32"),
        ("pieces", "1.5", "pieces", "type.int32"),
        ("pieces", "true", "pieces", "type.int32"),
        ("pieces", "2147483648", "pieces", "range.int32"),
        ("pieces", "[1]", "pieces", "type.int32"),
        ("sequence", "-9223372036854775809", "sequence", "range.int64"),
        ("sequence", "1e17", "sequence", "range.int64"),
        ("insured_value", "true", "insured_value", "type.double"),
        ("insured_value", "1e400", "", "json.syntax"),
        ("insured_value", "NaN", "", "json.syntax"),
        ("temperature_celsius", "1e39", "temperature_celsius", "range.float"),
        ("express", "1", "express", "type.bool"),
        ("express", '"true"', "express", "type.bool"),
        ("note", "1", "note", "type.string"),
        ("state", '"NOPE"', "state", "type.enum"),
        ("state", "true", "state", "type.enum"),
        ("ship_date", '{"year":2024}', "ship_date", "type.date"),
        ("ship_date", '{"year":2024,"month":2,"day":30}', "ship_date", "type.date"),
        ("ship_date", "20240229", "ship_date", "type.date"),
        ("update_time", "0", "update_time", "type.timestamp"),
        ("transit_time", '"1"', "transit_time", "type.duration"),
        ("signature", '"*"', "signature", "type.bytes"),
        ("tags", '["a",null]', "tags[1]", "type.repeated"),
        ("tags", '["a",1]', "tags[1]", "type.string"),
        ("tags", '"a"', "tags", "type.repeated"),
        ("counters", '{"a":null}', 'counters["a"]', "type.map"),
        ("counters", '{"a":"x"}', 'counters["a"]', "type.int64"),
        ("counters", "[]", "counters", "type.map"),
        ("stops", '{"x":{}}', 'stops["x"]', "type.int32"),
        ("stops", '{"1":{"city":1}}', "stops[1].city", "type.string"),
        ("sender", '{"city":1}', "sender.city", "type.string"),
        ("sender", "[]", "sender", "type.message"),
        ("parcels", '[{},{"route":[1,"x"]}]', "parcels[1].route[1]", "type.int64"),
        ("parcels", "[null]", "parcels[0]", "type.repeated"),
    ],
)
@pytest.mark.parametrize("row_by_row", [False, True])
def test_a_bad_value_is_rejected_by_field_and_rule(
    decode: Any, field: str, text: str, where: str, rule: str, row_by_row: bool
) -> None:
    good = rows_of(shipment())
    bad = f'{{"carrier":"C","number":2,"{field}":{text}}}\n'.encode()
    got = decode("shipments", "a.ndjson", good + bad + good, row_by_row=row_by_row)
    assert got.faults == [(2, where, rule)]
    assert got.rejects[0].raw == bad.rstrip()
    assert got.lines == [1, 3]
    assert got.rejected_keys == ([{"carrier": "C", "number": 2}] if where else [])


def test_two_members_of_a_oneof_are_rejected(decode: Any) -> None:
    data = rows_of(shipment(payer_account="a", payerNumber=1), shipment(payerAccount="a", payer_number=None))
    for row_by_row in (False, True):
        got = decode("shipments", "a.ndjson", data, row_by_row=row_by_row)
        assert got.faults == [(1, "payer_number", "type.oneof")]


def test_deep_nesting_is_rejected_not_followed(decode: Any) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    got = decode("airports", "a.ndjson", b'{"icao":"A","zz":' + deep + b'}\n{"icao":"B"}\n')
    assert got.faults == [(1, "", "json.syntax")]
    assert got.rows == [{"icao": "B"}]


def test_a_row_with_an_odd_value_far_from_the_sample_is_read_all_the_same(decode: Any) -> None:
    rows = [shipment(number=number, sequence=number) for number in range(3000)]
    rows[1501]["sequence"] = "7"
    got = decode("shipments", "a.ndjson", rows_of(*rows))
    assert got.rejects == []
    assert got.rows[1501]["sequence"] == 7


def test_a_line_that_is_too_long_is_rejected_and_skipped_in_bounded_memory(decode: Any) -> None:
    long = b'{"icao":"B","name":"' + b"x" * 5_000_000 + b'"}'
    data = b'{"icao":"A"}\n' + long + b'\r\n{"icao":"C"}\n'
    got = decode("airports", "a.ndjson", data, chunk=65536, max_row_bytes=100_000, block_bytes=10_000)
    assert got.faults == [(2, "", "row.size")]
    assert [row["icao"] for row in got.rows] == ["A", "C"]
    assert got.lines == [1, 3]


def test_a_lone_carriage_return_is_white_space(decode: Any) -> None:
    got = decode("airports", "a.ndjson", b'{"icao":\r"A"}\r\n{"icao":"B"}\r{"icao":"C"}\n')
    assert got.rows == [{"icao": "A"}]
    assert got.faults == [(2, "", "json.syntax")]
