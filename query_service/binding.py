"""Services of a ContractSet -> gRPC handlers whose responses are bytes: rows go out as they are stored.

The response serialiser stays identity, so that no message object is ever built from a row.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc
from google.protobuf import message_factory
from protovalidate import Validator

from query_service.batch import BatchGetHandler
from query_service.cached import CachedHandler, Caching
from query_service.count import CountHandler
from query_service.database import Database
from query_service.endpoint import Endpoint
from query_service.pages import GetHandler, ListHandler
from query_service.plan import Planner
from query_service.search import Searches
from query_service.stream import StreamHandler
from query_service.watch import WatchHandler
from shared.contract.model import ContractSet, MethodKind, Service

Handler: TypeAlias = GetHandler | BatchGetHandler | ListHandler | StreamHandler | CountHandler | WatchHandler

# What is answered with one message that follows from the dataset's version and the request.
CACHED = frozenset({MethodKind.GET, MethodKind.BATCH_GET, MethodKind.LIST, MethodKind.COUNT})


def bind_services(
    contracts: ContractSet, database: Database, caching: Caching | None = None
) -> list[grpc.GenericRpcHandler[Any, Any]]:
    """One generic handler for each service of the contracts."""
    validator = Validator()
    planners = {name: Planner(dataset) for name, dataset in contracts.datasets.items()}
    return [
        _bind_service(service, planners[service.dataset.name], database, validator, caching)
        for service in contracts.services
    ]


def _bind_service(
    service: Service, planner: Planner, database: Database, validator: Validator, caching: Caching | None
) -> grpc.GenericRpcHandler[Any, Any]:
    handlers, searches = {}, Searches(planner)
    for method in service.methods:
        endpoint = Endpoint(
            service=service.full_name,
            dataset=service.dataset,
            method=method,
            output_class=message_factory.GetMessageClass(method.output),
            planner=planner,
            searches=searches,
            database=database,
            validator=validator,
        )
        handlers[method.name] = _method_handler(endpoint, caching)
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _method_handler(endpoint: Endpoint, caching: Caching | None) -> grpc.RpcMethodHandler[Any, Any]:
    parse = endpoint.method.input_class.FromString
    handle: Any = _handler(endpoint).handle
    if caching is not None and endpoint.method.kind in CACHED:
        return grpc.unary_unary_rpc_method_handler(CachedHandler(endpoint, handle, caching).handle)
    if endpoint.method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(handle, parse)
    return grpc.unary_unary_rpc_method_handler(handle, parse)


def _handler(endpoint: Endpoint) -> Handler:
    match endpoint.method.kind:
        case MethodKind.GET:
            return GetHandler(endpoint)
        case MethodKind.BATCH_GET:
            return BatchGetHandler(endpoint)
        case MethodKind.LIST:
            return ListHandler(endpoint)
        case MethodKind.STREAM:
            return StreamHandler(endpoint)
        case MethodKind.COUNT:
            return CountHandler(endpoint)
        case MethodKind.WATCH:
            return WatchHandler(endpoint)
