"""What type a protobuf field is to Penstock. Pure functions of a FieldDescriptor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from shared.contract.model import Kind

OPTION_CLASSES: Mapping[str, Any] = {
    options.DESCRIPTOR.full_name: options
    for options in (descriptor_pb2.MessageOptions, descriptor_pb2.FieldOptions, descriptor_pb2.ServiceOptions)
}

SCALAR_KINDS: Mapping[int, Kind] = {
    FieldDescriptor.TYPE_BOOL: Kind.BOOL,
    FieldDescriptor.TYPE_INT32: Kind.INT32,
    FieldDescriptor.TYPE_SINT32: Kind.INT32,
    FieldDescriptor.TYPE_SFIXED32: Kind.INT32,
    FieldDescriptor.TYPE_INT64: Kind.INT64,
    FieldDescriptor.TYPE_SINT64: Kind.INT64,
    FieldDescriptor.TYPE_SFIXED64: Kind.INT64,
    FieldDescriptor.TYPE_UINT32: Kind.UINT32,
    FieldDescriptor.TYPE_FIXED32: Kind.UINT32,
    FieldDescriptor.TYPE_UINT64: Kind.UINT64,
    FieldDescriptor.TYPE_FIXED64: Kind.UINT64,
    FieldDescriptor.TYPE_FLOAT: Kind.FLOAT,
    FieldDescriptor.TYPE_DOUBLE: Kind.DOUBLE,
    FieldDescriptor.TYPE_STRING: Kind.STRING,
    FieldDescriptor.TYPE_BYTES: Kind.BYTES,
    FieldDescriptor.TYPE_ENUM: Kind.ENUM,
}

MESSAGE_KINDS: Mapping[str, Kind] = {
    "google.protobuf.Timestamp": Kind.TIMESTAMP,
    "google.protobuf.Duration": Kind.DURATION,
    "google.type.Date": Kind.DATE,
}

WRAPPER_KINDS: Mapping[str, Kind] = {
    "google.protobuf.BoolValue": Kind.BOOL,
    "google.protobuf.Int32Value": Kind.INT32,
    "google.protobuf.Int64Value": Kind.INT64,
    "google.protobuf.UInt32Value": Kind.UINT32,
    "google.protobuf.UInt64Value": Kind.UINT64,
    "google.protobuf.FloatValue": Kind.FLOAT,
    "google.protobuf.DoubleValue": Kind.DOUBLE,
    "google.protobuf.StringValue": Kind.STRING,
    "google.protobuf.BytesValue": Kind.BYTES,
}


def kind_of(field: FieldDescriptor) -> Kind | None:
    """The kind of the field's typed column; None for nested messages, repeated messages and maps (wire column only)."""
    if field.message_type is None:
        return SCALAR_KINDS[field.type]
    if field.is_repeated:
        return None
    name = field.message_type.full_name
    return MESSAGE_KINDS.get(name) or WRAPPER_KINDS.get(name)


def is_wrapper(field: FieldDescriptor) -> bool:
    """Whether the field is one of google.protobuf's wrapper messages."""
    return field.message_type is not None and field.message_type.full_name in WRAPPER_KINDS


def is_map(field: FieldDescriptor) -> bool:
    """Whether the field is a map: a repeated message that the compiler made."""
    return map_entry(field) is not None


def map_entry(field: FieldDescriptor) -> Descriptor | None:
    """The message that the compiler made for the entries of a map, fields `key` and `value`; None of other fields."""
    entry = field.message_type if field.is_repeated else None
    return entry if entry is not None and entry.GetOptions().map_entry else None
