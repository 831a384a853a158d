"""A CSV or TSV header against a record: which column feeds which field. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ingest_service.decode.model import MalformedObject
from ingest_service.decode.record import Record, RecordField, bounded_names
from ingest_service.decode.scalars import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The columns of a file: how many, their names, and for each field that the file carries its column's index.

    `unknown` are the names that feed no field, those included that lose to a preferred name of the same field.
    """

    names: tuple[str, ...]
    indexes: Mapping[str, int]
    unknown: frozenset[str]

    def field_at(self, index: int) -> str:
        """The field that the column feeds, or the column's own name."""
        for name, place in self.indexes.items():
            if place == index:
                return name
        return self.names[index]


def read_header(cells: Sequence[bytes], record: Record) -> Layout:
    """The layout of a file with this header.

    Raises MalformedObject: BAD_HEADER, TOO_MANY_COLUMNS, DUPLICATE_COLUMN, MISSING_KEY_COLUMN.
    """
    if len(cells) > record.limits.max_columns:
        message = f"the header has {len(cells)} columns; at most {record.limits.max_columns} are read"
        raise MalformedObject(message, reason="TOO_MANY_COLUMNS")
    try:
        names = tuple(cell.decode().strip() for cell in cells)
    except UnicodeDecodeError:
        raise MalformedObject("the header is not UTF-8", reason="BAD_HEADER") from None
    _refuse_duplicates(names, record)
    indexes: dict[str, int] = {}
    for field in record.fields:
        index = next((names.index(source) for source in field.sources if source in names), None)
        if index is not None:
            indexes[field.name] = index
        elif field.is_key:
            raise _missing_key(field, names)
    used = {names[index] for index in indexes.values()}
    return Layout(names=names, indexes=indexes, unknown=bounded_names({*names} - used - {""}, record.limits))


def _refuse_duplicates(names: Sequence[str], record: Record) -> None:
    counts = Counter(names)
    for field in record.fields:
        for source in field.sources:
            if counts[source] > 1:
                message = f"the header names column {source!r} {counts[source]} times; it feeds field {field.name!r}"
                raise MalformedObject(message, reason="DUPLICATE_COLUMN", metadata={"column": source})


def _missing_key(field: RecordField, names: Sequence[str]) -> MalformedObject:
    tried = ", ".join(repr(source) for source in field.sources)
    found = ", ".join(shown(name) for name in names[:20])
    return MalformedObject(
        f"no column for key field {field.name!r}: tried {tried}; the header has {found}",
        reason="MISSING_KEY_COLUMN",
        metadata={"field": field.name},
    )
