"""A request that a method takes, for documentation: the least that it asks for. Pure."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from shared.contract.binding import RESERVED_REQUEST_FIELDS
from shared.contract.fields import kind_of
from shared.contract.model import Kind, Method, MethodKind

_VALUES: dict[Kind, Any] = {
    Kind.BOOL: True,
    Kind.STRING: "A1",
    Kind.DATE: {"year": 2026, "month": 1, "day": 31},
}


def example_request(message: Descriptor, method: Method | None) -> dict[str, Any]:
    """The request in ProtoJSON, by proto field names; empty where the method needs nothing, or is not a dataset's."""
    match method.kind if method is not None else None:
        case MethodKind.GET:
            return _key(message)
        case MethodKind.BATCH_GET:
            return {"requests": [_key(message.fields_by_name["requests"].message_type)]}
        case MethodKind.LIST:
            return {"page_size": 2}
        case _:
            return {}


def _key(message: Descriptor | None) -> dict[str, Any]:
    """Every field but reserved ones, which are no part of a key and may stay unset."""
    fields = message.fields if message is not None else ()
    return {field.name: _value(field) for field in fields if field.name not in RESERVED_REQUEST_FIELDS}


def _value(field: FieldDescriptor) -> Any:
    if field.enum_type is not None:
        return field.enum_type.values[-1].name
    kind = kind_of(field)
    return _VALUES.get(kind, 1) if kind is not None else {}
