"""Parsed JSON values to the Python form of canonical Arrow values, by the rules of ProtoJSON. Raises BadValue.

More lenient than ProtoJSON in what `scalars` accepts as text, and in google.type.Date as "YYYY-MM-DD"; a name that
stands twice in one object means its last value, as in most JSON readers. Unknown names are left to `unknown_keys`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor

from ingest_service.arrow_schema import by_number
from ingest_service.decode import scalars
from ingest_service.decode.model import BadValue
from ingest_service.rejects import subscript
from shared.contract.fields import MESSAGE_KINDS, SCALAR_KINDS, WRAPPER_KINDS, is_map
from shared.contract.model import Kind

Converter = Callable[[Any], Any]
FIELD_MASK = "google.protobuf.FieldMask"
# A JSON number with a fraction or an exponent is read as a double, which is exact for integers up to here.
EXACT_DOUBLE = 2**53
_WORDS = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array", dict: "an object"}


def field_converter(field: FieldDescriptor, *, top_level: bool = False) -> Converter:
    """The function from a field's JSON value (never null) to its Arrow value. A google.type.Date with `top_level` fills
    a date column and must be a real day; inside other messages it may be partial."""
    if is_map(field):
        return _map_converter(field)
    if field.is_repeated:
        return _list_converter(_element_converter(field, top_level=False))
    return _element_converter(field, top_level=top_level)


def _element_converter(field: FieldDescriptor, *, top_level: bool) -> Converter:
    if field.message_type is None:
        return scalar_converter(SCALAR_KINDS[field.type], field)
    name = field.message_type.full_name
    if name in WRAPPER_KINDS:
        inner = scalar_converter(WRAPPER_KINDS[name], field)
        return lambda value: {"value": inner(value)}
    kind = MESSAGE_KINDS.get(name)
    if kind is Kind.DATE:
        return _date_converter(field.message_type, complete=top_level)
    if kind is not None:
        return scalar_converter(kind, field)
    if name == FIELD_MASK:
        return _field_mask
    return message_converter(field.message_type)


def scalar_converter(kind: Kind, field: FieldDescriptor) -> Converter:
    """The converter of one value that JSON writes as a string, a number or a boolean."""
    parse = scalars.text_parser(kind, field.enum_type)
    if kind is Kind.BOOL:
        return _bool
    if kind in scalars.INT_RANGES:
        return lambda value: parse(value) if isinstance(value, str) else _integer(value, kind)
    if kind in (Kind.FLOAT, Kind.DOUBLE):
        return lambda value: parse(value) if isinstance(value, str) else _number(value, kind)
    return lambda value: parse(_text(value, kind))


def _bool(value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    raise wrong_type(value, "bool")


def _integer(value: Any, kind: Kind) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong_type(value, kind.value)
    if isinstance(value, int):
        return scalars.check_int(value, kind)
    if not value.is_integer():
        raise BadValue(f"type.{kind.value}", f"{value!r} is no integer")
    if abs(value) > EXACT_DOUBLE:
        raise scalars.out_of_range(repr(value), kind)
    return scalars.check_int(int(value), kind)


def _number(value: Any, kind: Kind) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong_type(value, kind.value)
    return scalars.check_float(float(value), kind)


def _text(value: Any, kind: Kind) -> str:
    if not isinstance(value, str):
        raise wrong_type(value, kind.value)
    return value


def wrong_type(value: Any, kind: str) -> BadValue:
    """The reject of a JSON value of another type."""
    return BadValue(f"type.{kind}", f"{_WORDS.get(type(value), 'null')} where {kind} is expected")


def _date_converter(message: Descriptor, *, complete: bool) -> Converter:
    parts = message_converter(message)

    def convert(value: Any) -> dict[str, int]:
        if isinstance(value, str):
            return scalars.parse_date(value)
        if not isinstance(value, dict):
            raise wrong_type(value, "date")
        date: dict[str, int] = parts(value)
        if not complete:
            return date
        return scalars.check_date(date.get("year", 0), date.get("month", 0), date.get("day", 0))

    return convert


def _field_mask(value: Any) -> dict[str, list[str]]:
    """ProtoJSON writes a FieldMask as one string of lowerCamelCase paths."""
    if not isinstance(value, str):
        raise wrong_type(value, "field_mask")
    return {"paths": [re.sub("[A-Z]", lambda m: f"_{m.group().lower()}", path) for path in value.split(",") if path]}


def _list_converter(convert: Converter) -> Converter:
    def convert_list(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise wrong_type(value, "repeated")
        done: list[Any] = []
        try:
            for element in value:
                done.append(convert(_present(element, "repeated")))  # noqa: PERF401  the length tells which one failed
        except BadValue as bad:
            raise bad.inside(subscript(len(done))) from None
        return done

    return convert_list


def _present(value: Any, kind: str) -> Any:
    if value is None:
        raise BadValue(f"type.{kind}", "null cannot be an element")
    return value


def _map_converter(field: FieldDescriptor) -> Converter:
    assert field.message_type is not None
    key, item = by_number(field.message_type)
    convert_key = _key_converter(SCALAR_KINDS[key.type])
    convert_item = _element_converter(item, top_level=False)

    def convert_map(value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, dict):
            raise wrong_type(value, "map")
        entries: dict[Any, Any] = {}
        for name, element in value.items():
            key = name
            try:
                key = convert_key(name)
                entries[key] = convert_item(_present(element, "map"))
            except BadValue as bad:
                raise bad.inside(subscript(key)) from None
        return [{"key": name, "value": element} for name, element in entries.items()]

    return convert_map


def _key_converter(kind: Kind) -> Callable[[str], Any]:
    if kind is not Kind.BOOL:
        return scalars.text_parser(kind, None)
    words = {"true": True, "false": False}

    def convert(name: str) -> bool:
        if name not in words:
            raise BadValue("type.bool", f"{scalars.shown(name)} is neither true nor false")
        return words[name]

    return convert


def message_converter(message: Descriptor) -> Converter:
    """The function from a JSON object to the dict of the fields that are set, by proto name."""
    fields = [(field.name, json_names(field), field_converter(field)) for field in by_number(message)]
    oneofs = real_oneofs(message)

    def convert(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong_type(value, "message")
        done: dict[str, Any] = {}
        for name, keys, convert_field in fields:
            element = first_present(value, keys)
            if element is None:
                continue
            try:
                done[name] = convert_field(element)
            except BadValue as bad:
                raise bad.inside(name) from None
        for oneof in oneofs:
            _require_one(oneof, done)
        return done

    return convert


def _require_one(oneof: Sequence[str], done: Mapping[str, Any]) -> None:
    members = [name for name in oneof if name in done]
    if len(members) > 1:
        raise two_members(members)


def two_members(members: Sequence[str]) -> BadValue:
    """The reject of a record that sets more than one member of a oneof."""
    return BadValue("type.oneof", f"more than one member of a oneof is set: {', '.join(members)}", members[-1])


def real_oneofs(message: Descriptor) -> list[tuple[str, ...]]:
    """The member names of each oneof that was written as one; `optional` fields are oneofs of one member."""
    oneofs: list[OneofDescriptor] = list(message.oneofs)
    return [tuple(field.name for field in oneof.fields) for oneof in oneofs if len(oneof.fields) > 1]


def json_names(field: FieldDescriptor) -> tuple[str, ...]:
    """The names that a nested field goes by, in order of preference."""
    return tuple(dict.fromkeys((field.name, field.json_name)))


def first_present(value: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """The first value under one of the keys that is not null."""
    for key in keys:
        element = value.get(key)
        if element is not None:
            return element
    return None


def unknown_keys(
    objects: Sequence[Mapping[str, Any]], fields: Mapping[str, FieldDescriptor], prefix: str = ""
) -> set[str]:
    """The names in these JSON objects that no field goes by, dotted for nested ones. One C-level pass a level."""
    names: set[str] = set().union(*objects)
    unknown = {prefix + name for name in names if name not in fields}
    for name in names & fields.keys():
        field = fields[name]
        nested = plain_message(field)
        if nested is None:
            continue
        children = [child for value in objects for child in _objects_in(value.get(name), many=is_map(field))]
        if children:
            unknown |= unknown_keys(children, names_of(nested), f"{prefix}{name}.")
    return unknown


def _objects_in(value: Any, *, many: bool) -> list[Mapping[str, Any]]:
    if isinstance(value, list):
        return [element for element in value if isinstance(element, dict)]
    if not isinstance(value, dict):
        return []
    return [element for element in value.values() if isinstance(element, dict)] if many else [value]


def plain_message(field: FieldDescriptor) -> Descriptor | None:
    """The message that JSON writes as an object of its fields (for a map: its values' one); None for all else."""
    message = field.message_type
    if message is not None and is_map(field):
        message = by_number(message)[1].message_type
    if message is None or message.full_name in WRAPPER_KINDS or message.full_name == FIELD_MASK:
        return None
    return message if MESSAGE_KINDS.get(message.full_name) in (None, Kind.DATE) else None


def names_of(message: Descriptor) -> dict[str, FieldDescriptor]:
    """A nested message's fields by every name they go by."""
    return {name: field for field in message.fields for name in json_names(field)}
