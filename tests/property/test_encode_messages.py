"""The columnar encoder against protobuf's own serialiser, for every field type, label and nesting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.type import date_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.arrow_schema import record_schema
from ingest_service.encode.message import encode_framed, encode_messages, frame

F = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    name.removeprefix("TYPE_").lower(): value
    for name, value in F.Type.items()
    if value not in (F.TYPE_MESSAGE, F.TYPE_GROUP, F.TYPE_ENUM)
}
KIND_NAMES: dict[int, str] = {**{int(value): name for name, value in SCALARS.items()}, int(F.TYPE_ENUM): "enum"}
UNPACKABLE = {"string", "bytes"}
KEY_TYPES = sorted(set(SCALARS) - {"float", "double", "bytes"})
LIBRARY = [timestamp_pb2, duration_pb2, wrappers_pb2, date_pb2]
WRAPPERS = sorted(wrappers_pb2.DESCRIPTOR.message_types_by_name)
NUMBERS = (1, 15, 16, 2047, 2048, 262144, 536870911)


def integers(low: int, high: int) -> st.SearchStrategy[int]:
    """Dense near zero and around every varint boundary, not only at the ends of the range."""
    edges = {sign * (1 << bits) + step for bits in range(0, 65, 7) for sign in (1, -1) for step in (-1, 0, 1)}
    edges |= {low, high, 0, (1 << 49) - 1, 1 << 49, 1 << 53, (1 << 53) + 1, (1 << 56) - 1, (1 << 63) - 1}
    near = st.sampled_from(sorted(edge for edge in edges if low <= edge <= high))
    return st.one_of(near, st.integers(low, high), st.integers(max(low, -300), 300))


LONG = st.sampled_from([0, 1, 126, 127, 128, 129, 16383, 16384])
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8), LONG.map(lambda size: "é"[:size] * size)
)
SIGNED32, UNSIGNED32 = integers(-(1 << 31), (1 << 31) - 1), integers(0, (1 << 32) - 1)
SIGNED64, UNSIGNED64 = integers(-(1 << 63), (1 << 63) - 1), integers(0, (1 << 64) - 1)
FLOATS = {32: st.floats(width=32), 64: st.floats()}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "string": TEXTS,
    "bytes": st.one_of(st.binary(max_size=8), LONG.map(bytes)),
    "float": st.one_of(FLOATS[32], st.sampled_from([0.0, -0.0, math.nan, math.inf])),
    "double": st.one_of(FLOATS[64], st.sampled_from([0.0, -0.0, math.nan, math.inf])),
    "enum": SIGNED32,
    **dict.fromkeys(("int32", "sint32", "sfixed32"), SIGNED32),
    **dict.fromkeys(("int64", "sint64", "sfixed64"), SIGNED64),
    **dict.fromkeys(("uint32", "fixed32"), UNSIGNED32),
    **dict.fromkeys(("uint64", "fixed64"), UNSIGNED64),
}


def new_file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="zoo.proto", package="zoo", syntax="proto3")
    file.dependency.extend(module.DESCRIPTOR.name for module in LIBRARY)
    kind = file.enum_type.add(name="Kind")
    kind.value.add(name="KIND_UNSPECIFIED", number=0)
    kind.value.add(name="KIND_NEGATIVE", number=-5)
    return file


def add_field(message: descriptor_pb2.DescriptorProto, kind: str, label: str, number: int | None = None) -> None:
    """One field; `kind` is a scalar's name, "enum", or the full name of a message with a leading dot."""
    field = message.field.add(name=f"f{len(message.field)}_{label}", label=F.LABEL_OPTIONAL)
    field.number = number or len(message.field)
    if kind.startswith(".") or kind == "enum":
        field.type = F.TYPE_ENUM if kind == "enum" else F.TYPE_MESSAGE
        field.type_name = ".zoo.Kind" if kind == "enum" else kind
    else:
        field.type = F.Type.ValueType(SCALARS[kind])
    if label in ("packed", "unpacked", "repeated"):
        field.label = F.LABEL_REPEATED
    if label in ("packed", "unpacked"):
        field.options.packed = label == "packed"
    if label in ("optional", "oneof"):
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{field.name}")
        field.proto3_optional = label == "optional"


