"""The canonical Arrow form of a record: one type per protobuf type, derived from the descriptor alone.

Shared by decode, which fills it, and encode, which reads it. Never looks at data.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from google.protobuf.descriptor import Descriptor, FieldDescriptor

SCALAR_TYPES: Mapping[int, pa.DataType] = {
    FieldDescriptor.TYPE_BOOL: pa.bool_(),
    FieldDescriptor.TYPE_INT32: pa.int32(),
    FieldDescriptor.TYPE_SINT32: pa.int32(),
    FieldDescriptor.TYPE_SFIXED32: pa.int32(),
    FieldDescriptor.TYPE_ENUM: pa.int32(),
    FieldDescriptor.TYPE_INT64: pa.int64(),
    FieldDescriptor.TYPE_SINT64: pa.int64(),
    FieldDescriptor.TYPE_SFIXED64: pa.int64(),
    FieldDescriptor.TYPE_UINT32: pa.uint32(),
    FieldDescriptor.TYPE_FIXED32: pa.uint32(),
    FieldDescriptor.TYPE_UINT64: pa.uint64(),
    FieldDescriptor.TYPE_FIXED64: pa.uint64(),
    FieldDescriptor.TYPE_FLOAT: pa.float32(),
    FieldDescriptor.TYPE_DOUBLE: pa.float64(),
    FieldDescriptor.TYPE_STRING: pa.string(),
    FieldDescriptor.TYPE_BYTES: pa.binary(),
}


def record_schema(descriptor: Descriptor) -> pa.Schema:
    """The message's fields by proto name, in field-number order.

    Messages are structs of their fields (Timestamp, Duration, Date and wrappers too), repeated fields lists, maps lists
    of structs of `key` and `value`. Null means absent. The message must not be recursive.
    """
    return pa.schema([pa.field(field.name, field_type(field)) for field in by_number(descriptor)])


def by_number(descriptor: Descriptor) -> list[FieldDescriptor]:
    """The message's fields in the order in which they are serialised."""
    return sorted(descriptor.fields, key=lambda field: field.number)


def field_type(field: FieldDescriptor) -> pa.DataType:
    """The Arrow type of a field's column; a list for repeated fields and maps."""
    element = element_type(field)
    return pa.list_(element) if field.is_repeated else element


def element_type(field: FieldDescriptor) -> pa.DataType:
    """The Arrow type of one value of the field."""
    if field.message_type is None:
        return SCALAR_TYPES[field.type]
    return pa.struct(list(record_schema(field.message_type)))
