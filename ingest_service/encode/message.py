"""Records as protobuf wire bytes, a batch at a time: byte for byte what SerializeToString(deterministic=True) gives.

Reads the canonical Arrow form (see arrow.py). Never sees a single row, and never checks values: decode has done that.
"""

from __future__ import annotations

import enum

import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from ingest_service.arrow_schema import by_number
from ingest_service.encode.pieces import EMPTY, Piece, byte_lengths, join, offsets_of, regroup
from ingest_service.encode.varint import varint, varints

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
# Field 1 of a response: its tag.
FRAME_TAG = b"\x0a"
NO_TAG = b""

WIRE_TYPES = {
    FieldDescriptor.TYPE_DOUBLE: FIXED64,
    FieldDescriptor.TYPE_FIXED64: FIXED64,
    FieldDescriptor.TYPE_SFIXED64: FIXED64,
    FieldDescriptor.TYPE_FLOAT: FIXED32,
    FieldDescriptor.TYPE_FIXED32: FIXED32,
    FieldDescriptor.TYPE_SFIXED32: FIXED32,
    FieldDescriptor.TYPE_STRING: LENGTH_DELIMITED,
    FieldDescriptor.TYPE_BYTES: LENGTH_DELIMITED,
    FieldDescriptor.TYPE_MESSAGE: LENGTH_DELIMITED,
}
ZIGZAG = frozenset({FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64})
FIXED_TYPES = {FIXED64: (pa.uint64(), pa.binary(8)), FIXED32: (pa.uint32(), pa.binary(4))}
ONE = pa.scalar(1, pa.int64())
SIGN = pa.scalar(62, pa.int64())


class Presence(enum.Enum):
    """When a value that is not null is written: implicit presence leaves the type's default out."""

    IMPLICIT = "implicit"
    EXPLICIT = "explicit"


def encode_messages(descriptor: Descriptor, records: pa.RecordBatch | pa.StructArray) -> pa.BinaryArray:
    """The encoded message of each row; an empty message for a null struct. No nulls in the result.

    Raises ValueError for groups and for nulls inside lists and maps, which no protobuf message can hold.
    """
    return join(message_pieces(descriptor, records), len(records))


def encode_framed(descriptor: Descriptor, records: pa.RecordBatch | pa.StructArray) -> pa.BinaryArray:
    """`frame(encode_messages(...))` in one join, without the copy between."""
    return _framed(message_pieces(descriptor, records), len(records))


def frame(messages: pa.BinaryArray) -> pa.BinaryArray:
    """Each message as field 1 of a response: 0x0A, varint length, message. The rows' bytes joined are a page."""
    return _framed([messages], len(messages))


def framed_size(message_bytes: int) -> int:
    """How many bytes a message of that size takes with its frame."""
    return len(FRAME_TAG) + len(varint(message_bytes)) + message_bytes


def _framed(pieces: list[Piece], rows: int) -> pa.BinaryArray:
    return join([*varints(byte_lengths(pieces, rows), FRAME_TAG, zero=True), *pieces], rows)


def message_pieces(descriptor: Descriptor, records: pa.RecordBatch | pa.StructArray) -> list[Piece]:
    """The pieces of each row's message, fields in the order of their numbers; nothing for rows that are null."""
    # flatten() puts a struct's nulls into its children and honours its offset; a batch has neither.
    columns = records.columns if isinstance(records, pa.RecordBatch) else records.flatten()
    named = dict(zip((field.name for field in _fields(records)), columns, strict=True))
    return [piece for field in by_number(descriptor) for piece in field_pieces(field, named[field.name])]


def _fields(records: pa.RecordBatch | pa.StructArray) -> list[pa.Field]:
    return list(records.schema if isinstance(records, pa.RecordBatch) else records.type)


def field_pieces(field: FieldDescriptor, column: pa.Array) -> list[Piece]:
    """One field with its tag."""
    if column.null_count == len(column):
        return []
    if field.is_repeated:
        return _repeated(field, column)
    return _single(field, column, Presence.EXPLICIT if field.has_presence else Presence.IMPLICIT)


def _tag(field: FieldDescriptor, wire_type: int) -> bytes:
    return varint(field.number << 3 | wire_type)


def _single(field: FieldDescriptor, column: pa.Array, presence: Presence) -> list[Piece]:
    """One value per row behind the field's tag."""
    if field.type == FieldDescriptor.TYPE_GROUP:
        raise ValueError(f"{field.full_name}: groups (delimited encoding) are not supported")
    wire_type = WIRE_TYPES.get(field.type, VARINT)
    tag = _tag(field, wire_type)
    if field.message_type is not None:
        return _message(field.message_type, tag, column)
    if wire_type == LENGTH_DELIMITED:
        return _text(tag, column.view(pa.binary()), presence)
    if wire_type == VARINT:
        return varints(_numbers(field, column), tag, zero=presence is Presence.EXPLICIT)
    return _fixed(tag, column, wire_type, presence)


def _message(descriptor: Descriptor, tag: bytes, column: pa.StructArray) -> list[Piece]:
    """Its pieces stay apart: a nested message is joined once, with the record that holds it."""
    pieces = message_pieces(descriptor, column)
    lengths = byte_lengths(pieces, len(column))
    if column.null_count:
        lengths = pc.if_else(column.is_valid(), lengths, pa.scalar(None, pa.int32()))
    return [*varints(lengths, tag, zero=True), *pieces]


