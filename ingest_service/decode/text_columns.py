"""A column of texts to a canonical Arrow column without touching a row, or None where any value needs a closer look.

Whatever is accepted here `scalars` accepts with the same result; a property test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.descriptor import EnumDescriptor

from ingest_service.decode.scalars import (
    FALSE_WORDS,
    MAX_DURATION_S,
    MAX_TIMESTAMP_S,
    MIN_TIMESTAMP_S,
    SPECIAL_FLOATS,
    TRUE_WORDS,
)
from shared.contract.model import Kind

INT_TYPES: Mapping[Kind, pa.DataType] = {
    Kind.INT32: pa.int32(),
    Kind.INT64: pa.int64(),
    Kind.UINT32: pa.uint32(),
    Kind.UINT64: pa.uint64(),
    Kind.ENUM: pa.int32(),
}
FIRST_DAY, LAST_DAY = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31 as days since 1970
MICROSECONDS, NANOSECONDS = 1_000_000, 1_000_000_000


def cast_texts(texts: pa.StringArray, kind: Kind, enum: EnumDescriptor | None) -> pa.Array | None:
    """The texts as canonical values (structs for Timestamp, Duration and Date), nulls staying null; None where any
    text is not plainly one of the kind."""
    if texts.null_count == len(texts):
        return pa.nulls(len(texts), type_of(kind))
    try:
        return _CASTS[kind](texts, kind, enum)
    except pa.ArrowInvalid:
        return None


def type_of(kind: Kind) -> pa.DataType:
    return INT_TYPES.get(kind) or _TYPES[kind]


def _cast_int(texts: pa.StringArray, kind: Kind, _: EnumDescriptor | None) -> pa.Array | None:
    # Arrow reads 0x1F as 31.
    if pc.any(pc.match_substring_regex(texts, "[xX]")).as_py():
        return None
    return texts.cast(INT_TYPES[kind])


def _cast_float(texts: pa.StringArray, kind: Kind, _: EnumDescriptor | None) -> pa.Array | None:
    doubles = texts.cast(pa.float64())
    special = pc.invert(pc.is_finite(doubles))
    if pc.any(special).as_py():
        # Arrow reads 1e400 as infinity and nan(abc) as NaN.
        known = pc.is_in(texts.filter(special), pa.array(list(SPECIAL_FLOATS)))
        if not pc.all(known).as_py():
            return None
    return doubles if kind is Kind.DOUBLE else to_single(doubles)


def to_single(doubles: pa.DoubleArray) -> pa.FloatArray | None:
    """Single precision; None where a finite value becomes infinite."""
    singles = doubles.cast(pa.float32(), safe=False)
    overflow = pc.and_(pc.is_finite(doubles), pc.invert(pc.is_finite(singles)))
    return None if pc.any(overflow).as_py() else singles


def _cast_bool(texts: pa.StringArray, _: Kind, __: EnumDescriptor | None) -> pa.Array | None:
    words = pc.ascii_lower(texts)
    true = pc.is_in(words, pa.array(sorted(TRUE_WORDS)))
    false = pc.is_in(words, pa.array(sorted(FALSE_WORDS)))
    known = pc.or_(true, false)
    if pc.sum(known).as_py() != len(texts) - texts.null_count:
        return None
    return pc.if_else(texts.is_valid(), true, pa.scalar(None, pa.bool_()))


def _cast_enum(texts: pa.StringArray, kind: Kind, enum: EnumDescriptor | None) -> pa.Array | None:
    assert enum is not None
    values = enum.values
    places = pc.index_in(texts, pa.array([value.name for value in values]))
    if places.null_count == texts.null_count:
        return pa.array([value.number for value in values], pa.int32()).take(places)
    return _cast_int(texts, kind, enum) if places.null_count == len(texts) else None


def _cast_string(texts: pa.StringArray, _: Kind, __: EnumDescriptor | None) -> pa.Array | None:
    return None if pc.any(pc.match_substring(texts, "\0")).as_py() else texts


def _cast_bytes(_: pa.StringArray, __: Kind, ___: EnumDescriptor | None) -> None:
    return None  # Arrow has no base64 kernel


def _cast_timestamp(texts: pa.StringArray, _: Kind, __: EnumDescriptor | None) -> pa.Array | None:
    for unit, per_second in (("us", MICROSECONDS), ("ns", NANOSECONDS)):
        for zone in ("UTC", None):
            try:
                ticks = texts.cast(pa.timestamp(unit, zone)).cast(pa.int64())
            except pa.ArrowInvalid:
                continue
            return timestamp_of(ticks, per_second)
    return None


def timestamp_of(ticks: pa.Int64Array, per_second: int) -> pa.StructArray | None:
    """Seconds and nanos of ticks since 1970; None where one is out of the range of a Timestamp."""
    seconds = pc.divide(ticks, per_second)
    rest = pc.subtract(ticks, pc.multiply(seconds, per_second))
    if pc.any(pc.less(rest, 0)).as_py():  # division truncates; nanos are never negative
        before = pc.less(rest, 0)
        seconds = pc.if_else(before, pc.subtract(seconds, 1), seconds)
        rest = pc.if_else(before, pc.add(rest, per_second), rest)
    bounds = pc.min_max(seconds).as_py()
    if bounds["min"] < MIN_TIMESTAMP_S or bounds["max"] > MAX_TIMESTAMP_S:
        return None
    nanos = pc.multiply(rest, NANOSECONDS // per_second).cast(pa.int32())
    return struct_of({"seconds": seconds, "nanos": nanos}, ticks)


def _cast_duration(texts: pa.StringArray, _: Kind, __: EnumDescriptor | None) -> pa.Array | None:
    parts = pc.extract_regex(texts, r"^(?P<sign>-?)(?P<whole>[0-9]{1,12})(?:\.(?P<part>[0-9]{1,9}))?s\z")
    if parts.null_count != texts.null_count:
        return None
    sign = pc.if_else(pc.equal(pc.struct_field(parts, "sign"), "-"), -1, 1)
    whole = pc.struct_field(parts, "whole").cast(pa.int64())
    nanos = pc.utf8_rpad(pc.struct_field(parts, "part"), 9, "0").cast(pa.int32())
    beyond = pc.or_(pc.greater(whole, MAX_DURATION_S), pc.and_(pc.equal(whole, MAX_DURATION_S), pc.greater(nanos, 0)))
    if pc.any(beyond).as_py():
        return None
    return struct_of(
        {"seconds": pc.multiply(whole, sign), "nanos": pc.multiply(nanos, sign.cast(pa.int32())).cast(pa.int32())},
        parts,
    )


def _cast_date(texts: pa.StringArray, _: Kind, __: EnumDescriptor | None) -> pa.Array | None:
    days = texts.cast(pa.date32())
    bounds = pc.min_max(days.cast(pa.int32())).as_py()
    if bounds["min"] < FIRST_DAY or bounds["max"] > LAST_DAY:
        return None
    return struct_of({"year": pc.year(days), "month": pc.month(days), "day": pc.day(days)}, days, pa.int32())


def struct_of(children: Mapping[str, pa.Array], like: pa.Array, cast: pa.DataType | None = None) -> pa.StructArray:
    """A struct of the children that is null where `like` is."""
    arrays = [child.cast(cast) if cast is not None else child for child in children.values()]
    mask = like.is_null() if like.null_count else None
    return pa.StructArray.from_arrays(arrays, names=list(children), mask=mask)


_Cast = Callable[[Any, Kind, EnumDescriptor | None], "pa.Array | None"]
_CASTS: Mapping[Kind, _Cast] = {
    Kind.BOOL: _cast_bool,
    Kind.INT32: _cast_int,
    Kind.INT64: _cast_int,
    Kind.UINT32: _cast_int,
    Kind.UINT64: _cast_int,
    Kind.FLOAT: _cast_float,
    Kind.DOUBLE: _cast_float,
    Kind.STRING: _cast_string,
    Kind.BYTES: _cast_bytes,
    Kind.ENUM: _cast_enum,
    Kind.TIMESTAMP: _cast_timestamp,
    Kind.DURATION: _cast_duration,
    Kind.DATE: _cast_date,
}
_TYPES: Mapping[Kind, pa.DataType] = {
    Kind.BOOL: pa.bool_(),
    Kind.FLOAT: pa.float32(),
    Kind.DOUBLE: pa.float64(),
    Kind.STRING: pa.string(),
    Kind.BYTES: pa.binary(),
    Kind.TIMESTAMP: pa.struct([("seconds", pa.int64()), ("nanos", pa.int32())]),
    Kind.DURATION: pa.struct([("seconds", pa.int64()), ("nanos", pa.int32())]),
    Kind.DATE: pa.struct([("year", pa.int32()), ("month", pa.int32()), ("day", pa.int32())]),
}
