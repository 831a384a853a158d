"""Handlers from a servicer of protoc's grpc_python output, without a server to add them to. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import grpc

Servicer = TypeVar("Servicer")


class _Registry:
    """Stands in for the server in `add_XServicer_to_server`."""

    def __init__(self) -> None:
        self.handlers: list[grpc.GenericRpcHandler[Any, Any]] = []

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler[Any, Any]]) -> None:
        self.handlers.extend(handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """The same methods again, for a faster look-up that interceptors do not need."""


def generated_handlers(
    register: Callable[[Servicer, Any], None], servicer: Servicer
) -> list[grpc.GenericRpcHandler[Any, Any]]:
    """`generated_handlers(ingest_pb2_grpc.add_IngestServiceServicer_to_server, servicer)`."""
    registry = _Registry()
    register(servicer, registry)
    return registry.handlers
