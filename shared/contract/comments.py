"""The comments of .proto files, by the full name of what they stand before. Pure.

Comments are in a FileDescriptorSet only where it was compiled with source info; without it everything is uncommented.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

# Field numbers in descriptor.proto, which make up the paths of source positions.
_FILE_MESSAGES, _FILE_ENUMS, _FILE_SERVICES = 4, 5, 6
_MESSAGE_FIELDS, _MESSAGE_NESTED, _MESSAGE_ENUMS = 2, 3, 4
_ENUM_VALUES, _SERVICE_METHODS = 2, 2
_EXAMPLE = "Example:"

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comment:
    """What is said of an element, as one line a paragraph; `example` is the JSON after a line's `Example:`."""

    text: str = ""
    example: str = ""


def comments(descriptors: FileDescriptorSet) -> Mapping[str, Comment]:
    """The comment before each message, field, enum, value, service and method that has one."""
    found: dict[str, Comment] = {}
    for file in descriptors.file:
        said = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
        for path, name in _elements(file):
            if text := said.get(path):
                found[name] = _comment(text)
    return found


def _comment(raw: str) -> Comment:
    lines = [line.strip() for line in raw.splitlines()]
    text = " ".join(line for line in lines if not line.startswith(_EXAMPLE))
    examples = [line.removeprefix(_EXAMPLE).strip() for line in lines if line.startswith(_EXAMPLE)]
    return Comment(text=text.strip(), example=examples[0] if examples else "")


def _elements(file: FileDescriptorProto) -> Iterator[tuple[Path, str]]:
    package = f"{file.package}." if file.package else ""
    for number, message in enumerate(file.message_type):
        yield from _message((_FILE_MESSAGES, number), package, message)
    for number, enum in enumerate(file.enum_type):
        yield from _parts((_FILE_ENUMS, number), package, enum, _ENUM_VALUES, enum.value)
    for number, service in enumerate(file.service):
        yield from _parts((_FILE_SERVICES, number), package, service, _SERVICE_METHODS, service.method)


def _message(path: Path, prefix: str, message: Any) -> Iterator[tuple[Path, str]]:
    yield from _parts(path, prefix, message, _MESSAGE_FIELDS, message.field)
    inner = f"{prefix}{message.name}."
    for number, nested in enumerate(message.nested_type):
        yield from _message((*path, _MESSAGE_NESTED, number), inner, nested)
    for number, enum in enumerate(message.enum_type):
        yield from _parts((*path, _MESSAGE_ENUMS, number), inner, enum, _ENUM_VALUES, enum.value)


def _parts(path: Path, prefix: str, whole: Any, number: int, parts: Any) -> Iterator[tuple[Path, str]]:
    yield path, f"{prefix}{whole.name}"
    for index, part in enumerate(parts):
        yield (*path, number, index), f"{prefix}{whole.name}.{part.name}"
