"""Typed columns through pgpq and a real binary COPY: what Postgres then holds, at the ends of every type's range."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import asyncpg
import pyarrow as pa
import pytest

from ingest_service.arrow_schema import SCALAR_TYPES, record_schema
from ingest_service.columns import typed_batch, typed_column
from ingest_service.copy_format import TRAILER, header, tuples
from shared.contract.ddl import quote_ident
from shared.contract.fields import SCALAR_KINDS
from shared.contract.model import Column, ContractSet, Kind
from shared.local.postgres import EmbeddedPostgres

UTC = dt.UTC
SCALAR_INPUTS = {kind: SCALAR_TYPES[number] for number, kind in SCALAR_KINDS.items()}
DATE_INPUT = pa.struct([("year", pa.int32()), ("month", pa.int32()), ("day", pa.int32())])
TIME_INPUT = pa.struct([("seconds", pa.int64()), ("nanos", pa.int32())])
FIRST_SECOND = int(dt.datetime(1, 1, 1, tzinfo=UTC).timestamp())
LAST_SECOND = int(dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
LONGEST_DURATION_S = 315_576_000_000

# kind: (input, what Postgres shows as text)
ENDS: dict[Kind, list[tuple[Any, str | None]]] = {
    Kind.BOOL: [(True, "true"), (False, "false"), (None, None)],
    Kind.INT32: [(-(2**31), "-2147483648"), (2**31 - 1, "2147483647"), (None, None)],
    Kind.INT64: [(-(2**63), "-9223372036854775808"), (2**63 - 1, "9223372036854775807")],
    Kind.UINT32: [(0, "0"), (2**32 - 1, "4294967295")],
    Kind.UINT64: [
        (0, "0"),
        (2**64 - 1, "18446744073709551615"),
        (10_000, "10000"),
        (10**19, "1" + "0" * 19),
        (None, None),
    ],
    Kind.FLOAT: [(-0.0, "-0"), (math.nan, "NaN"), (-math.inf, "-Infinity"), (1.5, "1.5")],
    Kind.DOUBLE: [(-0.0, "-0"), (math.nan, "NaN"), (math.inf, "Infinity"), (0.1, "0.1"), (5e-324, "5e-324")],
    Kind.STRING: [("", ""), ("é\U0001f600", "é\U0001f600"), (None, None)],
    Kind.BYTES: [(b"", "\\x"), (b"\x00\xff", "\\x00ff")],
    Kind.ENUM: [(-5, "-5"), (7, "7")],
    Kind.TIMESTAMP: [
        ({"seconds": FIRST_SECOND, "nanos": 0}, "0001-01-01 00:00:00+00"),
        ({"seconds": LAST_SECOND, "nanos": 999_999_999}, "9999-12-31 23:59:59.999999+00"),
        ({"seconds": -1, "nanos": 999_999_999}, "1969-12-31 23:59:59.999999+00"),
        ({"seconds": 0, "nanos": 999}, "1970-01-01 00:00:00+00"),
        ({"seconds": None, "nanos": 1_000}, "1970-01-01 00:00:00.000001+00"),
        (None, None),
    ],
    Kind.DURATION: [
        ({"seconds": LONGEST_DURATION_S, "nanos": 0}, "87660000:00:00"),
        ({"seconds": -LONGEST_DURATION_S, "nanos": 0}, "-87660000:00:00"),
        ({"seconds": -1, "nanos": -999_999_999}, "-00:00:01.999999"),
        ({"seconds": 0, "nanos": -999}, "00:00:00"),
        (None, None),
    ],
    Kind.DATE: [
        ({"year": 1, "month": 1, "day": 1}, "0001-01-01"),
        ({"year": 9999, "month": 12, "day": 31}, "9999-12-31"),
        ({"year": 2000, "month": 2, "day": 29}, "2000-02-29"),
        ({"year": 1900, "month": 3, "day": 1}, "1900-03-01"),
        (None, None),
    ],
}


def input_type(kind: Kind) -> pa.DataType:
    if kind is Kind.DATE:
        return DATE_INPUT
    return TIME_INPUT if kind in (Kind.TIMESTAMP, Kind.DURATION) else SCALAR_INPUTS[kind]


async def copied(url: str, columns: dict[str, str], *batches: pa.RecordBatch) -> list[asyncpg.Record]:
    """What a table of these columns holds after one COPY of the batches, as text, in order."""
    connection = await asyncpg.connect(url)
    try:
        names = ", ".join(f"{quote_ident(name)} {pg_type}" for name, pg_type in columns.items())
        await connection.execute(f"SET timezone = 'UTC'; CREATE TEMPORARY TABLE t (place serial, {names})")
        await connection.copy_to_table("t", source=_stream(batches), columns=list(columns), format="binary")
        texts = ", ".join(f"{quote_ident(name)}::text" for name in columns)
        return list(await connection.fetch(f"SELECT {texts} FROM t ORDER BY place"))
    finally:
        await connection.close()


async def _stream(batches: tuple[pa.RecordBatch, ...]) -> AsyncIterator[bytes]:
    yield header()
    for batch in batches:
        yield tuples(batch)
    yield TRAILER


@pytest.mark.parametrize("kind", list(Kind))
async def test_every_kind_keeps_the_ends_of_its_range(kind: Kind, postgres: EmbeddedPostgres) -> None:
    column = Column(name="c", number=1, kind=kind, nullable=True)
    values = pa.array([value for value, _ in ENDS[kind]], input_type(kind))
    batch = pa.record_batch({"c": typed_column(column, values)})
    rows = await copied(postgres.url(), {"c": column.pg_type}, batch)
    assert [row["c"] for row in rows] == [text for _, text in ENDS[kind]]


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind in SCALAR_INPUTS])
async def test_repeated_scalars_become_arrays_and_null_the_empty_one(kind: Kind, postgres: EmbeddedPostgres) -> None:
    column = Column(name="c", number=1, kind=kind, repeated=True)
    present = [value for value, _ in ENDS[kind] if value is not None]
    values = pa.array([present, [], None, present[:1]], pa.list_(input_type(kind)))
    batch = pa.record_batch({"c": typed_column(column, values)})
    rows = await copied(postgres.url(), {"c": f"{column.pg_type} NOT NULL"}, batch)
    lengths = [row["c"].count(",") + (row["c"] != "{}") for row in rows]
    assert lengths == [len(present), 0, 0, 1]


async def test_batches_share_one_header_and_one_trailer(postgres: EmbeddedPostgres) -> None:
    batches = [pa.record_batch({"n": pa.array(values, pa.int64())}) for values in ([1, 2], [], [3])]
    rows = await copied(postgres.url(), {"n": "bigint"}, *batches)
    assert [row["n"] for row in rows] == ["1", "2", "3"]


async def test_a_record_of_every_type_fits_the_table_its_contract_makes(
    contracts: ContractSet, postgres: EmbeddedPostgres
) -> None:
    dataset = contracts.datasets["shipments"]
    nothing = {field.name: None for field in dataset.message.fields}
    some = {
        **nothing,
        "carrier": "dhl",
        "number": 2**64 - 1,
        "insured_value": 0.0,
        "note": {"value": None},
        "customs_id": {"value": -1},
        "tags": ["a", "b"],
        "readings_celsius": [-0.0],
        "payer_number": 7,
        "sequence": 5,
    }
    batch = typed_batch(dataset, pa.RecordBatch.from_pylist([some, nothing], record_schema(dataset.message)))
    columns = {column.name: column.pg_type + ("" if column.nullable else " NOT NULL") for column in dataset.columns}
    first, second = await copied(postgres.url(), columns, batch)
    assert Decimal(first["number"]) == 2**64 - 1
    assert (first["note"], first["customs_id"], first["insured_value"]) == ("", "-1", "0")
    assert (first["tags"], first["readings_celsius"], first["payer_number"]) == ("{a,b}", "{-0}", "7")
    assert (second["carrier"], second["number"], second["tags"], second["express"]) == ("", "0", "{}", "false")
    absent = ("ship_date", "update_time", "transit_time", "insured_value", "note", "payer_account", "payer_number")
    assert all(second[name] is None for name in absent)
