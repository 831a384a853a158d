"""One value's text to one value: the rules that both paths obey. Raises BadValue; never sees a row.

What is accepted beyond ProtoJSON: bools as 1/0/t/f (CSV only), a sign on integers, and timestamps with a space for the
T, without seconds, without zone (UTC) or with the date alone, because that is what databases and spreadsheets export.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import math
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor import EnumDescriptor

from ingest_service.decode.model import BadValue
from shared.contract.model import Kind

INT_RANGES: Mapping[Kind, tuple[int, int]] = {
    Kind.INT32: (-(2**31), 2**31 - 1),
    Kind.INT64: (-(2**63), 2**63 - 1),
    Kind.UINT32: (0, 2**32 - 1),
    Kind.UINT64: (0, 2**64 - 1),
    Kind.ENUM: (-(2**31), 2**31 - 1),
}
# ProtoJSON's three spellings and those that C, Python, Java and R print.
SPECIAL_FLOATS: Mapping[str, float] = {
    text: float(text)
    for word in ("NaN", "nan", "NAN", "Infinity", "infinity", "INFINITY", "inf", "Inf", "INF")
    for text in (word, f"+{word}", f"-{word}")
}
TRUE_WORDS = frozenset({"true", "t", "1"})
FALSE_WORDS = frozenset({"false", "f", "0"})
# google.protobuf.Duration: ten thousand years.
MAX_DURATION_S = 315_576_000_000
# Arrow's ISO 8601 reader takes the same, save for lower case.
_TIMESTAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[ Tt](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?([Zz]|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII,
)
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
_DURATION = re.compile(r"(-?)(\d{1,12})(?:\.(\d{1,9}))?s", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
# More digits than any integer type has; int() of a huge text is quadratic.
_MOST_DIGITS = 40


def text_parser(kind: Kind, enum: EnumDescriptor | None) -> Callable[[str], Any]:
    """The function that takes one value's text; Timestamp, Duration and Date give the dict of their fields."""
    if kind is Kind.ENUM:
        assert enum is not None
        numbers = {value.name: value.number for value in enum.values}
        return lambda text: parse_enum(text, numbers)
    if kind in INT_RANGES:
        return lambda text: parse_int(text, kind)
    if kind in (Kind.FLOAT, Kind.DOUBLE):
        return lambda text: parse_float(text, kind)
    return _OTHER_PARSERS[kind]


def parse_int(text: str, kind: Kind) -> int:
    """Digits with an optional sign."""
    if not _INTEGER.fullmatch(text):
        raise BadValue(f"type.{kind.value}", f"{shown(text)} is no integer")
    digits = text.lstrip("+-0") or "0"
    if len(digits) > _MOST_DIGITS:
        raise out_of_range(text, kind)
    return check_int(-int(digits) if text.startswith("-") else int(digits), kind)


def check_int(value: int, kind: Kind) -> int:
    """The value, if the kind holds it."""
    low, high = INT_RANGES[kind]
    if not low <= value <= high:
        raise out_of_range(str(value), kind)
    return value


def parse_float(text: str, kind: Kind) -> float:
    """A decimal number, or a spelling of NaN and infinity."""
    if text in SPECIAL_FLOATS:
        return SPECIAL_FLOATS[text]
    if not _NUMBER.fullmatch(text):
        raise BadValue(f"type.{kind.value}", f"{shown(text)} is no number")
    value = float(text)
    if math.isinf(value):
        raise out_of_range(text, kind)
    return check_float(value, kind)


def check_float(value: float, kind: Kind) -> float:
    """The value as the kind holds it; single precision is rounded from double precision, as protobuf does it."""
    if kind is Kind.FLOAT:
        try:  # "<f" raises on overflow, native "f" gives infinity
            value = struct.unpack("<f", struct.pack("<f", value))[0]
        except OverflowError:
            raise out_of_range(repr(value), kind) from None
    return value


def parse_bool(text: str) -> bool:
    """true/false, t/f, 1/0 in any case."""
    word = text.lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise BadValue("type.bool", f"{shown(text)} is neither true nor false")


def parse_enum(text: str, numbers: Mapping[str, int]) -> int:
    """A value's name, or any number of int32: enums are open."""
    number = numbers.get(text)
    if number is not None:
        return number
    if not _INTEGER.fullmatch(text):
        raise BadValue("type.enum", f"{shown(text)} is no name of the enum and no number")
    return parse_int(text, Kind.ENUM)


