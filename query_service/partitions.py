"""Which keys a partition of a Stream has. Pure.

The bounds between parts are kept with the dataset's version, so calls that know nothing of each other, on any server,
cut alike. A token carries those of its stream: a resumed partition keeps its range, whatever was loaded meanwhile.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from query_service.keys import set_key
from query_service.positions import key_positions
from shared.contract.model import Column, Dataset, Kind

MOST_PARTITIONS = 64
BOUNDS_SQL = "SELECT epoch, version, key_bounds::text FROM penstock.datasets WHERE name = $1"

_LENGTHS = struct.Struct(">?iii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Part `index`, from 0, of `count`."""

    count: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The keys after `lower` up to and with `upper`, as tokens carry keys; None: without end. `empty`: none at all."""

    lower: bytes | None = None
    upper: bytes | None = None
    empty: bool = False


def span_of(dataset: Dataset, partition: Partition, bounds: str | None) -> Span:
    """The partition's span among the dataset's bounds (JSON). Where there are fewer parts than partitions, some are
    empty; without bounds the last partition has all rows."""
    keys = json.loads(bounds) if bounds else []
    parts = len(keys) + 1
    first, end = (parts * place // partition.count for place in (partition.index, partition.index + 1))
    if first == end:
        return Span(empty=True)
    lower = None if first == 0 else _key(dataset, keys[first - 1])
    upper = None if end == parts else _key(dataset, keys[end - 1])
    return Span(lower=lower, upper=upper)


def bound_values(dataset: Dataset, key: bytes | None) -> tuple[Any, ...]:
    """A bound as SQL parameters in keyset order, empty where there is none; ValueError where the bytes are no key."""
    return () if key is None else key_positions(dataset).values(key)


def pack(span: Span, key: bytes | None) -> bytes:
    """The span and the position in it, as a token carries them."""
    parts = (span.lower, span.upper, key)
    return _LENGTHS.pack(span.empty, *(-1 if part is None else len(part) for part in parts)) + b"".join(
        part for part in parts if part is not None
    )


def unpack(packed: bytes) -> tuple[Span, bytes | None]:
    """The reverse; ValueError for what `pack` has not made."""
    try:
        empty, *lengths = _LENGTHS.unpack_from(packed)
    except struct.error as exc:
        raise ValueError("is no position of a partition") from exc
    parts: list[bytes | None] = []
    begin = _LENGTHS.size
    for length in lengths:
        parts.append(None if length < 0 else packed[begin : begin + length])
        begin += max(0, length)
    lower, upper, key = parts
    return Span(lower=lower, upper=upper, empty=empty), key


def _key(dataset: Dataset, values: Sequence[Any]) -> bytes:
    record = dataset.message_class()
    converted = (_value(column, value) for column, value in zip(dataset.key_columns, values, strict=True))
    set_key(dataset, record, tuple(converted))
    encoded: bytes = record.SerializeToString(deterministic=True)
    return encoded


def _value(column: Column, value: Any) -> Any:
    """A key's value from JSON, as SQL gives it."""
    if column.kind is Kind.DATE:
        return date.fromisoformat(value)
    return Decimal(value) if column.kind is Kind.UINT64 else value
