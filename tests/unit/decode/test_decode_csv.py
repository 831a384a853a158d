"""CSV and TSV: what is accepted, what is rejected and under which line, field and rule."""

from __future__ import annotations

from typing import Any

import pytest

from ingest_service.decode import DecodeLimits, MalformedObject, open_decoder
from ingest_service.rejects import RAW_LIMIT_BYTES
from shared.contract.model import ContractSet

HEADER = b"icao,name,elevation_ft\n"


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_ends_a_row_and_the_last_may_be_missing(decode: Any, line_end: bytes) -> None:
    data = line_end.join([b"icao,name", b"AAAA,one", b"BBBB,two"])
    for whole in (data, data + line_end):
        got = decode("airports", "a.csv", whole)
        assert got.rows == [{"icao": "AAAA", "name": "one"}, {"icao": "BBBB", "name": "two"}]
        assert got.lines == [2, 3]
        assert got.raw == [b"AAAA,one", b"BBBB,two"]


def test_byte_order_mark_and_spaces_around_header_names_are_ignored(decode: Any) -> None:
    got = decode("airports", "a.csv", b'\xef\xbb\xbf icao ,"name "\nAAAA,one\n')
    assert got.rows == [{"icao": "AAAA", "name": "one"}]


def test_a_byte_order_mark_split_over_chunks_is_ignored(decode: Any) -> None:
    assert decode("airports", "a.csv", b"\xef\xbb\xbficao\nAAAA\n", chunk=1).rows == [{"icao": "AAAA"}]


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"\r\n\r\n", b"\xef\xbb\xbf", b"icao,name", b"icao,name\n", b"\nicao\n\n"]
)
def test_an_object_without_rows_is_no_error(decode: Any, data: bytes) -> None:
    got = decode("airports", "a.csv", data)
    assert (got.rows, got.rejects, got.rows_read) == ([], [], 0)


def test_unknown_columns_are_told_even_without_rows(decode: Any) -> None:
    assert decode("airports", "a.csv", b"icao,colour,shape\n").unknown == {"colour", "shape"}


def test_unknown_columns_are_bounded(decode: Any) -> None:
    header = b",".join([b"icao", *(b"c%d" % number for number in range(1000)), b"x" * 5000])
    unknown = decode("airports", "a.csv", header + b"\n").unknown
    assert len(unknown) == 100
    assert max(map(len, unknown)) <= 200


def test_line_numbers_count_physical_lines_after_quoted_line_ends_and_blank_lines(decode: Any) -> None:
    data = b'icao,name\nAAAA,"a\nb\r\nc"\n\nBBBB,x\n\r\nCCCC,"d\re"\nDDDD,y\n'
    got = decode("airports", "a.csv", data)
    assert got.lines == [2, 6, 8, 10]
    assert got.rows[0]["name"] == "a\nb\r\nc"
    assert got.raw[0] == b'AAAA,"a\nb\r\nc"'
    assert got.raw[1:] == [b"BBBB,x", b'CCCC,"d\re"', b"DDDD,y"]


def test_doubled_quotes_commas_and_line_ends_within_quotes_are_text(decode: Any) -> None:
    got = decode("airports", "a.csv", b'icao,name\nAAAA,"say ""hi"", then\ngo"\nBBBB,""""\n')
    assert [row["name"] for row in got.rows] == ['say "hi", then\ngo', '"']


def test_a_quote_within_an_unquoted_field_is_text_and_swallows_nothing(decode: Any) -> None:
    got = decode("airports", "a.csv", b'icao,name\nAAAA,5" pipe\nBBBB,6" pipe\nCCCC, "x"\n')
    assert [row["name"] for row in got.rows] == ['5" pipe', '6" pipe', ' "x"']
    assert got.rejects == []


def test_text_after_a_closing_quote_rejects_that_row_only(decode: Any) -> None:
    got = decode("airports", "a.csv", b'icao,name\nAAAA,"Nice" place\nBBBB,x\n""C,y\n')
    assert got.faults == [(2, "", "csv.quote"), (4, "", "csv.quote")]
    assert got.rejects[0].raw == b'AAAA,"Nice" place'
    assert got.rows == [{"icao": "BBBB", "name": "x"}]
    assert got.keys_unreadable == 2


def test_a_quote_that_never_closes_rejects_its_line_and_the_rest_is_read(decode: Any) -> None:
    rows = b"".join(b"B%03d,x\n" % number for number in range(500))
    got = decode("airports", "a.csv", b'icao,name\nAAAA,"open\n' + rows)
    assert got.faults == [(2, "", "csv.quote")]
    assert len(got.rows) == 500
    assert got.lines == list(range(3, 503))


