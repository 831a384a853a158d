"""A column of typed Arrow values, as Parquet has them, to a field's canonical column. Pure, and columnar: only texts
that need parsing and values that are bad are touched one by one.

What a value may be follows ProtoJSON, with types of Arrow's own beside: timestamps of any unit and zone, dates,
durations, decimals, and binary for text.
"""

from __future__ import annotations

import decimal
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from ingest_service.arrow_schema import by_number, field_type
from ingest_service.decode.cells import json_cell
from ingest_service.decode.json_types import element_kind, list_offsets
from ingest_service.decode.model import BadValue, ColumnResult
from ingest_service.decode.protojson import EXACT_DOUBLE, field_converter, json_names, real_oneofs, two_members
from ingest_service.decode.raw import is_utf8
from ingest_service.decode.record import convert_values
from ingest_service.decode.scalars import (
    INT_RANGES,
    MAX_DURATION_S,
    MAX_TIMESTAMP_S,
    MIN_TIMESTAMP_S,
    check_int,
    out_of_range,
    text_parser,
)
from ingest_service.decode.text_columns import (
    FIRST_DAY,
    INT_TYPES,
    LAST_DAY,
    NANOSECONDS,
    cast_texts,
    struct_of,
    timestamp_of,
    type_of,
)
from ingest_service.rejects import subscript
from shared.contract.fields import is_map, is_wrapper
from shared.contract.model import Kind

PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": NANOSECONDS}
_INT64 = range(-(2**63), 2**63)


def typed_column(field: FieldDescriptor, read: pa.Array) -> ColumnResult:
    """The field's values of all rows. Texts in nested, repeated and map fields are ProtoJSON, as in CSV cells."""
    read = plain(read)
    nested = field.is_repeated or element_kind(field) is None
    if read.null_count == len(read):
        return ColumnResult(values=pa.nulls(len(read), field_type(field)), errors={})
    if nested and pa.types.is_string(read.type):
        texts = _checked_texts(read)
        done = convert_values(texts.values.to_pylist(), json_cell(field_converter(field)), field_type(field))
        return ColumnResult(values=done.values, errors={**done.errors, **texts.errors})
    if is_map(field):
        return _map_column(field, read)
    return _list_column(field, read) if field.is_repeated else _element_column(field, read)


def plain(read: pa.Array) -> pa.Array:
    """The same values without dictionaries, extension types, and large, fixed-size or view layouts."""
    if isinstance(read, pa.ExtensionArray):
        read = read.storage
    if pa.types.is_dictionary(read.type):
        read = read.dictionary_decode()
    kind = read.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return read.cast(pa.string())
    if pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind) or pa.types.is_binary_view(kind):
        return read.cast(pa.binary())
    if pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return read.cast(pa.list_(kind.value_field))
    return read.cast(pa.float32()) if pa.types.is_float16(kind) else read


def _element_column(field: FieldDescriptor, read: pa.Array) -> ColumnResult:
    kind = element_kind(field)
    if kind is None:
        assert field.message_type is not None
        return _message_column(field.message_type, read)
    done = _scalar_column(kind, field, read)
    if not is_wrapper(field):
        return done
    return ColumnResult(values=struct_of({"value": done.values}, done.values), errors=done.errors)


def _scalar_column(kind: Kind, field: FieldDescriptor, read: pa.Array) -> ColumnResult:
    if read.null_count == len(read):
        return ColumnResult(values=pa.nulls(len(read), type_of(kind)), errors={})
    if pa.types.is_binary(read.type):
        return ColumnResult(values=read, errors={}) if kind is Kind.BYTES else _from_binary(kind, field, read)
    if pa.types.is_string(read.type):
        return _from_texts(kind, field, read)
    convert = _CONVERTERS[kind](read.type)
    return convert(read, kind) if convert else _wrong_type(read, kind)


def _wrong_type(read: pa.Array, kind: Kind) -> ColumnResult:
    bad = BadValue(f"type.{kind.value}", f"a column of {read.type} where {kind.value} is expected")
    rows: list[int] = pc.indices_nonzero(read.is_valid()).to_pylist()
    return ColumnResult(values=pa.nulls(len(read), type_of(kind)), errors=dict.fromkeys(rows, bad))


def _without(values: pa.Array, bad: pa.BooleanArray | None, why: Callable[[int], BadValue]) -> ColumnResult:
    """The values, null where they are bad, and for each of those the reason."""
    if bad is None or not pc.any(bad).as_py():
        return ColumnResult(values=values, errors={})
    rows: list[int] = pc.indices_nonzero(bad).to_pylist()
    kept = pc.if_else(bad, pa.scalar(None, values.type), values)
    return ColumnResult(values=kept, errors={row: why(row) for row in rows})


