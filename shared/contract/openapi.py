"""Contracts and their comments -> OpenAPI 3.1, for callers that reach the API through a transcoder. Pure.

Paths are what Envoy's gRPC-JSON transcoder makes of methods without HTTP annotations (`auto_mapping`): POST
/package.Service/Method with the request as the body. Schemas follow ProtoJSON; a stream is an array of its messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

from shared.contract.comments import Comment, comments
from shared.contract.fields import SCALAR_KINDS, WRAPPER_KINDS, map_entry
from shared.contract.model import ContractSet, Kind
from shared.contract.reference import documented_services, reached_messages

Schema = dict[str, Any]

# ProtoJSON: 64-bit integers are strings, bytes are base64; NaN and the infinities are strings too.
_SCALARS: Mapping[Kind, Schema] = {
    Kind.BOOL: {"type": "boolean"},
    Kind.INT32: {"type": "integer", "format": "int32"},
    Kind.UINT32: {"type": "integer", "format": "int64", "minimum": 0},
    Kind.INT64: {"type": "string", "format": "int64"},
    Kind.UINT64: {"type": "string", "format": "uint64"},
    Kind.FLOAT: {"type": ["number", "string"], "format": "float"},
    Kind.DOUBLE: {"type": ["number", "string"], "format": "double"},
    Kind.STRING: {"type": "string"},
    Kind.BYTES: {"type": "string", "contentEncoding": "base64"},
}
_WELL_KNOWN: Mapping[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "examples": ["1.5s"]},
    "google.protobuf.FieldMask": {"type": "string", "examples": ["name,country"]},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Empty": {"type": "object"},
    "google.type.Date": {
        "type": "object",
        "properties": {part: {"type": "integer", "format": "int32"} for part in ("year", "month", "day")},
    },
}
_ERROR: Schema = {
    "description": "google.rpc.Status: the gRPC status code, its text, and details with ErrorInfo",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "code": {"type": "integer"},
                    "message": {"type": "string"},
                    "details": {"type": "array", "items": {"type": "object"}},
                },
            }
        }
    },
}


def openapi(contracts: ContractSet, version: str) -> Schema:
    """The document as JSON values; `version` is the release that serves it."""
    said = comments(contracts.descriptors)
    services = documented_services(contracts)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Penstock", "version": version, "description": "See API.md for errors, limits and examples."},
        "paths": {path: operation for service in services for path, operation in _paths(service, said)},
        "components": {
            "schemas": {message.full_name: _message(message, said) for message in reached_messages(services)},
            "responses": {"Error": _ERROR},
        },
    }


def _paths(service: ServiceDescriptor, said: Mapping[str, Comment]) -> Iterator[tuple[str, Schema]]:
    for method in service.methods:
        yield f"/{service.full_name}/{method.name}", {"post": _operation(service, method, said)}


def _operation(service: ServiceDescriptor, method: MethodDescriptor, said: Mapping[str, Comment]) -> Schema:
    answer = _reference(method.output_type)
    schema = {"type": "array", "items": answer} if method.server_streaming else answer
    return {
        "operationId": f"{service.full_name}.{method.name}",
        "tags": [service.full_name],
        **_described(method.full_name, said),
        "requestBody": {"content": {"application/json": {"schema": _reference(method.input_type)}}},
        "responses": {
            "200": {"description": "OK", "content": {"application/json": {"schema": schema}}},
            "default": {"$ref": "#/components/responses/Error"},
        },
    }


def _message(message: Descriptor, said: Mapping[str, Comment]) -> Schema:
    properties = {field.json_name: _field(field, said) for field in message.fields}
    return {"type": "object", **_described(message.full_name, said), "properties": properties}


def _field(field: FieldDescriptor, said: Mapping[str, Comment]) -> Schema:
    assert field.containing_type is not None
    described = _described(f"{field.containing_type.full_name}.{field.name}", said)
    if entry := map_entry(field):
        return {"type": "object", "additionalProperties": _value(entry.fields_by_name["value"]), **described}
    if field.is_repeated:
        return {"type": "array", "items": _value(field), **described}
    return {**_value(field), **described}


def _value(field: FieldDescriptor) -> Schema:
    if field.enum_type is not None:
        # Enums are open: a value that this release has no name for is a number.
        return {
            "anyOf": [{"type": "string", "enum": [one.name for one in field.enum_type.values]}, {"type": "integer"}]
        }
    if field.message_type is None:
        return dict(_SCALARS[SCALAR_KINDS[field.type]])
    name = field.message_type.full_name
    if name in WRAPPER_KINDS:
        return {"anyOf": [_SCALARS[WRAPPER_KINDS[name]], {"type": "null"}]}
    return dict(_WELL_KNOWN[name]) if name in _WELL_KNOWN else _reference(field.message_type)


def _reference(message: Descriptor) -> Schema:
    known = _WELL_KNOWN.get(message.full_name)
    return dict(known) if known is not None else {"$ref": f"#/components/schemas/{message.full_name}"}


def _described(name: str, said: Mapping[str, Comment]) -> Schema:
    text = said.get(name, Comment()).text
    return {"description": text} if text else {}