def add_map(message: descriptor_pb2.DescriptorProto, owner: str, key: str, value: str) -> None:
    entry = message.nested_type.add(name=f"F{len(message.field)}MapEntry")
    entry.options.map_entry = True
    for name, kind in (("key", key), ("value", value)):
        add_field(entry, kind, "implicit")
        entry.field[-1].name = name
    add_field(message, f".zoo.{owner}.{entry.name}", "repeated")
    message.field[-1].name = f"f{len(message.field) - 1}_map"


def build(file: descriptor_pb2.FileDescriptorProto, name: str) -> Descriptor:
    pool = descriptor_pool.DescriptorPool()
    for module in LIBRARY:
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindMessageTypeByName(f"zoo.{name}")


def scalar_zoo(kind: str) -> Descriptor:
    """A message with the type under every label; proto3 tables of oneofs come last, as descriptors demand."""
    file = new_file()
    message = file.message_type.add(name="Row")
    for label in ("implicit", "repeated"):
        add_field(message, kind, label)
    if kind not in UNPACKABLE:
        for label in ("packed", "unpacked"):
            add_field(message, kind, label)
    for position, number in enumerate(NUMBERS[1:]):
        add_field(
            message, kind, "implicit" if position % 2 else "packed" if kind not in UNPACKABLE else "repeated", number
        )
    add_map(message, "Row", "int32", kind)
    message.field[-1].number = 100
    for label, number in (("oneof", 200), ("optional", 201), ("optional", 40000), ("optional", 300000)):
        add_field(message, kind, label, number)
    return build(file, "Row")


def nested_zoo() -> Descriptor:
    """Three levels of messages, single, repeated, in maps and in a oneof, with the well-known types."""
    file = new_file()
    deep = file.message_type.add(name="Deep")
    for kind, label in (("int64", "implicit"), ("string", "repeated"), ("sint32", "packed"), ("bool", "optional")):
        add_field(deep, kind, label)
    file.message_type.add(name="Empty")
    middle = file.message_type.add(name="Middle")
    for kind, label in (
        (".zoo.Deep", "implicit"),
        (".zoo.Deep", "repeated"),
        ("double", "implicit"),
        (".zoo.Empty", "implicit"),
    ):
        add_field(middle, kind, label)
    add_map(middle, "Middle", "string", ".zoo.Deep")
    row = file.message_type.add(name="Row")
    for kind in (
        ".zoo.Middle",
        ".zoo.Empty",
        ".google.protobuf.Timestamp",
        ".google.protobuf.Duration",
        ".google.type.Date",
    ):
        add_field(row, kind, "implicit")
        add_field(row, kind, "repeated")
    for wrapper in WRAPPERS:
        add_field(row, f".google.protobuf.{wrapper}", "implicit")
    add_map(row, "Row", "sint64", ".zoo.Middle")
    add_field(row, ".zoo.Deep", "oneof")
    return build(file, "Row")


def map_zoo() -> Descriptor:
    file = new_file()
    row = file.message_type.add(name="Row")
    for key in KEY_TYPES:
        add_map(row, "Row", key, "string")
    return build(file, "Row")


def kind_name(field: FieldDescriptor) -> str:
    return KIND_NAMES[field.type]


def map_parts(field: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor] | None:
    """The fields of a map entry's key and value; None where the field is no map."""
    entry = field.message_type
    if entry is None or not entry.GetOptions().map_entry:
        return None
    return entry.fields_by_name["key"], entry.fields_by_name["value"]


