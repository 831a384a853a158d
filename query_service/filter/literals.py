"""A value as it is written -> the SQL parameter of its column's type. Raises ValueError with what is allowed."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from query_service.filter.syntax import Word
from shared.contract.model import Column, Kind

_INTEGER = re.compile(r"-?[0-9]{1,20}")
_NUMBER = re.compile(r"-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_DURATION = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]{1,9}))?s")
_RANGES: Mapping[Kind, tuple[int, int]] = {
    Kind.INT32: (-(2**31), 2**31 - 1),
    Kind.INT64: (-(2**63), 2**63 - 1),
    Kind.UINT32: (0, 2**32 - 1),
    Kind.UINT64: (0, 2**64 - 1),
    Kind.ENUM: (-(2**31), 2**31 - 1),
}
_MOST_NAMES = 20


def value_of(column: Column, field: FieldDescriptor, word: Word) -> Any:
    """The parameter of a value that is no text."""
    if field.enum_type is not None:
        return _enum(field.enum_type, _bare(word))
    return _CONVERSIONS[column.kind](_bare(word), column)


def text_of(word: Word) -> tuple[str, bool]:
    r"""The text of a string, and whether an unescaped `*` at its end asks for all that begin with it.

    A backslash takes the meaning from a quote, a star or a backslash.
    """
    raw = _bare(word)
    characters: list[str] = []
    place = 0
    while place < len(raw):
        character = raw[place]
        if character == "\\":
            place += 1
            character = _escaped(raw[place : place + 1])
        elif character == "*":
            if place != len(raw) - 1:
                raise ValueError(r"'*' stands for any ending and only at the end; write \* for the character")
            return _checked("".join(characters)), True
        characters.append(character)
        place += 1
    return _checked("".join(characters)), False


def _bare(word: Word) -> str:
    return word.text[1:-1] if word.quoted else word.text


def _escaped(character: str) -> str:
    if character not in {"\\", '"', "'", "*"}:
        raise ValueError(r"a backslash stands before a quote, '*' or another backslash only")
    return character


def _checked(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character, which no row can hold")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds half of a surrogate pair, which no row can hold")
    return text


def _bool(text: str, _: Column) -> bool:
    if text not in {"true", "false"}:
        raise ValueError("expected true or false")
    return text == "true"


def _integer(text: str, column: Column) -> Any:
    if not _INTEGER.fullmatch(text):
        raise ValueError("expected a whole number")
    number = int(text)
    least, most = _RANGES[column.kind]
    if not least <= number <= most:
        raise ValueError(f"lies outside the range of {column.kind.value}, {least} to {most}")
    return Decimal(number) if column.kind is Kind.UINT64 else number


def _real(text: str, column: Column) -> float:
    if text in _SPECIAL:
        return _SPECIAL[text]
    if not _NUMBER.fullmatch(text):
        raise ValueError("expected a number")
    number = float(text)
    try:
        # A float column holds the nearest of its numbers, as its rows do: 0.1 has to find 0.1.
        (rounded,) = struct.unpack("<f", struct.pack("<f", number)) if column.kind is Kind.FLOAT else (number,)
    except OverflowError as exc:
        raise ValueError("lies outside the range of float") from exc
    if rounded in {float("inf"), float("-inf")}:
        raise ValueError(f"lies outside the range of {column.kind.value}")
    return float(rounded) + 0.0  # -0.0 equals 0.0


def _enum(enum_type: EnumDescriptor, text: str) -> int:
    known = enum_type.values_by_name.get(text)
    if known is not None:
        return int(known.number)
    if _INTEGER.fullmatch(text) and _RANGES[Kind.ENUM][0] <= int(text) <= _RANGES[Kind.ENUM][1]:
        return int(text)
    names = ", ".join([value.name for value in enum_type.values][:_MOST_NAMES])
    raise ValueError(f"expected one of {names}")


def _bytes(text: str, _: Column) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ValueError("expected base64") from exc


def _timestamp(text: str, _: Column) -> datetime:
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        raise ValueError("expected a timestamp of RFC 3339, such as 2024-05-01T12:30:00Z")
    day, time, fraction, zone = found.groups()
    # Columns hold microseconds, cut off; so is what they are compared with.
    micros = f"{(fraction or '.')[1:]:0<6}"[:6]
    try:
        return datetime.fromisoformat(f"{day}T{time}.{micros}{zone.upper().replace('Z', '+00:00')}").astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise ValueError("is no time of the years 1 to 9999") from exc


def _date(text: str, _: Column) -> date:
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError("expected a calendar date, such as 2024-05-01")


def _duration(text: str, _: Column) -> timedelta:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError("expected seconds, such as 90s or 1.5s")
    sign, seconds, fraction = found.groups()
    length = timedelta(seconds=int(seconds), microseconds=int(f"{fraction or '':0<6}"[:6]))
    return -length if sign else length


_CONVERSIONS: Mapping[Kind, Callable[[str, Column], Any]] = {
    Kind.BOOL: _bool,
    Kind.INT32: _integer,
    Kind.INT64: _integer,
    Kind.UINT32: _integer,
    Kind.UINT64: _integer,
    Kind.FLOAT: _real,
    Kind.DOUBLE: _real,
    Kind.BYTES: _bytes,
    Kind.TIMESTAMP: _timestamp,
    Kind.DATE: _date,
    Kind.DURATION: _duration,
}
