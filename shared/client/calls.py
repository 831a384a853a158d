"""Calls of a service that has no generated stubs: bound at run time from its contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from shared.contract.model import Method, MethodKind, Service

Call = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundMethod:
    """A method, its request class, and the callable that performs it on one channel."""

    method: Method
    call: Call

    def request(self, **fields: Any) -> Message:
        """A new request message."""
        message: Message = self.method.input_class(**fields)
        return message


def bind(channel: grpc.Channel | grpc.aio.Channel, service: Service) -> Mapping[MethodKind, BoundMethod]:
    """The service's methods by kind; where a kind occurs twice, the first."""
    bound: dict[MethodKind, BoundMethod] = {}
    for method in service.methods:
        bound.setdefault(method.kind, BoundMethod(method=method, call=_callable(channel, service, method)))
    return bound


def records(response: Message) -> Any:
    """The records of a page or stream message: always field 1."""
    return getattr(response, response.DESCRIPTOR.fields_by_number[1].name)


def _callable(channel: grpc.Channel | grpc.aio.Channel, service: Service, method: Method) -> Call:
    make: Callable[..., Call] = channel.unary_stream if method.server_streaming else channel.unary_unary
    return make(
        f"/{service.full_name}/{method.name}",
        request_serializer=method.input_class.SerializeToString,
        response_deserializer=GetMessageClass(method.output).FromString,
    )
