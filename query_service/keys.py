"""Positions of rows between wire bytes, tokens and SQL. Pure; decodes one record a page, never one a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from query_service.values import set_value, sql_value
from shared.contract.model import Dataset, IndexField


def unframe(framed: bytes) -> bytes:
    """The record of a stored row, without the frame (0x0A, varint length) that makes it field 1 of a response."""
    start = 1
    while framed[start] & 0x80:
        start += 1
    return framed[start + 1 :]


def position_of(dataset: Dataset, framed: bytes, order: Sequence[IndexField]) -> bytes:
    """Where a stored row stands, as tokens carry it: the record with its key fields and those of `order` only."""
    record = dataset.message_class.FromString(unframe(framed))
    position = dataset.message_class()
    for name in {*dataset.key, *(field.name for field in order)}:
        _copy(dataset.way(name), record, position)
    encoded: bytes = position.SerializeToString(deterministic=True)
    return encoded


def position_values(dataset: Dataset, position: bytes, order: Sequence[IndexField]) -> tuple[Any, ...]:
    """The values of `order` as SQL parameters, None for NULL; ValueError where the bytes are no row of this dataset."""
    try:
        record = dataset.message_class.FromString(position)
    except DecodeError as exc:
        raise ValueError(f"is not a key of {dataset.name}") from exc
    return tuple(_value(dataset, record, field.name) for field in order)


def set_key(dataset: Dataset, message: Any, key: Sequence[Any]) -> None:
    """Sets the key fields of a message that has them, from their values in SQL, in keyset order."""
    for column, value in zip(dataset.key_columns, key, strict=True):
        set_value(column.kind, message, column.name, value)


def _copy(way: Sequence[FieldDescriptor], record: Any, position: Any) -> None:
    """Sets the field that the way leads to as the record has it; messages on the way are in both or in neither."""
    *messages, field = way
    for message in messages:
        if not record.HasField(message.name):
            return
        record, position = getattr(record, message.name), getattr(position, message.name)
        position.SetInParent()
    if field.has_presence and not record.HasField(field.name):
        return
    if field.message_type is not None:
        getattr(position, field.name).CopyFrom(getattr(record, field.name))
    else:
        setattr(position, field.name, getattr(record, field.name))


def _value(dataset: Dataset, record: Any, name: str) -> Any:
    *messages, field = dataset.way(name)
    for message in messages:
        if not record.HasField(message.name):
            return None
        record = getattr(record, message.name)
    if field.has_presence and name not in dataset.key and not record.HasField(field.name):
        return None
    return sql_value(dataset.column(name).kind, field, getattr(record, field.name))
