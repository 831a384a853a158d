"""Paths of fields inside a message field, as `filterable_paths` names them. Pure functions of descriptors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.protobuf.descriptor import FieldDescriptor

from shared.contract import fields
from shared.contract.ddl import MAX_IDENTIFIER_BYTES
from shared.contract.model import Kind


def way(field: FieldDescriptor, path: str) -> tuple[FieldDescriptor, ...]:
    """The fields from a message field to the one that the path names, both included; ValueError says why none."""
    found = [field]
    for name in path.split("."):
        holder = found[-1]
        if holder.is_repeated or holder.message_type is None or fields.kind_of(holder) is not None:
            raise ValueError(f"leads through {holder.name!r}, which is no single message")
        inner = holder.message_type.fields_by_name.get(name)
        if inner is None:
            raise ValueError(f"names {name!r}, which is no field of {holder.message_type.full_name}")
        found.append(inner)
    return tuple(found)


def name_of(fields_on_way: Sequence[FieldDescriptor]) -> str:
    """The column's name, and the field's in filters: `sender.city`."""
    return ".".join(field.name for field in fields_on_way)


def problems(field: FieldDescriptor, named: Sequence[str]) -> list[str]:
    """What is wrong with the `filterable_paths` of a top-level field, as `.field: reason`."""
    found = [f".{field.name}: filterable_paths {path!r} {reason}" for path in named for reason in _reasons(field, path)]
    if len(set(named)) < len(named):
        found.append(f".{field.name}: filterable_paths names a path twice")
    return found


def _reasons(field: FieldDescriptor, path: str) -> Iterator[str]:
    try:
        fields_on_way = way(field, path)
    except ValueError as exc:
        yield str(exc)
        return
    leaf = fields_on_way[-1]
    kind = fields.kind_of(leaf)
    if kind is None:
        yield f"names {leaf.name!r}, a message, repeated message or map, which has no column"
    elif kind is Kind.DATE:
        yield f"names {leaf.name!r}: a google.type.Date inside a message may be partial, which no column holds"
    if len(name_of(fields_on_way).encode()) > MAX_IDENTIFIER_BYTES:
        yield f"makes a name of more than {MAX_IDENTIFIER_BYTES} bytes, which no column can have"
