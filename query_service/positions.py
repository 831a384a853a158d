"""Positions of rows in one order, between stored bytes, tokens and SQL. Pure; decodes one record a page, none a row."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from google.protobuf.message import DecodeError

from query_service.masks import Mask, tree_of
from query_service.rows import unframe
from query_service.values import converter
from shared.contract.model import Dataset, IndexField

# Callers choose the orders, so the number that are kept has to have a limit.
_MOST_ORDERS = 500


class Positions:
    """Of one dataset in one order. What depends on these two only is found out once: every page passes through here."""

    def __init__(self, dataset: Dataset, order: tuple[IndexField, ...]) -> None:
        names = [field.name for field in order]
        self._dataset = dataset
        self._cut = Mask(dataset.message, tree_of((*dataset.key, *names))).record
        self._parse = dataset.message_class.FromString
        self._readers = [_reader(dataset, name) for name in names]

    def of(self, framed: bytes) -> bytes:
        """Where a stored row stands, as tokens carry it: the record with its key fields and those of the order only.

        Of bytes as ingest writes them, each field once and one field of a oneof: it is cut, not read.
        """
        return self._cut(unframe(framed))

    def values(self, position: bytes) -> tuple[Any, ...]:
        """The values of the order as SQL parameters, None for NULL; ValueError where the bytes are no row of this
        dataset."""
        try:
            record = self._parse(position)
        except DecodeError as exc:
            raise ValueError(f"is not a key of {self._dataset.name}") from exc
        return tuple([read(record) for read in self._readers])


@lru_cache(maxsize=_MOST_ORDERS)
def positions(dataset: Dataset, order: tuple[IndexField, ...]) -> Positions:
    """The positions of an order, the same object each time."""
    return Positions(dataset, order)


def key_positions(dataset: Dataset) -> Positions:
    """Those in the order of the key."""
    return positions(dataset, tuple(IndexField(name=name) for name in dataset.key))


def _reader(dataset: Dataset, column: str) -> Callable[[Any], Any]:
    """What takes a column's value out of a record: None where the field, or a message around it, is missing."""
    *messages, field = dataset.way(column)
    name, convert = field.name, converter(dataset.column(column).kind, field)
    asks = field.has_presence and column not in dataset.key
    if not messages and not asks:
        return lambda record: convert(getattr(record, name))
    around = [message.name for message in messages]

    def read(record: Any) -> Any:
        for holder in around:
            if not record.HasField(holder):
                return None
            record = getattr(record, holder)
        return convert(getattr(record, name)) if not asks or record.HasField(name) else None

    return read
