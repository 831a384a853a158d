"""Which dataset a protobuf service serves, and what each of its methods does. Pure functions of descriptors.

Names give the kind of a method, types decide the rest; what fits neither is a contract error, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from penstock.contract.v1 import contract_pb2
from penstock.query.v1 import query_pb2

from shared.contract import fields, record
from shared.contract.model import Column, Dataset, Kind, Method, MethodKind, Service

_METHOD_NAME = re.compile(r"(BatchGet|Get|List|Stream|Count|Watch)(?=[A-Z])")
_STREAMING = frozenset({MethodKind.STREAM, MethodKind.WATCH})
_INTEGERS = frozenset({Kind.INT32, Kind.INT64, Kind.UINT32, Kind.UINT64})
_LONG = frozenset({Kind.INT64, Kind.UINT64})
_TEXT = frozenset({Kind.STRING})
_TOKEN = frozenset({Kind.STRING, Kind.BYTES})

# Reserved request fields and the kinds they may have; None: a message, checked by its full name.
RESERVED_REQUEST_FIELDS: Mapping[str, frozenset[Kind] | None] = {
    "page_size": _INTEGERS,
    "page_token": _TEXT,
    "filter": _TEXT,
    "order_by": _TEXT,
    "read_mask": None,
    "resume_token": _TOKEN,
    "max_rows": _INTEGERS,
    "at_least_version": _INTEGERS,
    "require_same_version": frozenset({Kind.BOOL}),
    "partition": None,
}
# What a Watch request may hold: it tells every change, so there is nothing to choose but where to begin.
WATCH_REQUEST_FIELDS: Mapping[str, frozenset[Kind] | None] = {
    "resume_token": _TOKEN,
    "read_mask": None,
    "after_version": _INTEGERS,
    "epoch": _TEXT,
}
# Of the messages among them, the ones with a full name to have.
_REQUEST_MESSAGES: Mapping[str, str] = {
    "read_mask": "google.protobuf.FieldMask",
    "partition": "penstock.query.v1.Partition",
}
_STATUS = "penstock.query.v1.StreamStatus"
# Stands for `repeated` of any message that has the key fields: the record itself, or GetXRequest.
_KEYS = "keys"
# What a response may hold beside its records, by the kind of its method; all of it is filled in.
_RESPONSE_FIELDS: Mapping[MethodKind, Mapping[str, frozenset[Kind] | str]] = {
    MethodKind.BATCH_GET: {"missing": _KEYS, "dataset_version": _INTEGERS},
    MethodKind.LIST: {"next_page_token": _TEXT, "dataset_version": _INTEGERS},
    MethodKind.STREAM: {"resume_token": _TOKEN, "status": _STATUS},
    MethodKind.WATCH: {"deleted": _KEYS, "resume_token": _TOKEN, "dataset_version": _INTEGERS},
    MethodKind.COUNT: {"count": _LONG, "estimated": frozenset({Kind.BOOL}), "dataset_version": _INTEGERS},
}
_REQUIRED_REQUEST: Mapping[MethodKind, tuple[str, ...]] = {
    MethodKind.LIST: ("page_size", "page_token"),
    MethodKind.STREAM: ("resume_token",),
    MethodKind.WATCH: ("resume_token",),
}
_REQUIRED_RESPONSE: Mapping[MethodKind, tuple[str, ...]] = {
    MethodKind.LIST: ("next_page_token",),
    MethodKind.STREAM: ("resume_token", "status"),
    MethodKind.WATCH: ("deleted", "resume_token"),
    MethodKind.COUNT: ("count", "estimated"),
}


def served_record(service: ServiceDescriptor) -> str | None:
    """The full name of the record that the service serves; None where it did not opt in."""
    options = record.contract_options(service)
    return options.Extensions[contract_pb2.serves] if options.HasExtension(contract_pb2.serves) else None


def bind(service: ServiceDescriptor, dataset: Dataset) -> tuple[Service, list[str]]:
    """The service's methods over the dataset, and its problems as `.Method: reason` or `.Method.field: reason`."""
    methods: list[Method] = []
    problems: list[str] = []
    for descriptor in service.methods:
        match = _METHOD_NAME.match(descriptor.name)
        if match is None:
            problems.append(f".{descriptor.name}: method names begin with Get, BatchGet, List, Stream, Count or Watch")
            continue
        kind = MethodKind(match.group(1))
        problems += [f".{descriptor.name}{text}" for text in _method_problems(descriptor, kind, dataset)]
        methods.append(_method(descriptor, kind, dataset))
    if not service.methods:
        problems.append("has no methods")
    return Service(full_name=service.full_name, dataset=dataset, methods=tuple(methods)), problems