def test_an_open_quote_that_a_later_row_closes_rejects_its_line_only(decode: Any) -> None:
    got = decode("airports", "a.csv", b'icao,name\nAAAA,"open\nBBBB,"ok"\nCCCC,x\n')
    assert got.faults == [(2, "", "csv.quote")]
    assert [row["icao"] for row in got.rows] == ["BBBB", "CCCC"]


def test_rows_with_another_number_of_columns_are_rejected(decode: Any) -> None:
    got = decode("airports", "a.csv", HEADER + b'AAAA,"x\ny"\nBBBB,x,1\n\nCCCC,x,1,\nDDDD,x,2\n')
    assert got.faults == [(2, "", "csv.columns"), (6, "", "csv.columns")]
    assert got.rejects[0].raw == b'AAAA,"x\ny"'
    assert got.rejects[0].message == "the row has 2 columns where the header has 3"
    assert got.lines == [4, 7]
    assert got.rows_read == 4


def test_a_value_of_the_wrong_type_names_line_field_and_value(decode: Any) -> None:
    got = decode("airports", "a.csv", b"icao,elevation\nAAAA,1\nBBBB,12 ft\nCCCC,3\n")
    assert got.faults == [(3, "elevation_ft", "type.double")]
    assert "'12 ft'" in got.rejects[0].message
    assert got.rejects[0].raw == b"BBBB,12 ft"
    assert got.rows == [{"icao": "AAAA", "elevation_ft": 1.0}, {"icao": "CCCC", "elevation_ft": 3.0}]
    assert got.rejected_keys == [{"icao": "BBBB"}]
    assert got.keys_unreadable == 0


def test_a_row_with_several_faults_is_rejected_once_by_its_first_field(decode: Any) -> None:
    got = decode("airports", "a.csv", b"icao,lon,elevation\nAAAA,x,y\n")
    assert got.faults == [(2, "elevation_ft", "type.double")]
    assert got.rows_read == 1


def test_text_that_is_not_utf8_names_its_field(decode: Any) -> None:
    got = decode("airports", "a.csv", b'icao,name,x\nAAAA,"a\nb",c\nBBBB,\xff\xfe,d\nCCCC,\xc3\xa9,e\nDDDD,f,\xff\n')
    assert got.faults == [(4, "name", "utf8"), (6, "x", "utf8")]
    assert got.rejects[0].raw == b"BBBB,\xff\xfe,d"
    assert got.rows == [{"icao": "AAAA", "name": "a\nb"}, {"icao": "CCCC", "name": "é"}]
    assert got.lines == [2, 5]


def test_nul_in_text_is_rejected_because_postgres_cannot_store_it(decode: Any) -> None:
    got = decode("airports", "a.csv", b"icao,name,elevation_ft\nAAAA,a\0b,1\nBBBB,ok,2\nCCCC,ok,3\0\n")
    assert got.faults == [(2, "name", "text.nul"), (4, "elevation_ft", "type.double")]


def test_a_row_without_its_key_is_rejected(decode: Any) -> None:
    got = decode("shipments", "a.csv", b'carrier,number,pieces\n,1,1\n"",2,2\nC,,3\n')
    assert got.faults == [(2, "carrier", "key.missing"), (4, "number", "key.missing")]
    assert got.rows == [{"carrier": "", "number": 2, "pieces": 2}]
    assert got.keys_unreadable == 2


def test_a_missing_key_column_fails_the_object_and_names_what_was_tried(decode: Any) -> None:
    with pytest.raises(MalformedObject, match=r"'icao'.*header has 'code', 'name'") as failure:
        decode("airports", "a.csv", b"code,name\nAAAA,x\n")
    assert failure.value.reason == "MISSING_KEY_COLUMN"


def test_a_mapped_column_named_twice_fails_the_object(decode: Any) -> None:
    with pytest.raises(MalformedObject, match="'name' 2 times") as failure:
        decode("airports", "a.csv", b"icao,name,name\n")
    assert failure.value.reason == "DUPLICATE_COLUMN"
    assert decode("airports", "a.csv", b"icao,x,x\nAAAA,1,2\n").rows == [{"icao": "AAAA"}]