def element(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    return records(field.message_type) if field.message_type else VALUES[kind_name(field)]


def field_value(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if parts := map_parts(field):
        return st.dictionaries(element(parts[0]), element(parts[1]), max_size=4)
    return st.lists(element(field), max_size=4) if field.is_repeated else element(field)


def records(descriptor: Descriptor) -> st.SearchStrategy[dict[str, Any]]:
    """Field values by name; absent fields are left out."""
    return st.fixed_dictionaries({}, optional={field.name: field_value(field) for field in descriptor.fields})


def to_arrow(field: FieldDescriptor, value: Any) -> Any:
    if parts := map_parts(field):
        return [{"key": key, "value": to_arrow_one(parts[1], item)} for key, item in value.items()]
    return [to_arrow_one(field, item) for item in value] if field.is_repeated else to_arrow_one(field, value)


def to_arrow_one(field: FieldDescriptor, value: Any) -> Any:
    return row_to_arrow(field.message_type, value) if field.message_type else value


def row_to_arrow(descriptor: Descriptor, row: dict[str, Any]) -> dict[str, Any]:
    return {field.name: to_arrow(field, row[field.name]) if field.name in row else None for field in descriptor.fields}


def fill(message: Any, row: dict[str, Any]) -> Any:
    """Sets the fields of a protobuf message; a present sub-message stays present when it is empty."""
    for name, value in row.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        target = getattr(message, name)
        if parts := map_parts(field):
            for key, item in value.items():
                if parts[1].message_type:
                    fill(target[key], item)
                else:
                    target[key] = item
        elif field.message_type and field.is_repeated:
            for item in value:
                fill(target.add(), item)
        elif field.message_type:
            target.SetInParent()
            fill(target, value)
        elif field.is_repeated:
            target.extend(value)
        else:
            setattr(message, name, value)
    return message


def expected(descriptor: Descriptor, rows: list[dict[str, Any]]) -> list[bytes]:
    message_class = message_factory.GetMessageClass(descriptor)
    return [fill(message_class(), row).SerializeToString(deterministic=True) for row in rows]


def batch_of(descriptor: Descriptor, rows: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([row_to_arrow(descriptor, row) for row in rows], record_schema(descriptor))


def check(descriptor: Descriptor, rows: list[dict[str, Any]], start: int, stop: int) -> None:
    """All rows, and a slice of them whose arrays begin at an offset."""
    batch, wanted = batch_of(descriptor, rows), expected(descriptor, rows)
    for found, wire in (
        (encode_messages(descriptor, batch), wanted),
        (encode_messages(descriptor, batch.slice(start, stop - start)), wanted[start:stop]),
        (encode_messages(descriptor, batch.to_struct_array().slice(start, stop - start)), wanted[start:stop]),
    ):
        found.validate(full=True)
        assert found.null_count == 0
        assert found.to_pylist() == wire


ZOOS: dict[str, Callable[[], Descriptor]] = {
    **{kind: (lambda kind=kind: scalar_zoo(kind)) for kind in (*SCALARS, "enum")},  # type: ignore[misc]
    "nested": nested_zoo,
    "map": map_zoo,
}


@pytest.fixture(scope="module", params=sorted(ZOOS))
def zoo(request: pytest.FixtureRequest) -> Descriptor:
    return ZOOS[request.param]()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_encoded_columns_equal_deterministic_serialisation(zoo: Descriptor, data: st.DataObject) -> None:
    rows = data.draw(st.lists(records(zoo), max_size=6))
    start = data.draw(st.integers(0, len(rows)))
    check(zoo, rows, start, data.draw(st.integers(start, len(rows))))


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(LONG, max_size=5))
def test_framed_rows_joined_are_a_response_with_the_records_in_field_one(sizes: list[int]) -> None:
    descriptor = scalar_zoo("string")
    file = new_file()
    file.message_type.add(name="Row").CopyFrom(_proto_of(descriptor))
    response = file.message_type.add(name="Response")
    add_field(response, ".zoo.Row", "repeated")
    page_class: Any = message_factory.GetMessageClass(build(file, "Response"))
    batch = batch_of(descriptor, [{"f0_implicit": "x" * size} for size in sizes])
    framed = encode_framed(descriptor, batch)
    assert framed.equals(frame(encode_messages(descriptor, batch)))
    page = page_class.FromString(b"".join(framed.to_pylist()))
    assert [row.f0_implicit for row in page.f0_repeated] == ["x" * size for size in sizes]


def _proto_of(descriptor: Descriptor) -> descriptor_pb2.DescriptorProto:
    proto = descriptor_pb2.DescriptorProto()
    descriptor.CopyToProto(proto)
    return proto