def _outside(values: pa.Array, low: int, high: int, within: range) -> pa.BooleanArray | None:
    """Where values, which all are `within`, are below `low` or above `high`; None where none can be."""
    bad = None
    if within.start < low:
        bad = pc.less(values, pa.scalar(low, values.type))
    if within.stop - 1 > high:
        above = pc.greater(values, pa.scalar(high, values.type))
        bad = above if bad is None else pc.or_(bad, above)
    return bad


def _from_binary(kind: Kind, field: FieldDescriptor, read: pa.Array) -> ColumnResult:
    """Old writers leave the text annotation out."""
    text = kind in (Kind.STRING, Kind.ENUM)
    return _from_texts(kind, field, read.view(pa.string())) if text else _wrong_type(read, kind)


def _checked_texts(read: pa.StringArray) -> ColumnResult:
    """The texts, which Parquet's readers do not check for UTF-8."""
    try:
        read.validate(full=True)
    except pa.ArrowInvalid:
        values = read.view(pa.binary()).to_pylist()
        broken = pa.array([value is not None and not is_utf8(value) for value in values])
        kept = pc.if_else(broken, pa.scalar(None, pa.binary()), read.view(pa.binary())).view(pa.string())
        rows: list[int] = pc.indices_nonzero(broken).to_pylist()
        return ColumnResult(values=kept, errors={row: BadValue("utf8", "the text is not UTF-8") for row in rows})
    return ColumnResult(values=read, errors={})


def _from_texts(kind: Kind, field: FieldDescriptor, read: pa.StringArray) -> ColumnResult:
    texts = _checked_texts(read)
    values = cast_texts(texts.values, kind, field.enum_type)
    if values is not None:
        return ColumnResult(values=values, errors=texts.errors)
    done = convert_values(texts.values.to_pylist(), text_parser(kind, field.enum_type), type_of(kind))
    return ColumnResult(values=done.values, errors={**done.errors, **texts.errors})


