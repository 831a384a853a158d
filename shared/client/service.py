"""A client of one contract service without generated stubs: `connect("aviation.v1.AirportService")`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from shared.client.calls import bind
from shared.client.channel import ClientTls, open_channel
from shared.client.pages import DEFAULT_TIMEOUT_S, pages
from shared.client.streams import stream
from shared.client.watches import watch
from shared.contract.build import load_contracts
from shared.contract.model import ContractSet, MethodKind
from shared.errors import ConfigError

ADDRESS = "PENSTOCK_QUERY_ADDRESS"


class ServiceClient:
    """Get, BatchGet, List, Stream and Watch of one service; requests are keyword arguments by their proto names.

    Answers are the contract's own message classes. A context manager: it owns its channel.
    """

    def __init__(self, channel: grpc.Channel, contracts: ContractSet, service_name: str) -> None:
        found = [service for service in contracts.services if service.full_name == service_name]
        if not found:
            known = ", ".join(service.full_name for service in contracts.services) or "none"
            raise ConfigError(f"the contracts have no service {service_name}; they have {known}", reason="NO_SERVICE")
        self._channel = channel
        self._methods = bind(channel, found[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def get(self, *, timeout_s: float = DEFAULT_TIMEOUT_S, **key: Any) -> Any:
        """One record by its key fields; grpc.RpcError NOT_FOUND where there is none."""
        method = self._methods[MethodKind.GET]
        return method.call(method.request(**key), timeout=timeout_s)

    def batch_get(self, *keys: Mapping[str, Any], timeout_s: float = DEFAULT_TIMEOUT_S, **fields: Any) -> Any:
        """The response of BatchGet for these keys, each as `get` takes it; at most 1000."""
        method = self._methods[MethodKind.BATCH_GET]
        return method.call(method.request(requests=keys, **fields), timeout=timeout_s)

    def pages(self, *, timeout_s: float = DEFAULT_TIMEOUT_S, **fields: Any) -> Iterator[Any]:
        """The responses of List, page by page to the end."""
        method = self._methods[MethodKind.LIST]
        return pages(method.call, method.request(**fields), timeout_s=timeout_s)

    def stream(self, **fields: Any) -> Iterator[Any]:
        """The messages of Stream, resumed where they are cut short, until the server says COMPLETE."""
        method = self._methods[MethodKind.STREAM]
        return stream(method.call, method.request(**fields))

    def watch(self, **fields: Any) -> Iterator[Any]:
        """The messages of Watch, called again wherever it ends; stop by leaving the loop."""
        method = self._methods[MethodKind.WATCH]
        return watch(method.call, method.request(**fields))


def connect(
    service_name: str, *, environ: Mapping[str, str] = os.environ, contracts: ContractSet | None = None
) -> ServiceClient:
    """A client of that service with the settings of `DIR/env` (PENSTOCK_QUERY_ADDRESS, PENSTOCK_TLS_*).

    `contracts` default to those that PENSTOCK_CONTRACTS names, else the repository's own.
    """
    address = environ.get(ADDRESS)
    if not address:
        raise ConfigError(f"{ADDRESS} is not set: `source .penstock/env`", reason="MISSING_SETTING")
    path = environ.get("PENSTOCK_CONTRACTS")
    loaded = contracts or load_contracts(Path(path) if path else None)
    return ServiceClient(open_channel(address, ClientTls.from_environment(environ)), loaded, service_name)