def test_the_preferred_name_of_a_field_wins_and_the_other_is_told(decode: Any) -> None:
    got = decode("airports", "a.csv", b"elevation,icao,elevation_ft\n1,AAAA,2\n")
    assert got.rows == [{"icao": "AAAA", "elevation_ft": 2.0}]
    assert got.unknown == {"elevation"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xfei\0c\0a\0o\0", "UNSUPPORTED_FORMAT"),
        (b"PAR1 binary", "UNSUPPORTED_FORMAT"),
        (b"PK\x03\x04 binary", "UNSUPPORTED_FORMAT"),
        (b"icao,n\xffme\n", "BAD_HEADER"),
        (b'icao,"name\n', "BAD_HEADER"),
        (b"icao" + b"," * 20_000 + b"\n", "TOO_MANY_COLUMNS"),
    ],
)
def test_an_object_that_is_no_csv_fails_as_a_whole(decode: Any, data: bytes, reason: str) -> None:
    with pytest.raises(MalformedObject) as failure:
        decode("airports", "a.csv", data)
    assert failure.value.reason == reason


def test_empty_cells_are_absent_and_quoted_empty_text_is_empty(decode: Any) -> None:
    header = b"carrier,number,note,payer_account,pieces,insured_value,update_time\n"
    got = decode("shipments", "a.csv", header + b'C,1,,,,,\nC,2,"","","","",""\n')
    assert got.rows == [
        {"carrier": "C", "number": 1},
        {"carrier": "C", "number": 2, "note": {"value": ""}, "payer_account": ""},
    ]


@pytest.mark.parametrize("row_by_row", [False, True])
def test_every_kind_is_read_from_its_text(decode: Any, row_by_row: bool) -> None:
    cells = {
        "carrier": " C ",
        "number": "18446744073709551615",
        "state": "SHIPMENT_STATE_BOOKED",
        "shipDate": "2024-02-29",
        "update_time": "2024-01-31 10:20:30.123456789+01:00",
        "transit_time": "-1.5s",
        "insured_value": "-Infinity",
        "note": "n",
        "customs_id": "-5",
        "express": "T",
        "signature": "_-8",
        "zone": "-2147483648",
        "temperature_celsius": "1.1",
        "pieces": "+7",
        "tags": '"[""a"",""b""]"',
        "sender": '"{""city"":""X"",""lines"":[""l""]}"',
        "counters": '"{""b"":""1""}"',
    }
    data = ",".join(cells).encode() + b"\n" + ",".join(cells.values()).encode() + b"\n"
    got = decode("shipments", "a.csv", data, row_by_row=row_by_row)
    assert got.rejects == []
    assert got.rows == [
        {
            "carrier": " C ",
            "number": 2**64 - 1,
            "state": 1,
            "ship_date": {"year": 2024, "month": 2, "day": 29},
            "update_time": {"seconds": 1706692830, "nanos": 123456789},
            "transit_time": {"seconds": -1, "nanos": -500000000},
            "insured_value": float("-inf"),
            "note": {"value": "n"},
            "customs_id": {"value": -5},
            "express": True,
            "sender": {"lines": ["l"], "city": "X", "country": None},
            "tags": ["a", "b"],
            "counters": [{"key": "b", "value": 1}],
            "signature": b"\xff\xef",
            "zone": -(2**31),
            "temperature_celsius": 1.100000023841858,
            "pieces": 7,
        }
    ]


@pytest.mark.parametrize(
    ("column", "text", "rule"),
    [
        ("pieces", "2147483648", "range.int32"),
        ("pieces", "1.0", "type.int32"),
        ("pieces", "0x1F", "type.int32"),
        ("pieces", "1_000", "type.int32"),
        ("pieces", "9" * 10_000, "range.int32"),
        ("sequence", "9223372036854775808", "range.int64"),
        ("pallets", "-1", "range.uint32"),
        ("checksum", "4294967296", "range.uint32"),
        ("payer_number", "18446744073709551616", "range.uint64"),
        ("insured_value", "1e400", "range.double"),
        ("insured_value", "nan(1)", "type.double"),
        ("insured_value", "1 000", "type.double"),
        ("temperature_celsius", "3.5e38", "range.float"),
        ("express", "yes", "type.bool"),
        ("state", "BOOKED", "type.enum"),
        ("state", "2147483648", "range.enum"),
        ("ship_date", "2023-02-29", "type.date"),
        ("ship_date", "0000-01-01", "type.date"),
        ("ship_date", "2023-02-00", "type.date"),
        ("ship_date", "31.01.2023", "type.date"),
        ("update_time", "2024-01-31T25:00:00Z", "type.timestamp"),
        ("update_time", "0000-12-31T23:59:59Z", "range.timestamp"),
        ("update_time", "9999-12-31T23:59:59-01:00", "range.timestamp"),
        ("update_time", "2024-01-31T10:20:30.1234567890Z", "type.timestamp"),
        ("transit_time", "1.5", "type.duration"),
        ("transit_time", "315576000000.1s", "range.duration"),
        ("signature", "a", "type.bytes"),
        ("signature", "a*b=", "type.bytes"),
        ("customs_id", "x", "type.int64"),
        ("tags", "a", "json.syntax"),
        ("tags", "[1]", "type.string"),
        ("tags", "1", "type.repeated"),
    ],
)
@pytest.mark.parametrize("row_by_row", [False, True])
def test_a_bad_value_is_rejected_by_rule(decode: Any, column: str, text: str, rule: str, row_by_row: bool) -> None:
    data = f"carrier,number,{column}\nC,1,\nC,2,{text}\nC,3,\n".encode()
    got = decode("shipments", "a.csv", data, row_by_row=row_by_row)
    where = f"{column}[0]" if text == "[1]" else column
    assert got.faults == [(3, where, rule)]
    assert [row["number"] for row in got.rows] == [1, 3]
    assert got.rejected_keys == [{"carrier": "C", "number": 2}]