def parse_string(text: str) -> str:
    """Any text without NUL, which Postgres cannot store."""
    if "\0" in text:
        raise BadValue("text.nul", "the text holds a NUL character")
    return text


def parse_bytes(text: str) -> bytes:
    """Base64, standard or URL-safe, padded or not."""
    body = text.rstrip("=")
    if len(text) - len(body) > 2:
        raise BadValue("type.bytes", f"{shown(text)} is no base64")
    try:
        return base64.b64decode(body + "=" * (-len(body) % 4), altchars=_altchars(body), validate=True)
    except (binascii.Error, ValueError):
        raise BadValue("type.bytes", f"{shown(text)} is no base64") from None


def _altchars(text: str) -> bytes | None:
    return b"-_" if "-" in text or "_" in text else None


def parse_timestamp(text: str) -> dict[str, int]:
    """RFC 3339 and the forms named above, year 0001 to 9999, up to nanoseconds."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise BadValue("type.timestamp", f"{shown(text)} is no RFC 3339 time such as 2024-01-31T10:20:30Z")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    if not year:
        raise out_of_range(text, Kind.TIMESTAMP)
    try:
        local = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.UTC)
    except ValueError as exc:
        raise BadValue("type.timestamp", f"{shown(text)}: {exc}") from None
    difference = local - _EPOCH
    seconds = difference.days * 86400 + difference.seconds - _offset_s(match.group(8), text)
    if not MIN_TIMESTAMP_S <= seconds <= MAX_TIMESTAMP_S:
        raise out_of_range(text, Kind.TIMESTAMP)
    return {"seconds": seconds, "nanos": int((match.group(7) or "").ljust(9, "0"))}


def _offset_s(zone: str | None, text: str) -> int:
    if zone is None or zone in "Zz":
        return 0
    hours, minutes = int(zone[1:3]), int(zone[3:].lstrip(":") or 0)
    if hours > 23 or minutes > 59:
        raise BadValue("type.timestamp", f"{shown(text)} has no real time zone")
    return (hours * 3600 + minutes * 60) * (-1 if zone[0] == "-" else 1)


MIN_TIMESTAMP_S = -62_135_596_800
MAX_TIMESTAMP_S = 253_402_300_799


def parse_duration(text: str) -> dict[str, int]:
    """ProtoJSON: seconds with up to nine decimals and an s."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise BadValue("type.duration", f"{shown(text)} is no duration such as 1.5s")
    sign = -1 if match.group(1) else 1
    seconds, nanos = int(match.group(2)), int((match.group(3) or "").ljust(9, "0"))
    if seconds > MAX_DURATION_S or (seconds == MAX_DURATION_S and nanos):
        raise out_of_range(text, Kind.DURATION)
    return {"seconds": sign * seconds, "nanos": sign * nanos}


def parse_date(text: str) -> dict[str, int]:
    """A real calendar day as YYYY-MM-DD."""
    match = _DATE.fullmatch(text)
    if match is None:
        raise BadValue("type.date", f"{shown(text)} is no date such as 2024-01-31")
    year, month, day = (int(part) for part in match.groups())
    return check_date(year, month, day)


def check_date(year: int, month: int, day: int) -> dict[str, int]:
    """The day, if the calendar has it; a partial date (month or day 0) cannot be stored in a date column."""
    try:
        datetime.date(year, month, day)
    except (ValueError, OverflowError) as exc:
        raise BadValue("type.date", f"{year:04}-{month:02}-{day:02} is no calendar day: {exc}") from None
    return {"year": year, "month": month, "day": day}


def out_of_range(text: str, kind: Kind) -> BadValue:
    """The reject of a value that is well-formed and that its type cannot hold."""
    return BadValue(f"range.{kind.value}", f"{shown(text)} is out of the range of {kind.value}")


def shown(text: str) -> str:
    """The text quoted and bounded, for messages."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


_OTHER_PARSERS: Mapping[Kind, Callable[[str], Any]] = {
    Kind.BOOL: parse_bool,
    Kind.STRING: parse_string,
    Kind.BYTES: parse_bytes,
    Kind.TIMESTAMP: parse_timestamp,
    Kind.DURATION: parse_duration,
    Kind.DATE: parse_date,
}