def _integers(read: pa.Array, kind: Kind) -> ColumnResult:
    low, high = INT_RANGES[kind]
    bits = read.type.bit_width
    signed = pa.types.is_signed_integer(read.type)
    bad = _outside(read, low, high, range(-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else range(2**bits))
    kept = _without(read, bad, lambda row: out_of_range(str(read[row]), kind))
    return ColumnResult(values=kept.values.cast(INT_TYPES[kind]), errors=kept.errors)


def _whole_floats(read: pa.Array, kind: Kind) -> ColumnResult:
    low, high = INT_RANGES[kind]
    doubles = read.cast(pa.float64())
    outside = pc.or_(pc.less(doubles, max(low, -EXACT_DOUBLE)), pc.greater(doubles, min(high, EXACT_DOUBLE)))
    fraction = pc.or_(pc.invert(pc.is_finite(doubles)), pc.not_equal(pc.floor(doubles), doubles))

    def why(row: int) -> BadValue:
        value = doubles[row].as_py()
        if not float(value).is_integer():
            return BadValue(f"type.{kind.value}", f"{value!r} is no integer")
        return out_of_range(repr(value), kind)

    kept = _without(doubles, pc.or_(outside, fraction), why)
    return ColumnResult(values=kept.values.cast(INT_TYPES[kind]), errors=kept.errors)


def _whole_decimals(read: pa.Array, kind: Kind) -> ColumnResult:
    try:
        return ColumnResult(values=read.cast(INT_TYPES[kind]), errors={})
    except pa.ArrowInvalid:
        pass

    def convert(value: decimal.Decimal) -> int:
        if value != value.to_integral_value():
            raise BadValue(f"type.{kind.value}", f"{value} is no integer")
        return check_int(int(value), kind)

    return convert_values(read.to_pylist(), convert, INT_TYPES[kind])


def _numbers(read: pa.Array, kind: Kind) -> ColumnResult:
    doubles = read.cast(pa.float64(), safe=False)
    if kind is Kind.DOUBLE:
        return ColumnResult(values=doubles, errors={})
    singles = doubles.cast(pa.float32(), safe=False)
    beyond = pc.and_(pc.is_finite(doubles), pc.invert(pc.is_finite(singles)))
    return _without(singles, beyond, lambda row: out_of_range(repr(doubles[row].as_py()), kind))


def _same(read: pa.Array, _: Kind) -> ColumnResult:
    return ColumnResult(values=read, errors={})


def _decimal_texts(read: pa.Array, _: Kind) -> ColumnResult:
    return ColumnResult(values=read.cast(pa.string()), errors={})


def _timestamps(read: pa.Array, kind: Kind) -> ColumnResult:
    return _from_ticks(read.cast(pa.int64()), PER_SECOND[read.type.unit], read, kind)


def _days_as_timestamps(read: pa.Array, kind: Kind) -> ColumnResult:
    days = read.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
    return _from_ticks(pc.multiply(days, 86_400), 1, read, kind)


def _from_ticks(ticks: pa.Int64Array, per_second: int, read: pa.Array, kind: Kind) -> ColumnResult:
    last = MAX_TIMESTAMP_S * per_second + per_second - 1
    bad = _outside(ticks, MIN_TIMESTAMP_S * per_second, last, _INT64)
    kept = _without(ticks, bad, lambda row: out_of_range(f"{ticks[row]} {read.type}", kind))
    if kept.values.null_count == len(ticks):
        return ColumnResult(values=pa.nulls(len(ticks), type_of(kind)), errors=kept.errors)
    values = timestamp_of(kept.values, per_second)
    assert values is not None, "the range was checked"
    return ColumnResult(values=values, errors=kept.errors)


def _durations(read: pa.Array, kind: Kind) -> ColumnResult:
    per_second = PER_SECOND[read.type.unit]
    ticks = read.cast(pa.int64())
    bad = _outside(ticks, -MAX_DURATION_S * per_second, MAX_DURATION_S * per_second, _INT64)
    kept = _without(ticks, bad, lambda row: out_of_range(f"{ticks[row]} {read.type}", kind))
    seconds = pc.divide(kept.values, per_second)  # cuts towards zero, as the nanos bear the same sign
    rest = pc.subtract(kept.values, pc.multiply(seconds, per_second))
    nanos = pc.multiply(rest, NANOSECONDS // per_second).cast(pa.int32())
    return ColumnResult(values=struct_of({"seconds": seconds, "nanos": nanos}, kept.values), errors=kept.errors)


def _dates(read: pa.Array, kind: Kind) -> ColumnResult:
    days = read.cast(pa.date32())
    numbers = days.cast(pa.int32())
    bad = _outside(numbers, FIRST_DAY, LAST_DAY, range(-(2**31), 2**31))
    kept = _without(days, bad, lambda row: out_of_range(f"day {numbers[row]} since 1970", kind))
    parts = {"year": pc.year(kept.values), "month": pc.month(kept.values), "day": pc.day(kept.values)}
    return ColumnResult(values=struct_of(parts, kept.values, pa.int32()), errors=kept.errors)


_Convert = Callable[[pa.Array, Kind], ColumnResult]


def _to_integer(kind: pa.DataType) -> _Convert | None:
    if pa.types.is_integer(kind):
        return _integers
    if pa.types.is_floating(kind):
        return _whole_floats
    return _whole_decimals if pa.types.is_decimal(kind) else None


def _to_number(kind: pa.DataType) -> _Convert | None:
    known = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return _numbers if known else None


def _to_timestamp(kind: pa.DataType) -> _Convert | None:
    if pa.types.is_timestamp(kind):
        return _timestamps
    return _days_as_timestamps if pa.types.is_date(kind) else None


_CONVERTERS: Mapping[Kind, Callable[[pa.DataType], _Convert | None]] = {
    **dict.fromkeys(INT_RANGES, _to_integer),
    Kind.FLOAT: _to_number,
    Kind.DOUBLE: _to_number,
    Kind.BOOL: lambda kind: _same if pa.types.is_boolean(kind) else None,
    Kind.STRING: lambda kind: _decimal_texts if pa.types.is_decimal(kind) else None,
    Kind.BYTES: lambda kind: None,
    Kind.TIMESTAMP: _to_timestamp,
    Kind.DURATION: lambda kind: _durations if pa.types.is_duration(kind) else None,
    Kind.DATE: lambda kind: _dates if pa.types.is_date(kind) else None,
}


def _message_column(message: Descriptor, read: pa.Array) -> ColumnResult:
    if not pa.types.is_struct(read.type):
        return _not_nested(read, "message", pa.struct([(f.name, field_type(f)) for f in by_number(message)]))
    children = dict(zip((child.name for child in read.type), read.flatten(), strict=True))
    fields = by_number(message)
    errors: dict[int, BadValue] = {}
    columns: dict[str, pa.Array] = {}
    for field in fields:
        found = [children[name] for name in json_names(field) if name in children]
        done = typed_column(field, found[0] if found else pa.nulls(len(read), field_type(field)))
        columns[field.name] = done.values
        for row, bad in done.errors.items():
            errors.setdefault(row, bad.inside(field.name))
    for oneof in real_oneofs(message):
        count = _count_valid([columns[name] for name in oneof])
        for row in pc.indices_nonzero(pc.greater(count, 1)).to_pylist():
            errors.setdefault(row, two_members([name for name in oneof if columns[name][row].is_valid]))
    mask = read.is_null() if read.null_count else None
    if not fields:
        return ColumnResult(values=pa.StructArray.from_arrays([], fields=[], mask=read.is_null()), errors=errors)
    values = pa.StructArray.from_arrays(list(columns.values()), names=list(columns), mask=mask)
    return ColumnResult(values=values, errors=errors)


def _count_valid(columns: list[pa.Array]) -> pa.Array:
    count = columns[0].is_valid().cast(pa.int8())
    for column in columns[1:]:
        count = pc.add(count, column.is_valid().cast(pa.int8()))
    return count


def _not_nested(read: pa.Array, what: str, target: pa.DataType) -> ColumnResult:
    bad = BadValue(f"type.{what}", f"a column of {read.type} where a {what} is expected")
    rows: list[int] = pc.indices_nonzero(read.is_valid()).to_pylist()
    return ColumnResult(values=pa.nulls(len(read), target), errors=dict.fromkeys(rows, bad))


def _list_column(field: FieldDescriptor, read: pa.Array) -> ColumnResult:
    if not pa.types.is_list(read.type):
        return _not_nested(read, "repeated", field_type(field))
    elements, offsets = read.flatten(), list_offsets(read)
    done = _element_column(field, plain(elements))
    errors = {**_null_elements(elements, "repeated"), **done.errors}
    values = pa.ListArray.from_arrays(
        offsets, done.values, type=field_type(field), mask=read.is_null() if read.null_count else None
    )
    return ColumnResult(values=values, errors=_by_row(errors, offsets, lambda place, _: subscript(place)))


def _null_elements(elements: pa.Array, kind: str) -> dict[int, BadValue]:
    if not elements.null_count:
        return {}
    bad = BadValue(f"type.{kind}", "null cannot be an element")
    return dict.fromkeys(pc.indices_nonzero(elements.is_null()).to_pylist(), bad)


def _by_row(
    errors: Mapping[int, BadValue], offsets: pa.Int32Array, name: Callable[[int, int], str]
) -> dict[int, BadValue]:
    """The first error of each list, by its row; `name` takes an element's place in its list and in all."""
    if not errors:
        return {}
    begins: list[int] = offsets.to_pylist()
    rows: dict[int, BadValue] = {}
    for element in sorted(errors):
        row = bisect_right(begins, element) - 1
        rows.setdefault(row, errors[element].inside(name(element - begins[row], element)))
    return rows


def _map_column(field: FieldDescriptor, read: pa.Array) -> ColumnResult:
    if pa.types.is_map(read.type):
        entry = pa.struct([("key", read.type.key_type), ("value", read.type.item_type)])
        read = read.cast(pa.list_(entry))
    if not _holds_entries(read.type):
        return _not_nested(read, "map", field_type(field))
    assert field.message_type is not None
    entries, offsets = read.flatten(), list_offsets(read)
    found = {child.name: column for child, column in zip(entries.type, entries.flatten(), strict=True)}
    key, item = by_number(field.message_type)
    keys, items = _element_column(key, plain(found["key"])), _element_column(item, plain(found["value"]))
    nulls = {**_null_elements(found["value"], "map"), **_null_elements(found["key"], "map")}
    errors = {**nulls, **items.errors, **keys.errors}
    values = pa.ListArray.from_arrays(
        offsets,
        pa.StructArray.from_arrays([keys.values, items.values], names=["key", "value"]),
        type=field_type(field),
        mask=read.is_null() if read.null_count else None,
    )
    if _has_twins(values, keys.values):
        values = pa.array([_last_of_twins(entries) for entries in values.to_pylist()], field_type(field))
    return ColumnResult(values=values, errors=_by_row(errors, offsets, lambda _, place: _key_of(found["key"], place)))


def _key_of(keys: pa.Array, place: int) -> str:
    key: Any = keys[place].as_py()
    return subscript(key if isinstance(key, (str, int, bool)) else str(key))


def _holds_entries(kind: pa.DataType) -> bool:
    if not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type):
        return False
    return {"key", "value"} <= {child.name for child in kind.value_type}


def _has_twins(maps: pa.ListArray, keys: pa.Array) -> bool:
    """Whether a key stands twice in one map."""
    distinct = pa.table({"row": pc.list_parent_indices(maps), "key": keys}).group_by(["row", "key"]).aggregate([])
    return bool(distinct.num_rows < len(keys))


def _last_of_twins(entries: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """As in JSON, the last value of a key counts."""
    return None if entries is None else list({entry["key"]: entry for entry in entries}.values())