def test_open_enum_numbers_are_kept(decode: Any) -> None:
    assert decode("shipments", "a.csv", b"carrier,number,state\nC,1,77\n").rows[0]["state"] == 77


def test_two_members_of_a_oneof_are_rejected(decode: Any) -> None:
    got = decode("shipments", "a.csv", b"carrier,number,payer_account,payer_number\nC,1,a,2\nC,2,a,\nC,3,,2\n")
    assert got.faults == [(2, "payer_number", "type.oneof")]


def test_tsv_knows_no_quotes(decode: Any) -> None:
    got = decode("airports", "a.tsv", b'icao\tname\tcity\nAAAA\t"a\tb"\nBBBB\t"x\r\nCCCC\t\t"\n')
    assert got.rows == [
        {"icao": "AAAA", "name": '"a', "city": 'b"'},
        {"icao": "CCCC", "city": '"'},
    ]
    assert got.faults == [(3, "", "csv.columns")]
    assert got.raw[1] == b'CCCC\t\t"'


def test_a_long_row_is_rejected_and_skipped_in_bounded_memory(decode: Any) -> None:
    long = b"BBBB," + b"x" * 5_000_000
    data = b"icao,name\nAAAA,a\n" + long + b"\nCCCC,c\n"
    got = decode("airports", "a.csv", data, chunk=65536, max_row_bytes=100_000, block_bytes=10_000)
    assert got.faults == [(3, "", "row.size")]
    assert got.rejects[0].raw == long[:RAW_LIMIT_BYTES]
    assert got.lines == [2, 4]
    assert got.largest_block <= 500_000


def test_blocks_of_tiny_rows_are_bounded_in_rows(contracts: ContractSet) -> None:
    decoder = open_decoder(contracts.datasets["airports"], "a.csv", None, DecodeLimits())
    data = b"icao\n" + b"x\n" * 1_000_000
    blocks = [*decoder.feed(data), *decoder.finish()]
    assert sum(block.data.count(b"\n") for block in blocks) == 1_000_000
    assert max(block.data.count(b"\n") for block in blocks) < 100_000


def test_a_long_quoted_field_is_rejected_by_its_first_line(decode: Any) -> None:
    data = b'icao,name\nAAAA,"' + b"y\n" * 1000 + b'"\nBBBB,b\n'
    got = decode("airports", "a.csv", data, max_row_bytes=100)
    assert got.faults[0] == (2, "", "csv.quote")
    assert got.rows[-1] == {"icao": "BBBB", "name": "b"}
    assert len(got.rejects) == 1001  # each inner line is a row of one column by itself


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_chunks_do_not_matter(decode: Any, chunk: int) -> None:
    data = b'\xef\xbb\xbficao,name\r\nAAAA,"a\r\n""b"""\r\n\r\nBBBB,"x"y\rCCCC,z"\nDDDD,"open\nEEEE,e'
    whole = decode("airports", "a.csv", data)
    pieces = decode("airports", "a.csv", data, chunk=chunk, block_bytes=1)
    assert whole.faults == pieces.faults == [(5, "", "csv.quote"), (7, "", "csv.quote")]
    assert whole.rows == pieces.rows
    assert whole.lines == pieces.lines == [2, 6, 8]
    assert whole.raw == pieces.raw
