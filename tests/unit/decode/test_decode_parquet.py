"""Parquet: which types feed which fields, what is rejected under which row, field and rule, and what fails the file."""

from __future__ import annotations

import datetime
import decimal
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ingest_service.decode import DecodeLimits, MalformedObject, open_parquet
from ingest_service.rejects import Reject
from shared.contract.model import ContractSet


class BytesFile(io.BytesIO):
    """A file in memory that notes what was read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.size_bytes = len(data)
        self.bytes_read = 0

    def expect(self, ranges: Sequence[tuple[int, int]], step_bytes: int) -> None:
        assert all(0 < begin < end <= self.size_bytes for begin, end in ranges)
        assert step_bytes > 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A whole file, decoded; `rows` without absent fields."""

    rows: list[dict[str, Any]]
    lines: list[int]
    rejects: list[Reject]
    unknown: set[str]
    bytes_read: int
    largest: int

    @property
    def faults(self) -> list[tuple[int, str, str]]:
        return [(reject.line, reject.field, reject.rule) for reject in self.rejects]


ReadFile = Callable[..., Read]


@pytest.fixture
def read(contracts: ContractSet) -> ReadFile:
    """read(dataset, table or bytes, **options of the Parquet writer)."""

    def run(dataset: str, table: pa.Table | bytes, limits: DecodeLimits | None = None, **options: Any) -> Read:
        data = table if isinstance(table, bytes) else written(table, **options)
        file = BytesFile(data)
        decoder = open_parquet(contracts.datasets[dataset], limits or DecodeLimits())
        done = [(block, decoder.decode_block(block)) for block in decoder.blocks(file)]
        return Read(
            rows=[
                {k: v for k, v in row.items() if v is not None} for _, part in done for row in part.batch.to_pylist()
            ],
            lines=[line for _, part in done for line in part.lines.to_pylist()],
            rejects=[reject for _, part in done for reject in part.rejects],
            unknown={name for _, part in done for name in part.unknown_columns},
            bytes_read=file.bytes_read,
            largest=max((block.batch.num_rows for block, _ in done), default=0),
        )

    return run


def written(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table, sink, **options)
    return sink.getvalue()


def shipments(count: int = 1, **columns: Any) -> pa.Table:
    return pa.table({"carrier": ["C"] * count, "number": pa.array(range(count), pa.int64()), **columns})


def one(read: ReadFile, name: str, values: Any) -> list[Any]:
    """What a column becomes, None where the row was rejected."""
    got = read("shipments", shipments(len(values), **{name: values}))
    found = dict(zip(got.lines, (row.get(name) for row in got.rows), strict=True))
    return [found.get(line) for line in range(1, len(values) + 1)]


def test_rows_are_numbered_over_row_groups_and_batches(read: ReadFile) -> None:
    table = pa.table({"icao": [f"A{number:04}" for number in range(5000)], "elevation_ft": [None, 1.5] * 2500})
    got = read("airports", table, DecodeLimits(block_bytes=2000), row_group_size=1999)
    assert got.lines == list(range(1, 5001))
    assert [row["icao"] for row in got.rows] == table.column("icao").to_pylist()
    assert got.rows[1]["elevation_ft"] == 1.5
    assert got.largest < 500


def test_columns_map_by_every_name_of_a_field_and_others_are_noted_and_not_read(read: ReadFile) -> None:
    noise = pa.array([str(number) * 50 for number in range(20_000)])
    table = pa.table({"elevation_ft": [1] * 20_000, "noise": noise, "icao": ["A"] * 20_000, "other": noise})
    data = written(table, use_dictionary=False, compression="none")
    got = read("airports", data)
    assert got.rows[0] == {"icao": "A", "elevation_ft": 1.0}
    assert got.unknown == {"noise", "other"}
    assert got.bytes_read < len(data) / 10


def test_file_without_key_column_or_with_a_column_twice_is_refused(read: ReadFile) -> None:
    for table, reason in [
        (pa.table({"name": ["x"]}), "MISSING_KEY_COLUMN"),
        (pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["icao", "icao"]), "DUPLICATE_COLUMN"),
    ]:
        with pytest.raises(MalformedObject) as failure:
            read("airports", table)
        assert failure.value.reason == reason


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Kolkata"])
def test_timestamps_of_any_unit_and_zone_are_read(read: ReadFile, unit: str, zone: str | None) -> None:
    ticks = pa.array([1_700_000_000, -1, None]).cast(pa.timestamp("s", zone)).cast(pa.timestamp(unit, zone))
    expected = [{"seconds": 1_700_000_000, "nanos": 0}, {"seconds": -1, "nanos": 0}, None]
    assert one(read, "update_time", ticks) == expected