def _text(tag: bytes, column: pa.BinaryArray, presence: Presence) -> list[Piece]:
    return [*varints(pc.binary_length(column), tag, zero=presence is Presence.EXPLICIT), column]


def _numbers(field: FieldDescriptor, column: pa.Array) -> pa.Array:
    """The integers whose varints the column's values are."""
    if field.type == FieldDescriptor.TYPE_BOOL:
        return column.cast(pa.uint8())
    if field.type not in ZIGZAG:
        return column
    signed = column.cast(pa.int64())
    # All bits are the sign: in two steps, because Arrow returns an int64 unchanged when asked to shift it by 63.
    sign = pc.shift_right(pc.shift_right(signed, SIGN), ONE)
    return pc.bit_wise_xor(pc.shift_left(signed, ONE), sign).view(pa.uint64())


def _fixed(tag: bytes, column: pa.Array, wire_type: int, presence: Presence) -> list[Piece]:
    """Little-endian bytes as they lie in the column's buffer. The default is all bits zero: -0.0 is none."""
    bits_type, bytes_type = FIXED_TYPES[wire_type]
    bits = column.view(bits_type)
    if presence is Presence.IMPLICIT:
        bits = pc.if_else(pc.equal(bits, pa.scalar(0, bits_type)), pa.scalar(None, bits_type), bits)
    content = bits.view(bytes_type).cast(pa.binary())
    if not content.null_count:
        return [tag, content] if tag else [content]
    return [pc.if_else(content.is_valid(), pa.scalar(tag, pa.binary()), pa.scalar(None, pa.binary())), content]


def _repeated(field: FieldDescriptor, column: pa.ListArray) -> list[Piece]:
    """Elements are encoded flat, and the bytes of a row's elements are a range of the flat bytes."""
    counts = pc.list_value_length(column).fill_null(0)
    # flatten() leaves out what lies under null lists and honours the offset, unlike `values`.
    elements = column.flatten()
    if elements.null_count:
        raise ValueError(f"{field.full_name}: a repeated field holds a null")
    if not len(elements):
        return []
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return [regroup(_entries(field, field.message_type, elements, counts), counts)]
    if not field.is_packed:
        return [regroup(join(_single(field, elements, Presence.EXPLICIT), len(elements)), counts)]
    packed = regroup(_packed(field, elements), counts)
    return _text(_tag(field, LENGTH_DELIMITED), packed, Presence.IMPLICIT)


def _packed(field: FieldDescriptor, elements: pa.Array) -> pa.BinaryArray:
    wire_type = WIRE_TYPES.get(field.type, VARINT)
    if wire_type == VARINT:
        pieces = varints(_numbers(field, elements), NO_TAG, zero=True)
    else:
        pieces = _fixed(NO_TAG, elements, wire_type, Presence.EXPLICIT)
    return join(pieces, len(elements))


def _entries(
    field: FieldDescriptor, entry: Descriptor, entries: pa.StructArray, counts: pa.Int32Array
) -> pa.BinaryArray:
    """Entries sorted by key within their map, as deterministic serialisation has them; key and value always written."""
    keys, values = entries.flatten()
    if keys.null_count or values.null_count:
        raise ValueError(f"{field.full_name}: a map holds a null")
    order = _key_order(keys, counts)
    if order is not None:
        keys, values = keys.take(order), values.take(order)
    pieces = [
        *_single(entry.fields_by_name["key"], keys, Presence.EXPLICIT),
        *_single(entry.fields_by_name["value"], values, Presence.EXPLICIT),
    ]
    lengths = byte_lengths(pieces, len(entries))
    return join([*varints(lengths, _tag(field, LENGTH_DELIMITED), zero=True), *pieces], len(entries))


def _key_order(keys: pa.Array, counts: pa.Int32Array) -> pa.UInt64Array | None:
    """The permutation that sorts each map by key; None where all are sorted, which is cheap to see."""
    keys = _sortable(keys)
    parents = pa.ListArray.from_arrays(offsets_of(counts), keys).value_parent_indices()
    rising = pc.less(keys[:-1], keys[1:])
    new_map = pc.not_equal(parents[:-1], parents[1:])
    if pc.all(pc.or_(rising, new_map)).as_py() is not False:
        return None
    table = pa.table({"parent": parents, "key": keys})
    return pc.sort_indices(table, sort_keys=[("parent", "ascending"), ("key", "ascending")])


def _sortable(keys: pa.Array) -> pa.Array:
    """Values that rise in upb's order of map keys, which is not the natural one: it sorts, and then writes backwards.

    Numbers come in falling order of their unsigned bits, true before false; strings in order of their bytes, but a
    string after those that it is a prefix of: as if it ended in 0xFF, which UTF-8 never holds. Found by the property
    test; source: upb/message/map_sorter.c, _upb_mapsorter_cmp*.
    """
    if pa.types.is_string(keys.type):
        return pc.binary_join_element_wise(keys.view(pa.binary()), b"\xff", EMPTY)
    if pa.types.is_boolean(keys.type):
        return pc.invert(keys).cast(pa.uint8())
    return pc.bit_wise_not(keys.view(pa.uint32() if keys.type.bit_width == 32 else pa.uint64()))