def _method(descriptor: MethodDescriptor, kind: MethodKind, dataset: Dataset) -> Method:
    request, response = descriptor.input_type, descriptor.output_type
    unfiltered = (MethodKind.GET, MethodKind.BATCH_GET, MethodKind.WATCH)
    filters = {} if kind in unfiltered else _filters(request, dataset)
    return Method(
        name=descriptor.name,
        kind=kind,
        input=request,
        input_class=message_factory.GetMessageClass(request),
        output=response,
        server_streaming=descriptor.server_streaming,
        filters=filters,
        request_fields={field.name: field for field in request.fields},
        response_fields={f.name: f for f in response.fields if f.name in _RESPONSE_FIELDS.get(kind, {})},
        request_has_rules=record.has_rules(request),
    )


def _filters(request: Descriptor, dataset: Dataset) -> dict[str, Column]:
    columns = {column.name: column for column in dataset.columns if _takes_equality(column)}
    names = (field.name for field in request.fields if field.name not in RESERVED_REQUEST_FIELDS)
    return {name: columns[name] for name in names if name in columns}


def _method_problems(method: MethodDescriptor, kind: MethodKind, dataset: Dataset) -> Iterator[str]:
    if method.client_streaming:
        yield ": client streaming is not supported"
    if method.server_streaming != (kind in _STREAMING):
        yield f": a {kind.value} method {'returns a stream' if kind in _STREAMING else 'is unary'}"
    request = method.input_type
    yield from _reserved_problems(
        request, WATCH_REQUEST_FIELDS if kind is MethodKind.WATCH else RESERVED_REQUEST_FIELDS
    )
    if kind is MethodKind.GET:
        if method.output_type.full_name != dataset.message.full_name:
            yield f": a Get method returns {dataset.message.full_name} itself (AIP-131)"
        yield from _get_problems(request, dataset)
        return
    if kind is MethodKind.BATCH_GET:
        yield from _batch_problems(request, dataset)
    elif kind is MethodKind.WATCH:
        yield from _watch_problems(request)
    else:
        yield from _filter_problems(request, dataset)
    yield from _missing(request, _REQUIRED_REQUEST.get(kind, ()))
    yield from _response_problems(method.output_type, kind, dataset)


def _get_problems(request: Descriptor, dataset: Dataset) -> Iterator[str]:
    for name in dataset.key:
        if name in RESERVED_REQUEST_FIELDS:
            yield f".{name}: is reserved in requests, so the key field {name!r} cannot be asked for: rename it"
    yield from _key_problems(request, dataset)
    for field in request.fields:
        if field.name not in dataset.key and field.name not in RESERVED_REQUEST_FIELDS:
            yield f".{field.name}: is neither a key field nor reserved ({', '.join(RESERVED_REQUEST_FIELDS)})"


def _batch_problems(request: Descriptor, dataset: Dataset) -> Iterator[str]:
    field = request.fields_by_name.get("requests")
    if field is None or not field.is_repeated or field.message_type is None:
        yield ": a BatchGet request holds `repeated GetXRequest requests` (AIP-231)"
        return
    yield from (f".requests{text}" for text in _get_problems(field.message_type, dataset))
    for other in request.fields:
        if other.name != "requests" and other.name not in RESERVED_REQUEST_FIELDS:
            yield f".{other.name}: is neither `requests` nor reserved"


def _watch_problems(request: Descriptor) -> Iterator[str]:
    for field in request.fields:
        if field.name not in WATCH_REQUEST_FIELDS:
            names = ", ".join(WATCH_REQUEST_FIELDS)
            yield f".{field.name}: a Watch tells every change of the dataset, so its request may hold {names} only"
        elif field.name == "after_version" and not field.has_presence:
            yield f".{field.name}: must be `optional`: 0 is the beginning, absence means from now on"


def _key_problems(message: Descriptor, dataset: Dataset) -> Iterator[str]:
    for name in dataset.key:
        field = message.fields_by_name.get(name)
        if field is None:
            yield f": {message.full_name} lacks the key field {name!r}"
        elif not _same_type(field, dataset.message.fields_by_name[name]) or field.is_repeated:
            yield f".{name}: must have the type that {dataset.message.full_name}.{name} has"


def _filter_problems(request: Descriptor, dataset: Dataset) -> Iterator[str]:
    allowed = {column.name for column in dataset.columns if _takes_equality(column)}
    for field in request.fields:
        if field.name in RESERVED_REQUEST_FIELDS:
            continue
        if field.name not in allowed:
            names = ", ".join(sorted(allowed)) or "none"
            yield f".{field.name}: is neither reserved nor a filterable field of {dataset.message.full_name} ({names})"
        elif not _same_type(field, dataset.message.fields_by_name[field.name]):
            yield f".{field.name}: must have the type that {dataset.message.full_name}.{field.name} has"
        elif not (field.is_repeated or field.has_presence or field.type == FieldDescriptor.TYPE_STRING):
            yield f".{field.name}: a filter that is not a string must be `optional`, to tell its default from absence"