def test_nanoseconds_and_old_timestamps_are_exact(read: ReadFile) -> None:
    assert one(read, "update_time", pa.array([-1, 10**18 + 7], pa.timestamp("ns"))) == [
        {"seconds": -1, "nanos": 999_999_999},
        {"seconds": 10**9, "nanos": 7},
    ]
    table = shipments(1, update_time=pa.array([datetime.datetime(1500, 1, 1)]))  # noqa: DTZ001
    got = read("shipments", table, use_deprecated_int96_timestamps=True)
    assert got.rows[0]["update_time"] == {"seconds": -14831769600, "nanos": 0}


def test_timestamp_beyond_the_range_is_one_reject(read: ReadFile) -> None:
    got = read("shipments", shipments(2, update_time=pa.array([0, 10**16], pa.timestamp("ms"))))
    assert got.faults == [(2, "update_time", "range.timestamp")]
    assert got.lines == [1]


DATE = datetime.date(2024, 2, 29)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("update_time", pa.array([DATE]), [{"seconds": 1709164800, "nanos": 0}]),
        ("update_time", pa.array(["2024-02-29T00:00:00Z"]), [{"seconds": 1709164800, "nanos": 0}]),
        ("ship_date", pa.array([DATE, None]), [{"year": 2024, "month": 2, "day": 29}, None]),
        ("ship_date", pa.array([DATE]).cast(pa.date64()), [{"year": 2024, "month": 2, "day": 29}]),
        ("state", pa.array(["SHIPMENT_STATE_BOOKED"]).dictionary_encode(), [1]),
        ("state", pa.array([1, 77], pa.int8()), [1, 77]),
    ],
)
def test_value_is_taken_in_the_types_that_hold_it(read: ReadFile, name: str, values: pa.Array, expected: Any) -> None:
    assert one(read, name, values) == expected


NUMBERS = {
    "uint64": pa.array([7, 2**63], pa.uint64()),
    "int8": pa.array([7, -7], pa.int8()),
    "float": pa.array([7.0, 7.5], pa.float32()),
    "nan": pa.array([7.0, float("nan")]),
    "large": pa.array([7.0, 1e300]),
    "decimal": pa.array([decimal.Decimal("7.00"), decimal.Decimal("7.10")]),
    "text": pa.array(["7", "x"]),
    "boolean": pa.array([None, True]),
}


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("uint64", None),
        ("int8", "range.uint64"),
        ("float", "type.uint64"),
        ("nan", "type.uint64"),
        ("large", "range.uint64"),
        ("decimal", "type.uint64"),
        ("text", "type.uint64"),
        ("boolean", "key.missing"),
    ],
)
def test_integer_field_takes_whole_numbers_within_its_range(read: ReadFile, kind: str, rule: str | None) -> None:
    got = read("shipments", pa.table({"carrier": ["C", "C"], "number": NUMBERS[kind]}))
    if rule is None:
        assert [row["number"] for row in got.rows] == [7, 2**63]
    elif rule == "key.missing":
        assert got.faults == [(1, "number", rule), (2, "number", "type.uint64")]
    else:
        assert [row["number"] for row in got.rows] == [7]
        assert got.faults == [(2, "number", rule)]


def test_decimals_feed_doubles_and_texts(read: ReadFile) -> None:
    prices = pa.array([decimal.Decimal("1.50"), None])
    assert [row.get("elevation_ft") for row in read("airports", icao(elevation_ft=prices)).rows] == [1.5, None]
    assert [row.get("name") for row in read("airports", icao(name=prices)).rows] == ["1.50", None]


def icao(**columns: Any) -> pa.Table:
    return pa.table({"icao": ["AAAA", "BBBB"], **columns})


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_texts_in_every_layout_are_read(read: ReadFile, kind: pa.DataType) -> None:
    names = pa.array(["é", None]).cast(kind)
    assert [row.get("name") for row in read("airports", icao(name=names)).rows] == ["é", None]


