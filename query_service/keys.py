"""Keys of rows between wire bytes, tokens and SQL. Pure; decodes one record a page, never one a row."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from query_service.values import sql_value
from shared.contract.model import Dataset


def unframe(framed: bytes) -> bytes:
    """The record of a stored row, without the frame (0x0A, varint length) that makes it field 1 of a response."""
    start = 1
    while framed[start] & 0x80:
        start += 1
    return framed[start + 1 :]


def key_of(dataset: Dataset, framed: bytes) -> bytes:
    """The key of a stored row as tokens carry it: the record with its key fields only."""
    record = dataset.message_class.FromString(unframe(framed))
    key = dataset.message_class()
    for name in dataset.key:
        if dataset.message.fields_by_name[name].message_type is not None:
            getattr(key, name).CopyFrom(getattr(record, name))
        else:
            setattr(key, name, getattr(record, name))
    encoded: bytes = key.SerializeToString(deterministic=True)
    return encoded


def key_values(dataset: Dataset, key: bytes) -> tuple[Any, ...]:
    """The key as SQL parameters, in keyset order; ValueError where the bytes are no key of this dataset."""
    try:
        record = dataset.message_class.FromString(key)
    except DecodeError as exc:
        raise ValueError(f"is not a key of {dataset.name}") from exc
    columns = dataset.key_columns
    return tuple(
        sql_value(column.kind, dataset.message.fields_by_name[column.name], getattr(record, column.name))
        for column in columns
    )