def _takes_equality(column: Column) -> bool:
    """Whether a request field may be named like the column; none has a name with a dot."""
    return column.filterable and not (column.repeated or column.inner)


def _reserved_problems(request: Descriptor, reserved: Mapping[str, frozenset[Kind] | None]) -> Iterator[str]:
    for field in request.fields:
        if field.name not in reserved:
            continue
        kinds = reserved[field.name]
        if field.is_repeated:
            yield f".{field.name}: a reserved request field must not be repeated"
        elif kinds is None:
            wanted = _REQUEST_MESSAGES[field.name]
            if field.message_type is None or field.message_type.full_name != wanted:
                yield f".{field.name}: is reserved and must be {wanted}"
        elif field.message_type is not None or fields.kind_of(field) not in kinds:
            yield f".{field.name}: is reserved and must be {_names(kinds)}"


def _response_problems(response: Descriptor, kind: MethodKind, dataset: Dataset) -> Iterator[str]:
    if kind is not MethodKind.COUNT:
        yield from _records_problems(response, dataset)
    if kind in _RESPONSE_FIELDS:
        yield from _missing(response, _REQUIRED_RESPONSE.get(kind, ()))
        yield from _response_field_problems(response, kind, dataset)


def _records_problems(response: Descriptor, dataset: Dataset) -> Iterator[str]:
    records = response.fields_by_number.get(1)
    named = records.message_type.full_name if records is not None and records.message_type is not None else None
    if records is None or named != dataset.message.full_name or not records.is_repeated:
        yield f": field 1 of {response.full_name} must be `repeated {dataset.message.name}`"
    elif records.type == FieldDescriptor.TYPE_GROUP:
        yield f".{records.name}: must not be DELIMITED: records are stored with their length before them"


def _response_field_problems(response: Descriptor, kind: MethodKind, dataset: Dataset) -> Iterator[str]:
    allowed = _RESPONSE_FIELDS[kind]
    held = "" if kind is MethodKind.COUNT else "the records and "
    for field in response.fields:
        if field.number == 1 and kind is not MethodKind.COUNT:
            continue
        wanted = allowed.get(field.name)
        if wanted is None:
            yield f".{field.name}: {response.full_name} may hold {held}{', '.join(allowed)} only"
        elif field.is_required or _shares_a_oneof(field):
            yield f".{field.name}: must not be required or a oneof member: a response has what there is to say"
        elif wanted == _KEYS:
            yield from _keys_problems(field, dataset)
        elif isinstance(wanted, str):
            yield from _status_problems(field, wanted)
        elif field.message_type is not None or fields.kind_of(field) not in wanted or field.is_repeated:
            yield f".{field.name}: must be {_names(wanted)}"


def _shares_a_oneof(field: FieldDescriptor) -> bool:
    """Whether another field may push this one out; the oneof that the compiler makes for `optional` has no other."""
    return field.containing_oneof is not None and len(field.containing_oneof.fields) > 1


def _keys_problems(field: FieldDescriptor, dataset: Dataset) -> Iterator[str]:
    if field.message_type is None or not field.is_repeated:
        yield f".{field.name}: must be `repeated` of {dataset.message.name} or of another message with its key fields"
        return
    yield from (f".{field.name}{text}" for text in _key_problems(field.message_type, dataset))


def _status_problems(field: FieldDescriptor, wanted: str) -> Iterator[str]:
    """A vendored query.proto may be newer or older than ours, but must have what a stream says."""
    if field.message_type is None or field.message_type.full_name != wanted or field.is_repeated:
        yield f".{field.name}: must be {wanted}"
        return
    for ours in query_pb2.StreamStatus.DESCRIPTOR.fields:
        theirs = field.message_type.fields_by_number.get(ours.number)
        if theirs is None or (theirs.name, theirs.type) != (ours.name, ours.type):
            yield f".{field.name}: {wanted} is not the one this service was built with: it lacks {ours.name!r}"


def _missing(message: Descriptor, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        if name not in message.fields_by_name:
            yield f": {message.full_name} lacks the field {name!r}"


def _same_type(field: FieldDescriptor, other: FieldDescriptor) -> bool:
    """Whether a request field holds one value of the record's field; wrappers and plain scalars are alike."""
    if field.enum_type is not None and other.enum_type is not None:
        return field.enum_type.full_name == other.enum_type.full_name
    return _value_kind(field) is not None and _value_kind(field) == _value_kind(other)


def _value_kind(field: FieldDescriptor) -> Kind | None:
    if field.message_type is None:
        return fields.SCALAR_KINDS[field.type]
    name = field.message_type.full_name
    return fields.MESSAGE_KINDS.get(name) or fields.WRAPPER_KINDS.get(name)


def _names(kinds: frozenset[Kind]) -> str:
    return " or ".join(sorted(kind.value for kind in kinds))