def test_text_that_postgres_cannot_store_is_one_reject(read: ReadFile) -> None:
    binary = pa.array([b"\xff", b"ok"])
    for names in (binary, binary.view(pa.string())):
        got = read("airports", icao(name=names))
        assert got.faults == [(1, "name", "utf8")]
        assert got.rows == [{"icao": "BBBB", "name": "ok"}]
    assert read("airports", icao(name=pa.array(["a\0b", "ok"]))).faults == [(1, "name", "text.nul")]


def test_reject_shows_its_row_as_json(read: ReadFile) -> None:
    got = read("airports", icao(elevation_ft=pa.array(["x", "1"]), name=pa.array([DATE, None]).cast(pa.string())))
    assert json.loads(got.rejects[0].raw) == {"icao": "AAAA", "elevation_ft": "x", "name": "2024-02-29"}


def test_column_of_another_type_rejects_every_value_of_it(read: ReadFile) -> None:
    got = read("airports", icao(name=pa.array([1, None])))
    assert got.faults == [(1, "name", "type.string")]
    assert got.rejects[0].message == "a column of int64 where string is expected"


def test_missing_columns_and_nulls_are_absent(read: ReadFile) -> None:
    assert read("airports", icao(name=pa.nulls(2))).rows == [{"icao": "AAAA"}, {"icao": "BBBB"}]


def test_null_key_is_a_reject(read: ReadFile) -> None:
    got = read("airports", pa.table({"icao": ["AAAA", None]}))
    assert got.faults == [(2, "icao", "key.missing")]


def test_dictionary_of_a_large_value_does_not_become_a_large_batch(contracts: ContractSet) -> None:
    """A few bytes a million rows: spelled out at once they would be 20 GB."""
    names = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), ["x" * 1_000_000])
    data = written(pa.table({"icao": ["A"] * 20_000, "name": names}))
    assert len(data) < 200_000
    decoder = open_parquet(contracts.datasets["airports"], DecodeLimits())
    sizes = [block.batch.num_rows for block in decoder.blocks(BytesFile(data))]
    assert max(sizes) <= 4
    assert sum(sizes) == 20_000


_POOLS: list[pa.MemoryPool] = []  # what Arrow took from a pool must not outlive it


