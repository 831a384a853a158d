"""How Arrow is to read each JSON field, and from what it read to the canonical form. Pure.

A field that Arrow cannot read (maps, oneofs in nested messages, values of mixed JSON types) has no plan: it is read
from parsed objects instead. Whatever passes here `protojson` accepts with the same result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from ingest_service.arrow_schema import by_number, field_type
from ingest_service.decode.protojson import FIELD_MASK, json_names, names_of, real_oneofs
from ingest_service.decode.text_columns import INT_TYPES, cast_texts, struct_of, to_single
from shared.contract.fields import MESSAGE_KINDS, SCALAR_KINDS, WRAPPER_KINDS, is_map, is_wrapper
from shared.contract.model import Kind


class NotPlain(Exception):
    """The column holds something that only the row-wise path can judge."""


def plan(field: FieldDescriptor, samples: Sequence[Any]) -> pa.DataType | None:
    """The Arrow type to read the field with, told from some of its values; None where Arrow cannot read it."""
    if is_map(field):
        return None
    if not field.is_repeated:
        return _element_plan(field, samples)
    lists = [value for value in samples if value is not None]
    if not all(isinstance(value, list) for value in lists):
        return None
    element = _element_plan(field, [element for value in lists for element in value])
    return None if element is None else pa.list_(element)


def _element_plan(field: FieldDescriptor, samples: Sequence[Any]) -> pa.DataType | None:
    kinds = {type(value) for value in samples if value is not None}
    kind = element_kind(field)
    if kind is None:
        assert field.message_type is not None
        return _message_plan(field.message_type, samples) if kinds <= {dict} else None
    if kinds == {str} and kind is not Kind.BOOL:
        return pa.string()
    if not kinds or kinds <= _JSON_KINDS.get(kind, frozenset()):
        return _JSON_TYPES.get(kind, pa.string())
    return None


def element_kind(field: FieldDescriptor) -> Kind | None:
    """The kind of one value of the field, wrappers taken off; None for messages that JSON writes as objects."""
    if field.message_type is None:
        return SCALAR_KINDS[field.type]
    name = field.message_type.full_name
    return MESSAGE_KINDS.get(name) or WRAPPER_KINDS.get(name)


def _message_plan(message: Descriptor, samples: Iterable[Any]) -> pa.DataType | None:
    if real_oneofs(message) or message.full_name == FIELD_MASK:
        return None
    objects = [value for value in samples if value is not None]
    children = []
    for name, field in names_of(message).items():
        child = plan(field, [value.get(name) for value in objects])
        if child is None:
            return None
        children.append(pa.field(name, child))
    return pa.struct(children)


_INTEGERS = frozenset({int})
_JSON_KINDS = {
    Kind.BOOL: frozenset({bool}),
    Kind.FLOAT: frozenset({int, float}),
    Kind.DOUBLE: frozenset({int, float}),
    **dict.fromkeys(INT_TYPES, _INTEGERS),
}
# Where the sample shows no value: what most files hold.
_JSON_TYPES = {
    Kind.BOOL: pa.bool_(),
    Kind.FLOAT: pa.float64(),
    Kind.DOUBLE: pa.float64(),
    **INT_TYPES,
}


def canonical(field: FieldDescriptor, read: pa.Array) -> pa.Array:
    """The field's canonical column from the column that Arrow read by `plan`; raises NotPlain."""
    if not field.is_repeated:
        return _canonical_element(field, read)
    values = read.flatten()
    if values.null_count:
        raise NotPlain  # null is no element
    elements = _canonical_element(field, values)
    mask = read.is_null() if read.null_count else None
    return pa.ListArray.from_arrays(list_offsets(read), elements, type=field_type(field), mask=mask)


def list_offsets(lists: pa.ListArray) -> pa.Int32Array:
    """The offsets into `flatten()`, which leaves out what null lists and slices hide."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).cast(pa.int32())
    ends = pc.cumulative_sum(lengths)
    return pa.concat_arrays([pa.array([0], pa.int32()), ends])


def _canonical_element(field: FieldDescriptor, read: pa.Array) -> pa.Array:
    kind = element_kind(field)
    if kind is None:
        assert field.message_type is not None
        return _canonical_message(field.message_type, read)
    values = _canonical_scalar(kind, field, read)
    if values is None:
        raise NotPlain
    return struct_of({"value": values}, values) if is_wrapper(field) else values


def _canonical_scalar(kind: Kind, field: FieldDescriptor, read: pa.Array) -> pa.Array | None:
    if read.type == pa.string():
        # NUL cannot be in here: a block with one (always escaped in JSON) never comes to Arrow.
        return read if kind is Kind.STRING else cast_texts(read, kind, field.enum_type)
    if kind in (Kind.FLOAT, Kind.DOUBLE):
        if not pc.all(pc.is_finite(read)).as_py():
            return None  # Arrow takes a bare NaN or Infinity, which is not JSON
        return read if kind is Kind.DOUBLE else to_single(read)
    return read


def _canonical_message(message: Descriptor, read: pa.StructArray) -> pa.StructArray:
    children = dict(zip((child.name for child in read.type), read.flatten(), strict=True))
    fields = by_number(message)
    columns = [named_column(field, json_names(field), children) for field in fields]
    if not columns:
        return pa.StructArray.from_arrays([], fields=[], mask=read.is_null())
    return pa.StructArray.from_arrays(
        columns, names=[field.name for field in fields], mask=read.is_null() if read.null_count else None
    )


def named_column(field: FieldDescriptor, names: Sequence[str], children: Mapping[str, pa.Array]) -> pa.Array:
    """The field's canonical column from the columns under its names: the first value that is not null."""
    found = [children[name] for name in names if name in children]
    filled = [column for column in found if column.null_count < len(column)] or found[:1]
    columns = [canonical(field, column) for column in filled]
    return columns[0] if len(columns) == 1 else pc.coalesce(*columns)
