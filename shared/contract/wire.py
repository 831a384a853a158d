"""The canonical description of a record's bytes, and the fingerprint that tells two contracts apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from shared.contract.fields import is_map
from shared.contract.model import Column

_TYPE_NAMES = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}


def describe(message: Descriptor) -> str:
    """Canonical JSON of field numbers, types, labels and nested messages; names do not count, they are not on the wire.

    `{"<number>": {"type", "label": implicit|optional|repeated|map, "packed"?, "fields"?: {...}}}`; a map's `fields`
    are its entry's key (1) and value (2).
    """
    return json.dumps(_fields(message), separators=(",", ":"))


def _fields(message: Descriptor) -> dict[str, Any]:
    return {str(field.number): _field(field) for field in sorted(message.fields, key=lambda field: field.number)}


def _field(field: FieldDescriptor) -> dict[str, Any]:
    described: dict[str, Any] = {"type": _TYPE_NAMES[field.type], "label": _label(field)}
    if field.is_repeated and field.is_packed:
        described["packed"] = True
    if field.message_type is not None:
        described["fields"] = _fields(field.message_type)
    return described


def _label(field: FieldDescriptor) -> str:
    if is_map(field):
        return "map"
    if field.is_repeated:
        return "repeated"
    return "optional" if field.has_presence else "implicit"


def fingerprint(description: str, key: Sequence[str], columns: Sequence[Column]) -> str:
    """SHA-256 hex of the wire description, the key and the columns' names and types: all that stored rows depend on."""
    typed = [[column.name, _identity(column), column.pg_type, column.nullable] for column in columns]
    canonical = json.dumps([json.loads(description), list(key), typed], separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _identity(column: Column) -> int | str:
    """A top-level column's number stays a number: the fingerprints of applied contracts must not change."""
    return column.path if column.inner else column.number
