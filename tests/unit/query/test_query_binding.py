"""Handlers follow from the contract: their names, their kind, and bytes on the way out."""

from __future__ import annotations

from typing import Any, cast

import grpc
import pytest

from query_service.binding import bind_services
from query_service.database import Database
from query_service.settings import read_settings
from shared.contract.model import ContractSet
from shared.errors import ConfigError


class Details:
    """The call details that gRPC asks a generic handler with."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


def handler(contracts: ContractSet, method: str) -> Any:
    for generic in bind_services(contracts, cast("Database", None)):
        found = generic.service(cast("grpc.HandlerCallDetails", Details(method)))
        if found is not None:
            return found
    return None


@pytest.mark.parametrize(
    ("method", "streams"),
    [
        ("/aviation.v1.AirportService/GetAirport", False),
        ("/aviation.v1.AirportService/ListAirports", False),
        ("/aviation.v1.AirportService/StreamAirports", True),
        ("/aviation.v1.AirportService/BatchGetAirports", False),
        ("/aviation.v1.AirportService/WatchAirports", True),
        ("/aviation.v1.AirportService/CountAirports", False),
        ("/samples.v1.ShipmentService/StreamShipments", True),
    ],
)
def test_every_method_of_every_service_is_bound(contracts: ContractSet, method: str, streams: bool) -> None:
    found = handler(contracts, method)
    assert (found.request_streaming, found.response_streaming) == (False, streams)
    assert found.response_serializer is None


def test_nothing_else_is_bound(contracts: ContractSet) -> None:
    assert handler(contracts, "/aviation.v1.AirportService/DeleteAirport") is None
    assert handler(contracts, "/penstock.ingest.v1.IngestService/Populate") is None


def test_settings_name_every_problem() -> None:
    environ = {"PENSTOCK_TLS": "off", "PENSTOCK_POOL_SIZE": "1", "PENSTOCK_STREAM_MAX_AGE_S": "soon"}
    with pytest.raises(ConfigError) as caught:
        read_settings(environ)
    for name in ("PENSTOCK_DATABASE_URL", "PENSTOCK_POOL_SIZE", "PENSTOCK_STREAM_MAX_AGE_S"):
        assert name in caught.value.message
