"""Protobuf values as SQL parameters, by column kind. Pure: raises ValueError with the reason, never touches a driver.

Must agree with the typed columns that ingest writes: Timestamp and Duration are cut to microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from shared.contract.fields import is_wrapper
from shared.contract.model import Kind

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def sql_value(kind: Kind, field: FieldDescriptor, value: Any) -> Any:
    """The parameter for one protobuf value of `field`; ValueError says why no row can hold such a value."""
    return converter(kind, field)(value)


def converter(kind: Kind, field: FieldDescriptor) -> Callable[[Any], Any]:
    """What makes parameters of a field's values: `sql_value`, for those who need it often."""
    convert = _CONVERSIONS.get(kind, _as_it_is)
    return (lambda value: convert(value.value)) if is_wrapper(field) else convert


def set_value(kind: Kind, message: Any, name: str, value: Any) -> None:
    """The reverse, for the kinds that keys have: sets a field to what SQL gave, also where that is its default."""
    field = message.DESCRIPTOR.fields_by_name[name]
    if kind is Kind.DATE:
        day = getattr(message, name)
        day.year, day.month, day.day = value.year, value.month, value.day
        return
    plain = int(value) if kind is Kind.UINT64 else value
    if is_wrapper(field):
        getattr(message, name).value = plain
    else:
        setattr(message, name, plain)


def _as_it_is(value: Any) -> Any:
    return value


def _text(value: str | bytes) -> str:
    if isinstance(value, bytes):  # how protobuf hands over a proto2 string that is no UTF-8
        raise ValueError("is not UTF-8")  # noqa: TRY004 - a value of the caller, not of the program
    if "\0" in value:
        raise ValueError("holds a NUL character, which no row can hold")
    return value


def _timestamp(value: Any) -> datetime:
    try:
        return _EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)
    except OverflowError as exc:
        raise ValueError("lies outside the years 1 to 9999") from exc


def _duration(value: Any) -> timedelta:
    # Both parts carry the sign, so cutting goes towards zero: -0.0000015 s is -1 microsecond.
    try:
        return timedelta(seconds=value.seconds, microseconds=int(value.nanos / 1000))
    except OverflowError as exc:
        raise ValueError("is longer than 10,000 years") from exc


def _date(value: Any) -> date:
    try:
        return date(value.year, value.month, value.day)
    except ValueError as exc:
        raise ValueError(f"{value.year:04}-{value.month:02}-{value.day:02} is not a full calendar date") from exc


def _double(value: float) -> float:
    # Postgres takes all NaN for equal and 0.0 for -0.0; so must whoever compares parameters.
    return float("nan") if value != value else value + 0.0


_CONVERSIONS: Mapping[Kind, Callable[[Any], Any]] = {
    Kind.STRING: _text,
    Kind.UINT64: Decimal,
    Kind.FLOAT: _double,
    Kind.DOUBLE: _double,
    Kind.TIMESTAMP: _timestamp,
    Kind.DURATION: _duration,
    Kind.DATE: _date,
}
