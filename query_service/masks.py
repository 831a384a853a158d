"""read_mask (AIP-157): rows with some of their fields, cut from stored bytes without an object per row. Pure.

A mask becomes a message type that has the wanted fields only. A page that is parsed as that type has all others among
its unknown fields, which are dropped: three calls into protobuf's C code, whatever the number of rows. Measured on
5,000 orders of 163 bytes, 3 of 10 fields wanted: 2.6 M rows/s, 1.3 ms for a message of 512 KiB, so that no thread is
needed. Parsing the page as records and clearing fields made 0.84 M, row by row 0.52 M, a walk over the tags 0.35 M.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from shared.contract.model import Dataset, Method
from shared.errors import FieldViolation, InvalidRequest

FIELD = "read_mask"
EVERYTHING = "*"
MOST_PATHS = 100
# Callers choose the masks, so the number of types that are kept has to have a limit.
_MOST_MASKS = 500

# The wanted fields of a message by name; None: all that is in the field.
Tree: TypeAlias = "dict[str, Tree | None]"

_Field = descriptor_pb2.FieldDescriptorProto


class Mask:
    """Cuts rows to the fields of a tree."""

    def __init__(self, record: Descriptor, tree: Tree) -> None:
        file = descriptor_pb2.FileDescriptorProto(name="mask", package="mask", syntax="proto2")
        file.message_type.append(_masked(record, tree, "Record", "mask"))
        page = file.message_type.add(name="Page")
        page.field.add(
            name="records",
            number=1,
            label=_Field.LABEL_REPEATED,
            type=_Field.TYPE_MESSAGE,
            type_name=".mask.Record",
        )
        pool = DescriptorPool()
        pool.AddSerializedFile(file.SerializeToString())
        self._record: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("mask.Record"))
        self._page: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("mask.Page"))

    def page(self, data: bytes) -> bytes:
        """Framed rows, joined, as they are stored -> the same rows with the wanted fields only."""
        return _cut(self._page, data)

    def record(self, data: bytes) -> bytes:
        """The same for one record without frame."""
        return _cut(self._record, data)


def read_mask(method: Method, dataset: Dataset, message: Any) -> Mask | None:
    """The mask of a request; None where all fields are wanted. Raises InvalidRequest naming a path that leads nowhere.

    Without paths a mask means all fields, as without a mask (AIP-157).
    """
    if FIELD not in method.request_fields or not message.HasField(FIELD):
        return None
    paths = message.read_mask.paths
    if len(paths) > MOST_PATHS:
        raise _invalid(f"holds {len(paths)} paths; at most {MOST_PATHS} are accepted")
    return _mask(dataset, tuple(sorted(set(paths)))) if paths else None


@lru_cache(maxsize=_MOST_MASKS)
def _mask(dataset: Dataset, paths: tuple[str, ...]) -> Mask | None:
    for path in paths:
        _check(dataset.message, path, path.split("."))
    return None if EVERYTHING in paths else Mask(dataset.message, tree_of(paths))


def tree_of(paths: Iterable[str]) -> Tree:
    """The fields that the paths lead to."""
    tree: Tree = {}
    for path in paths:
        _want(tree, path.split("."))
    return tree


def _want(tree: Tree, steps: Sequence[str]) -> None:
    name, rest = steps[0], steps[1:]
    if not rest or rest == [EVERYTHING]:
        tree[name] = None
        return
    inner = tree.setdefault(name, {})
    if inner is not None:  # else the whole field is wanted already
        _want(inner, rest)


def _check(message: Descriptor, path: str, steps: Sequence[str]) -> None:
    """Raises InvalidRequest for a path that the record does not have."""
    name, rest = steps[0], steps[1:]
    if name == EVERYTHING and not rest:
        return
    field = message.fields_by_name.get(name)
    if field is None:
        names = ", ".join(field.name for field in message.fields)
        raise _invalid(f"{path!r}: {message.full_name} has no field {name!r}; it has {names}")
    if not rest:
        return
    if field.is_repeated or field.message_type is None:
        kind = "repeated" if field.is_repeated else "no message"
        raise _invalid(f"{path!r}: {name!r} is {kind}, so nothing within it can be named; name the field itself")
    _check(field.message_type, path, rest)


def _masked(message: Descriptor, tree: Tree, name: str, scope: str) -> descriptor_pb2.DescriptorProto:
    """A type of that name with the wanted fields, each of a type that keeps its bytes as they are."""
    proto = descriptor_pb2.DescriptorProto(name=name)
    for field in message.fields:
        if field.name not in tree:
            continue
        inner, of = tree[field.name], field.message_type
        added = proto.field.add(name=f"f{field.number}", number=field.number, type=_type(field, inner))
        added.label = _Field.LABEL_REPEATED if field.is_repeated else _Field.LABEL_OPTIONAL
        if field.is_repeated and field.is_packed:
            added.options.packed = True
        if of is not None and added.type != _Field.TYPE_BYTES:
            nested = f"M{field.number}"
            added.type_name = f".{scope}.{name}.{nested}"
            part: Tree = dict.fromkeys(of.fields_by_name) if inner is None else inner
            proto.nested_type.append(_masked(of, part, nested, f"{scope}.{name}"))
    return proto


def _type(field: FieldDescriptor, inner: Tree | None) -> Any:
    """Enums become integers: proto2 would take values that it does not know for unknown fields. Texts and messages that
    are wanted whole become bytes, which are neither checked nor taken apart. Groups have no length to do so."""
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return FieldDescriptor.TYPE_BYTES if inner is None else FieldDescriptor.TYPE_MESSAGE
    if field.type == FieldDescriptor.TYPE_ENUM:
        return FieldDescriptor.TYPE_INT32
    return FieldDescriptor.TYPE_BYTES if field.type == FieldDescriptor.TYPE_STRING else field.type


def _cut(message_class: Any, data: bytes) -> bytes:
    message: Message = message_class.FromString(data)
    message.DiscardUnknownFields()
    encoded: bytes = message.SerializeToString()
    return encoded


def _invalid(description: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field=FIELD, description=description)])
