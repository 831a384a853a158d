"""The typed Postgres columns of a record batch: what the table shows of each record, beside its wire bytes.

Whole arrays only. Values are in range and keys present: decode has seen to it. Never drops or reorders a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ingest_service.encode.pieces import offsets_of
from shared.contract.model import Column, Dataset, Kind

# What pgpq turns into the column's Postgres type (model.PG_TYPES); uint64 becomes numeric.
ARROW_TYPES: Mapping[Kind, pa.DataType] = {
    Kind.BOOL: pa.bool_(),
    Kind.INT32: pa.int32(),
    Kind.INT64: pa.int64(),
    Kind.UINT32: pa.int64(),
    Kind.UINT64: pa.uint64(),
    Kind.FLOAT: pa.float32(),
    Kind.DOUBLE: pa.float64(),
    Kind.STRING: pa.string(),
    Kind.BYTES: pa.binary(),
    Kind.ENUM: pa.int32(),
    Kind.TIMESTAMP: pa.timestamp("us"),
    Kind.DURATION: pa.duration("us"),
    Kind.DATE: pa.date32(),
}
MICROS_PER_SECOND = pa.scalar(1_000_000, pa.int64())
NANOS_PER_MICRO = pa.scalar(1_000, pa.int64())
# Days from 0000-03-01 to 1970-01-01 in the proleptic Gregorian calendar.
EPOCH_DAYS = 719_468


def typed_batch(dataset: Dataset, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch's typed columns by name, in the order of `dataset.columns`.

    Implicit presence becomes the default where it is null, a repeated field the empty list. Timestamps are floored to
    microseconds, durations cut towards zero; the nanoseconds stay on the wire.
    """
    arrays = [typed_column(column, _values(column, batch)) for column in dataset.columns]
    return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in dataset.columns])


def _values(column: Column, batch: pa.RecordBatch) -> pa.Array:
    """The column's values in their canonical form, with nulls where a message on the way to them is missing."""
    first, *inner = column.name.split(".")
    holder = values = batch.column(first)
    for name in inner:
        holder, values = values, pc.struct_field(values, name)
    return _default_within(holder, values) if column.implicit and values.null_count > holder.null_count else values


def typed_column(column: Column, values: pa.Array) -> pa.Array:
    """One column; `values` in the canonical form of encode/arrow.py."""
    target = ARROW_TYPES[column.kind]
    if column.repeated:
        return _typed_list(values, target)
    match column.kind:
        case Kind.TIMESTAMP | Kind.DURATION:
            return _micros(values).cast(target)
        case Kind.DATE:
            return _days(values).view(target)
        case _:
            typed = (_children(values)[0] if column.wrapper else values).cast(target)
            return typed if column.nullable else _filled(typed)


def _typed_list(values: pa.ListArray, element: pa.DataType) -> pa.ListArray:
    if not values.null_count:
        return values.cast(pa.list_(element))
    counts = pc.list_value_length(values).fill_null(0)
    return pa.ListArray.from_arrays(offsets_of(counts), values.flatten().cast(element))


def _micros(values: pa.StructArray) -> pa.Int64Array:
    """Seconds and nanos as microseconds. Integer division cuts towards zero: as a Timestamp's nanos count forward from
    its second, that floors it; a Duration's nanos bear its sign."""
    seconds, nanos = _children(values)
    return pc.add(pc.multiply(seconds, MICROS_PER_SECOND), pc.divide(nanos.cast(pa.int64()), NANOS_PER_MICRO))


def _days(values: pa.StructArray) -> pa.Int32Array:
    """Days since 1970-01-01 of a year, month and day, for years from 1.

    Years are counted from March, so that the leap day is a year's last (Fliegel and Van Flandern, CACM 11:10, 1968).
    """
    year, month, day = _children(values)
    before_march = pc.less_equal(month, _int32(2)).cast(pa.int32())
    year = pc.subtract(year, before_march)
    month = pc.subtract(pc.add(month, pc.multiply(before_march, _int32(12))), _int32(3))
    day_of_year = pc.divide(pc.add(pc.multiply(month, _int32(153)), _int32(2)), _int32(5))
    leap_days = pc.add(pc.subtract(_quotient(year, 4), _quotient(year, 100)), _quotient(year, 400))
    days = pc.add(pc.add(pc.multiply(year, _int32(365)), leap_days), pc.add(day_of_year, day))
    return pc.subtract(days, _int32(EPOCH_DAYS + 1))


def _quotient(values: pa.Int32Array, divisor: int) -> pa.Int32Array:
    return pc.divide(values, _int32(divisor))


def _int32(value: int) -> pa.Int32Scalar:
    return pa.scalar(value, pa.int32())


def _children(values: pa.StructArray) -> list[pa.Array]:
    """The struct's fields: null where the struct is, the default where only the field is."""
    fields = values.flatten()
    return [_default_within(values, field) if field.null_count > values.null_count else field for field in fields]


def _default_within(values: pa.StructArray, field: pa.Array) -> pa.Array:
    return pc.if_else(values.is_valid(), _filled(field), pa.scalar(None, field.type))


def _filled(values: pa.Array) -> pa.Array:
    return values.fill_null(default_value(values.type)) if values.null_count else values


def default_value(arrow_type: pa.DataType) -> pa.Scalar:
    """protobuf's default of a scalar type: zero, false or empty."""
    default: Any = 0
    if pa.types.is_string(arrow_type):
        default = ""
    elif pa.types.is_binary(arrow_type):
        default = b""
    elif pa.types.is_boolean(arrow_type):
        default = False
    return pa.scalar(default, arrow_type)
