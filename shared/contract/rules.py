"""Whether buf.validate rules can be evaluated at all. Pure; finds a rule that fits no value before any data comes."""

from __future__ import annotations

from collections.abc import Iterator

import protovalidate
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

# What cel-rust says of an expression that cannot be right for any message. Other failures depend on the message.
BROKEN_RULE_SIGNS = (
    "no_such_field",
    "No matching overloads",
    "No value with name",
    "unexpected type",
    "to non-message type",
)


_FIXED64, _LENGTH, _FIXED32 = 1, 2, 5
# Of https://protobuf.dev/programming-guides/encoding/; every other type is a varint.
_WIRE_TYPES = {
    FieldDescriptor.TYPE_DOUBLE: _FIXED64,
    FieldDescriptor.TYPE_FIXED64: _FIXED64,
    FieldDescriptor.TYPE_SFIXED64: _FIXED64,
    FieldDescriptor.TYPE_FLOAT: _FIXED32,
    FieldDescriptor.TYPE_FIXED32: _FIXED32,
    FieldDescriptor.TYPE_SFIXED32: _FIXED32,
    FieldDescriptor.TYPE_STRING: _LENGTH,
    FieldDescriptor.TYPE_BYTES: _LENGTH,
    FieldDescriptor.TYPE_MESSAGE: _LENGTH,
}
_ZERO_BYTES = {_FIXED64: 8, _FIXED32: 4}


def rule_problems(message: Descriptor) -> list[str]:
    """What is wrong with the rules of the message and of all messages it can hold, as `full.Name: reason`."""
    # A validator caches by message name, so two contract sets must never share one.
    validator = protovalidate.Validator()
    return [problem for reachable in _messages(message, set()) for problem in _problems(validator, reachable)]


def _messages(message: Descriptor, seen: set[str]) -> Iterator[Descriptor]:
    if message.full_name in seen:
        return
    seen.add(message.full_name)
    yield message
    for field in message.fields:
        if field.message_type is not None:
            yield from _messages(field.message_type, seen)


def _problems(validator: protovalidate.Validator, message: Descriptor) -> Iterator[str]:
    """Compiles the rules and tries them on an empty message, and on one where no field is absent."""
    if message.GetOptions().map_entry:
        return
    message_class = message_factory.GetMessageClass(message)
    for encoded in (b"", b"".join(_default(field) for field in message.fields)):
        try:
            validator.collect_violations(message_class.FromString(encoded))
        except (protovalidate.CompilationError, protovalidate.EvaluationError) as exc:
            if isinstance(exc, protovalidate.CompilationError) or any(sign in str(exc) for sign in BROKEN_RULE_SIGNS):
                yield f"{message.full_name}: {_one_line(exc)}"
                return


def _default(field: FieldDescriptor) -> bytes:
    """The field on the wire with its zero value, once; nothing for messages with rules of their own to be tried."""
    if not _is_plain(field):
        return b""
    wire_type = _WIRE_TYPES.get(field.type, 0)
    return _varint(field.number << 3 | wire_type) + bytes(_ZERO_BYTES.get(wire_type, 1))


def _is_plain(field: FieldDescriptor) -> bool:
    if field.message_type is None:
        return True
    if field.message_type.GetOptions().map_entry:
        return _is_plain(field.message_type.fields_by_name["value"])
    return field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type.file.package == "google.protobuf"


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _one_line(exc: Exception) -> str:
    return str(exc).partition("\n")[0]
