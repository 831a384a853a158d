"""Typed columns: the calendar, and values under nulls and offsets."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from ingest_service.columns import typed_column
from shared.contract.model import Column, Kind

DATES = pa.struct([("year", pa.int32()), ("month", pa.int32()), ("day", pa.int32())])
MOMENTS = pa.struct([("seconds", pa.int64()), ("nanos", pa.int32())])


@given(st.lists(st.none() | st.dates(), max_size=20), st.integers(0, 3))
def test_dates_are_those_of_the_gregorian_calendar(days: list[dt.date | None], start: int) -> None:
    parts = [day and {"year": day.year, "month": day.month, "day": day.day} for day in days]
    column = Column(name="c", number=1, kind=Kind.DATE, nullable=True)
    assert typed_column(column, pa.array(parts, DATES).slice(start)).to_pylist() == days[start:]


def test_what_lies_under_a_null_struct_is_not_seen() -> None:
    fields = [pa.array([1, 2], pa.int64()), pa.array([3000, 4000], pa.int32())]
    hidden = pa.StructArray.from_arrays(fields, fields=list(MOMENTS), mask=pa.array([False, True]))
    column = Column(name="c", number=1, kind=Kind.TIMESTAMP, nullable=True)
    assert typed_column(column, hidden).cast(pa.int64()).to_pylist() == [1_000_003, None]


def test_a_wrapper_without_a_value_holds_the_default() -> None:
    values = pa.array([{"value": None}, None, {"value": 4}], pa.struct([("value", pa.uint32())]))
    column = Column(name="c", number=1, kind=Kind.UINT32, wrapper=True, nullable=True)
    assert typed_column(column, values).to_pylist() == [0, None, 4]


def test_what_lies_under_a_null_list_is_not_seen() -> None:
    values = pa.ListArray.from_arrays(
        pa.array([0, 2, 3]), pa.array([1, 2, 3], pa.uint32()), mask=pa.array([True, False])
    )
    column = Column(name="c", number=1, kind=Kind.UINT32, repeated=True)
    assert typed_column(column, values).to_pylist() == [[], [3]]
