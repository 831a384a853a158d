"""Server reflection, v1 and v1alpha, over a private descriptor pool. Pure but for the servicer that gRPC brings.

The pool holds the contracts and whatever a client may have to resolve besides: health, reflection itself and the error
details, or `buf curl --list-methods` fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio as reflection_aio  # type: ignore[attr-defined]

_ALPHA, _V1 = "grpc.reflection.v1alpha", "grpc.reflection.v1"
SERVICE_NAMES = (f"{_V1}.ServerReflection", f"{_ALPHA}.ServerReflection")


def reflection_pool(descriptors: FileDescriptorSet | None, files: Iterable[FileDescriptor] = ()) -> DescriptorPool:
    """A pool with the contracts' files first, then `files` and the standard ones; the first of a name wins."""
    known: dict[str, FileDescriptorProto] = {}
    for proto in descriptors.file if descriptors else ():
        known.setdefault(proto.name, proto)
    standard = (health_pb2, reflection_pb2, error_details_pb2, status_pb2)
    for file in (*files, *(module.DESCRIPTOR for module in standard)):
        _collect(file, known)
    v1 = _v1_file()
    known.setdefault(v1.name, v1)
    pool = DescriptorPool()
    added: set[str] = set()
    for name in known:
        _add(name, known, pool, added)
    return pool


def _collect(file: FileDescriptor, known: dict[str, FileDescriptorProto]) -> None:
    if file.name in known:
        return
    known[file.name] = FileDescriptorProto.FromString(file.serialized_pb)
    for dependency in file.dependencies:
        _collect(dependency, known)


def _add(name: str, known: dict[str, FileDescriptorProto], pool: DescriptorPool, added: set[str]) -> None:
    """Add a file after its imports: a pool takes them in no other order."""
    if name in added or name not in known:
        return
    added.add(name)
    for dependency in known[name].dependency:
        _add(dependency, known, pool, added)
    pool.AddSerializedFile(known[name].SerializeToString())


def _v1_file() -> FileDescriptorProto:
    """grpcio-reflection has v1alpha only; v1 is the same messages under another package name."""
    text = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    text.name = "grpc/reflection/v1/reflection.proto"
    text.package = _V1
    for message in text.message_type:
        for field in (field for field in message.field if field.type_name):
            field.type_name = field.type_name.replace(f".{_ALPHA}.", f".{_V1}.")
    for method in text.service[0].method:
        method.input_type = method.input_type.replace(f".{_ALPHA}.", f".{_V1}.")
        method.output_type = method.output_type.replace(f".{_ALPHA}.", f".{_V1}.")
    return text


def reflection_handlers(service_names: Sequence[str], pool: DescriptorPool) -> list[grpc.ServiceRpcHandler[Any, Any]]:
    """The same answers under both names; `service_names` is what a listing shows besides."""
    servicer = reflection_aio.ReflectionServicer([*service_names, *SERVICE_NAMES], pool=pool)  # type: ignore[attr-defined]
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return [
        grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method})  # type: ignore[misc]
        for name in SERVICE_NAMES
    ]
