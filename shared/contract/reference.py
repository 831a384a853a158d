"""Contracts and their comments -> the API reference as Markdown. Pure.

Everything but the frame comes from descriptors and comments, so that the text cannot depart from what is served.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

from shared.contract.comments import Comment, comments
from shared.contract.examples import example_request
from shared.contract.fields import SCALAR_KINDS, map_entry
from shared.contract.model import ContractSet, Dataset

REASONS = "penstock.rpc.v1.ErrorReason"
_PREFIX = "ERROR_REASON_"

_FRAME = """\
# API reference

Made by `penstock contract docs` from the .proto files and their comments. The examples are
[grpcurl](https://github.com/fullstorydev/grpcurl) calls that run as they stand beside `penstock up`, after

    source .penstock/env
    TLS="-cacert $PENSTOCK_TLS_CA -cert $PENSTOCK_TLS_CERT -key $PENSTOCK_TLS_KEY"

Every error carries `google.rpc.ErrorInfo` (domain `penstock`, one of the [reasons](#error-reasons) below), `BadRequest`
with the fields where the request is at fault, and `RetryInfo` where waiting helps. A field that the server does not
know is refused, never ignored.
"""
# What is said of a request field of a dataset's method where its contract says nothing.
_RESERVED: Mapping[str, str] = {
    "page_size": "Rows of a page: 0 is 50, at most 1000. A page may hold fewer and still have a next one.",
    "page_token": "next_page_token of the page before; empty for the first page.",
    "filter": "Which rows, by AIP-160.",
    "order_by": "In which order, by AIP-132; a List with a search also by `relevance desc`.",
    "read_mask": "Which fields of the records, by AIP-157; all of them where it is unset.",
    "resume_token": "resume_token of the last message that was received, to go on after it.",
    "max_rows": "End after so many rows; 0 for all.",
    "at_least_version": "Wait until the dataset has reached this version.",
    "require_same_version": "ABORTED where the rows would belong to another version than those before the token.",
    "partition": "Which of how many parts of the rows.",
}


def reference(contracts: ContractSet) -> str:
    """The whole text. `contracts` should be built from a set with source info: elsewhere the comments are missing."""
    page = _Page(contracts)
    text = "\n".join([_FRAME, *page.services(), *page.messages(), *page.reasons()])
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def documented_services(contracts: ContractSet) -> list[ServiceDescriptor]:
    """The services that serve a dataset, then Penstock's own."""
    own = [
        f"{file.package}.{service.name}"
        for file in contracts.descriptors.file
        if file.package.startswith("penstock.")
        for service in file.service
    ]
    names = [*(service.full_name for service in contracts.services), *own]
    return [contracts.pool.FindServiceByName(name) for name in names]


def reached_messages(services: Iterable[ServiceDescriptor]) -> list[Descriptor]:
    """Every message that the services' calls hold, in the order they are met; google.* ones are known elsewhere."""
    found: dict[str, Descriptor] = {}
    waiting = [message for service in services for method in service.methods for message in _both(method)]
    while waiting:
        message = waiting.pop(0)
        if message.full_name in found or message.full_name.startswith("google."):
            continue
        found[message.full_name] = message
        waiting += [field.message_type for field in message.fields if field.message_type is not None]
    return [message for message in found.values() if not message.GetOptions().map_entry]


def _both(method: MethodDescriptor) -> tuple[Descriptor, Descriptor]:
    return method.input_type, method.output_type


class _Page:
    """The parts of the reference of one set of contracts."""

    def __init__(self, contracts: ContractSet) -> None:
        self._said = comments(contracts.descriptors)
        self._services = documented_services(contracts)
        self._datasets = {one.message.full_name: one for one in contracts.datasets.values()}
        self._bound = {
            f"{service.full_name}.{method.name}": method for service in contracts.services for method in service.methods
        }
        self._serves = {service.full_name: service.dataset for service in contracts.services}
        self._pool = contracts.pool

    def services(self) -> Iterator[str]:
        """A section a service, with its calls."""
        for service in self._services:
            yield f"\n## {service.full_name}\n"
            yield self._text(service.full_name)
            if dataset := self._serves.get(service.full_name):
                record = dataset.message.full_name
                yield f"\nServes the dataset `{dataset.name}` of `{record}`, key {_quoted(dataset.key)}."
            for method in service.methods:
                yield from self._method(service, method)

    def _method(self, service: ServiceDescriptor, method: MethodDescriptor) -> Iterator[str]:
        stream = "stream " if method.server_streaming else ""
        yield f"\n### {method.name}\n"
        yield f"`rpc {method.name}({method.input_type.name}) returns ({stream}{method.output_type.name})`\n"
        yield self._text(method.full_name)
        yield f"\n    {self._call(service, method)}\n"
        standard = _RESERVED if service.full_name in self._serves else {}
        yield from self._fields(method.input_type, "request", standard)
        if method.output_type.full_name not in self._datasets:
            yield from self._fields(method.output_type, "response")

    def _call(self, service: ServiceDescriptor, method: MethodDescriptor) -> str:
        address = "QUERY" if service.full_name in self._serves else "INGEST"
        written = self._said.get(method.full_name, Comment()).example
        body = written or json.dumps(example_request(method.input_type, self._bound.get(method.full_name)))
        return f"grpcurl $TLS -d '{body}' $PENSTOCK_{address}_ADDRESS {service.full_name}/{method.name}"

    def messages(self) -> Iterator[str]:
        """Records with what may be asked of their fields, then the other messages and enums that calls hold."""
        calls = {message.full_name for service in self._services for one in service.methods for message in _both(one)}
        yield "\n## Messages"
        reached = reached_messages(self._services)
        for message in reached:
            if message.full_name not in calls or message.full_name in self._datasets:
                yield f"\n### {message.full_name}\n"
                yield self._text(message.full_name)
                yield from self._fields(message, "field")
                if dataset := self._datasets.get(message.full_name):
                    yield from _queries(dataset)
        for enum in _enums(reached):
            yield f"\n### {enum.full_name}\n"
            yield self._text(enum.full_name)
            yield "\n| value | number | |\n|---|---|---|"
            for value in enum.values:
                yield f"| `{value.name}` | {value.number} | {self._cell(f'{enum.full_name}.{value.name}')} |"

    def reasons(self) -> Iterator[str]:
        """The table of error reasons; a set without error_reason.proto has none."""
        yield "\n## Error reasons\n"
        try:
            enum = self._pool.FindEnumTypeByName(REASONS)
        except KeyError:
            return
        yield "| reason | status | meaning |\n|---|---|---|"
        for value in enum.values:
            status, colon, meaning = self._cell(f"{REASONS}.{value.name}").partition(": ")
            if colon:
                yield f"| `{value.name.removeprefix(_PREFIX)}` | {status} | {meaning} |"

    def _fields(self, message: Descriptor, title: str, standard: Mapping[str, str] | None = None) -> Iterator[str]:
        """A row a field; `standard` is what is said of one without a comment."""
        if not message.fields:
            yield f"The {title} has no fields."
            return
        yield f"\n| {title} | type | |\n|---|---|---|"
        for field in message.fields:
            said = self._cell(f"{message.full_name}.{field.name}") or (standard or {}).get(field.name, "")
            yield f"| `{field.name}` | {_type_name(field)} | {said} |"
        yield ""

    def _text(self, name: str) -> str:
        return self._said.get(name, Comment()).text

    def _cell(self, name: str) -> str:
        return self._text(name).replace("|", "\\|")


def _enums(messages: Iterable[Descriptor]) -> list[EnumDescriptor]:
    fields = (field for message in messages for field in message.fields)
    return list({field.enum_type.full_name: field.enum_type for field in fields if field.enum_type}.values())


def _queries(dataset: Dataset) -> Iterator[str]:
    """A line for each use that queries may make of the record's fields."""
    yield f"Key, and order of pages: {_quoted(dataset.key)}."
    for use in ("filterable", "sortable", "searchable"):
        if names := [column.name for column in dataset.columns if getattr(column, use)]:
            yield f"{use.capitalize()}: {_quoted(names)}."


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _type_name(field: FieldDescriptor) -> str:
    if entry := map_entry(field):
        return f"map of {_type_name(entry.fields_by_name['key'])} to {_type_name(entry.fields_by_name['value'])}"
    label = "repeated " if field.is_repeated else "optional " if _is_optional(field) else ""
    return f"{label}{_plain_type(field)}"


def _is_optional(field: FieldDescriptor) -> bool:
    return field.has_presence and field.message_type is None and field.containing_oneof is not None


def _plain_type(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return field.message_type.full_name
    return field.enum_type.full_name if field.enum_type is not None else SCALAR_KINDS[field.type].value