@contextmanager
def arrow_pool() -> Iterator[pa.MemoryPool]:
    """Where Arrow takes its memory from meanwhile."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    _POOLS.append(pool)
    pa.set_memory_pool(pool)
    try:
        yield pool
    finally:
        pa.set_memory_pool(before)


def column_of(shape: str, texts: pa.Array) -> dict[str, pa.Array]:
    """The texts, one a row, in a field of shipments."""
    count = len(texts)
    offsets = pa.array(range(count + 1), pa.int32())
    cities = pa.StructArray.from_arrays([texts], names=["city"])
    match shape:
        case "list":
            return {"tags": pa.ListArray.from_arrays(offsets, texts)}
        case "large list":
            return {"tags": pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), texts)}
        case "fixed-size list":
            return {"tags": pa.FixedSizeListArray.from_arrays(texts, 1)}
        case "struct":
            return {"sender": cities}
        case "map":
            return {"stops": pa.MapArray.from_arrays(offsets, pa.array([1] * count, pa.int32()), cities)}
    return {"note": texts}


SHAPES = ["flat", "list", "large list", "fixed-size list", "struct", "map"]


def repeated(count: int, values: Sequence[str]) -> pa.DictionaryArray:
    places = pa.array([number % len(values) for number in range(count)], pa.int32())
    return pa.DictionaryArray.from_arrays(places, pa.array(values))


def block_rows(contracts: ContractSet, data: bytes, most_bytes: int) -> list[int]:
    """The rows of each block of shipments, read and decoded one by one while Arrow holds less than `most_bytes`."""
    decoder = open_parquet(contracts.datasets["shipments"], DecodeLimits())
    with arrow_pool() as pool:
        found = [decoder.decode_block(block).rows_read for block in decoder.blocks(BytesFile(data))]
    assert pool.max_memory() < most_bytes
    return found


@pytest.mark.parametrize("store_schema", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_value_that_all_rows_share_is_held_once(contracts: ContractSet, shape: str, store_schema: bool) -> None:
    """Its dictionary outweighs the indices. Spelled out, the rows take 100 MB."""
    table = shipments(100, **column_of(shape, repeated(100, ["x" * 1_000_000])))
    data = written(table, dictionary_pagesize_limit=1 << 27, store_schema=store_schema)
    assert sum(block_rows(contracts, data, 48 << 20)) == 100


@pytest.mark.parametrize("shape", SHAPES)
def test_dictionary_of_an_ordinary_file_is_not_spelled_out(contracts: ContractSet, shape: str) -> None:
    """As pyarrow writes it by itself: 100 KB that spelled out are 200 MB."""
    texts = repeated(20_000, [f"{number:04}" + "x" * 9996 for number in range(90)])
    data = written(shipments(20_000, **column_of(shape, texts)), store_schema=False)
    found = block_rows(contracts, data, 48 << 20)
    assert sum(found) == 20_000
    assert min(found[:-1]) > 100


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("first", [0, 3000])
def test_dictionary_that_a_chunk_gave_up_bounds_its_batches(contracts: ContractSet, shape: str, first: int) -> None:
    """Mostly distinct values are read plain, but rows before them share large ones: 100 MB when spelled out."""
    shared = [f"{number:04}" + "x" * 9996 for number in range(90)] * 111
    texts = pa.array([None] * first + shared + [f"{number:0100}" for number in range(15_000)])
    data = written(shipments(len(texts), **column_of(shape, texts)), store_schema=False)
    found = block_rows(contracts, data, 80 << 20)
    assert sum(found) == len(texts)
    assert min(found[:-1]) > 100


def test_chunk_whose_dictionary_is_not_seen_whole_is_read_row_by_row(contracts: ContractSet) -> None:
    shared = [str(number) + "x" * 9999 for number in range(9)] * 114
    texts = pa.array(shared + [f"{number:0100}" for number in range(500)])
    data = written(shipments(len(texts), **column_of("list", texts)), dictionary_pagesize_limit=50_000)
    assert set(block_rows(contracts, data, 8 << 20)) == {1}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[:-1], "CORRUPT_PARQUET"),
        (lambda data: data[: len(data) // 2], "CORRUPT_PARQUET"),
        (lambda data: b"PAR1", "CORRUPT_PARQUET"),
        (lambda data: b"x", "CORRUPT_PARQUET"),
        (lambda data: data[:-100] + bytes(92) + data[-8:], "CORRUPT_PARQUET"),
        (lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1", "CORRUPT_PARQUET"),
        (lambda data: data[:4] + bytes(200) + data[204:], "CORRUPT_PARQUET"),
        (lambda data: data[:-4] + b"PARE", "ENCRYPTED_PARQUET"),
    ],
)
def test_broken_file_fails_with_the_reason(read: ReadFile, spoil: Callable[[bytes], bytes], reason: str) -> None:
    data = written(icao(name=["one" * 50, "two" * 70]))
    with pytest.raises(MalformedObject) as failure:
        read("airports", spoil(data))
    assert failure.value.reason == reason


@pytest.mark.parametrize(
    ("size_bytes", "footer_bytes", "reason"),
    [(1000, 989, "CORRUPT_PARQUET"), (100 << 20, (16 << 20) + 1, "PARQUET_TOO_LARGE")],
)
def test_footer_longer_than_the_file_or_its_limit_is_not_read(
    contracts: ContractSet, size_bytes: int, footer_bytes: int, reason: str
) -> None:
    file = BytesFile(bytes(size_bytes - 8) + footer_bytes.to_bytes(4, "little") + b"PAR1")
    with pytest.raises(MalformedObject, match=f"footer .*{footer_bytes} bytes") as failure:
        list(open_parquet(contracts.datasets["airports"], DecodeLimits()).blocks(file))
    assert failure.value.reason == reason
    assert file.bytes_read == 8


def test_lack_of_memory_is_not_laid_to_the_file(contracts: ContractSet) -> None:
    class Starved(BytesFile):
        def read(self, size: int | None = -1) -> bytes:
            if self.bytes_read > 8:
                raise pa.ArrowMemoryError("malloc of size 64 failed")
            return super().read(size)

    with pytest.raises(MemoryError):
        list(open_parquet(contracts.datasets["airports"], DecodeLimits()).blocks(Starved(written(icao()))))


def test_empty_object_and_file_without_rows_have_no_rows(read: ReadFile) -> None:
    assert read("airports", b"").lines == []
    assert read("airports", icao().slice(0, 0)).lines == []
