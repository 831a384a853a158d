"""The client against a real mTLS server that pages, cuts streams and lies about their end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from penstock.query.v1 import query_pb2

from shared.client.calls import bind, records
from shared.client.channel import ClientTls, open_async_channel, open_channel
from shared.client.pages import async_pages
from shared.client.retry import Backoff, retry_info_s
from shared.client.service import ServiceClient, connect
from shared.client.streams import IncompleteStream, async_stream
from shared.contract.model import ContractSet, MethodKind, Service
from shared.errors import ConfigError
from shared.local.certificates import CertificateAuthority, CertificateFiles, issue_local

SERVICE = "aviation.v1.AirportService"
KEYS = [f"K{number:03d}" for number in range(10)]
ROWS_A_MESSAGE = 2
QUICK = Backoff(first_s=0.001, longest_s=0.01)
Cut = Callable[[grpc.ServicerContext], None]


@dataclass
class Airports:
    """A service over KEYS. `cuts[n]` ends the n-th stream after `rows` rows in its own way."""

    service: Service
    cuts: list[tuple[int, Cut]] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)

    def list(self, request: Any, context: grpc.ServicerContext) -> Any:
        begin = int(request.page_token or 0)
        following = begin + request.page_size
        token = str(following) if following < len(KEYS) else ""
        airports = [{"icao": key} for key in KEYS[begin:following]]
        return self._output(MethodKind.LIST)(airports=airports, next_page_token=token)

    def stream(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self.requests.append(request)
        output = self._output(MethodKind.STREAM)
        rows, cut = self.cuts.pop(0) if self.cuts else (len(KEYS), None)
        begin = int(request.resume_token or 0)
        for at in range(begin, begin + rows, ROWS_A_MESSAGE):
            batch = [{"icao": key} for key in KEYS[at : at + ROWS_A_MESSAGE]]
            yield output(airports=batch, resume_token=str(at + ROWS_A_MESSAGE))
        if cut is not None:
            cut(context)
            return
        yield output(status={"end_reason": query_pb2.END_REASON_COMPLETE, "rows": len(KEYS) - begin})

    def _output(self, kind: MethodKind) -> Any:
        return next(GetMessageClass(method.output) for method in self.service.methods if method.kind is kind)

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        makers: dict[MethodKind, Any] = {
            MethodKind.LIST: (grpc.unary_unary_rpc_method_handler, self.list),
            MethodKind.STREAM: (grpc.unary_stream_rpc_method_handler, self.stream),
        }
        handlers = {}
        for method in self.service.methods:
            if method.kind in makers:
                make, behaviour = makers[method.kind]
                serializer = GetMessageClass(method.output).SerializeToString
                handlers[method.name] = make(behaviour, method.input_class.FromString, serializer)
        return grpc.method_handlers_generic_handler(self.service.full_name, handlers)


def unavailable(context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNAVAILABLE, "draining")


def told_to_retry(context: grpc.ServicerContext) -> None:
    info = any_pb2.Any()
    info.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=1_000_000)))
    context.abort_with_status(
        rpc_status.to_status(status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="later", details=[info]))
    )


def aborted(context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.ABORTED, "another version")


def silent(context: grpc.ServicerContext) -> None:
    """Ends with OK and without a word."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[CertificateFiles, CertificateFiles]:
    return issue_local(CertificateAuthority.create(tmp_path_factory.mktemp("certificates")))


@pytest.fixture
def airports(contracts: ContractSet) -> Airports:
    return Airports(next(service for service in contracts.services if service.full_name == SERVICE))


@pytest.fixture
def environ(airports: Airports, certificates: tuple[CertificateFiles, CertificateFiles]) -> Iterator[dict[str, str]]:
    """The settings of a client of a running server."""
    server_files, client_files = certificates
    with futures.ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[airports.handler()])
        pair = (server_files.key.read_bytes(), server_files.certificate.read_bytes())
        credentials = grpc.ssl_server_credentials([pair], server_files.ca.read_bytes(), require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        yield {"PENSTOCK_QUERY_ADDRESS": f"127.0.0.1:{port}", **client_files.environment()}
        server.stop(None).wait()


@pytest.fixture
def client(environ: dict[str, str], contracts: ContractSet) -> Iterator[ServiceClient]:
    with connect(SERVICE, environ=environ, contracts=contracts) as connected:
        yield connected


def keys(messages: Iterator[Any]) -> list[str]:
    return [row.icao for message in messages for row in records(message)]


def test_pages_go_on_to_the_last(client: ServiceClient) -> None:
    assert keys(client.pages(page_size=3)) == KEYS


@pytest.mark.parametrize("cut", [unavailable, told_to_retry])
def test_cut_stream_goes_on_after_the_last_row_received(client: ServiceClient, airports: Airports, cut: Cut) -> None:
    airports.cuts = [(4, cut), (0, cut), (2, cut)]
    assert keys(client.stream(country=["IS"])) == KEYS
    assert [request.resume_token for request in airports.requests] == ["", "4", "4", "6"]
    assert {tuple(request.country) for request in airports.requests} == {("IS",)}


def test_stream_that_ends_without_saying_so_is_an_error(client: ServiceClient, airports: Airports) -> None:
    airports.cuts = [(4, silent)]
    with pytest.raises(IncompleteStream):
        keys(client.stream())


def test_error_that_no_retry_cures_reaches_the_caller_at_once(client: ServiceClient, airports: Airports) -> None:
    airports.cuts = [(4, aborted)]
    with pytest.raises(grpc.RpcError) as caught:
        keys(client.stream())
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert len(airports.requests) == 1


def test_error_after_the_complete_message_is_no_error(client: ServiceClient, airports: Airports) -> None:
    complete = airports.stream

    def then_fails(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield from complete(request, context)
        unavailable(context)

    airports.stream = then_fails  # type: ignore[method-assign]
    assert keys(client.stream()) == KEYS


def test_caller_who_leaves_the_loop_cancels_the_call(client: ServiceClient, airports: Airports) -> None:
    messages = client.stream()
    next(messages)
    messages.close()  # type: ignore[attr-defined]
    assert keys(client.stream()) == KEYS


async def test_tries_end_when_there_is_no_progress(environ: dict[str, str], airports: Airports) -> None:
    airports.cuts = [(4, unavailable), *[(0, unavailable)] * 10]
    received = []
    tls = ClientTls.from_environment(environ)
    async with open_async_channel(environ["PENSTOCK_QUERY_ADDRESS"], tls) as channel:
        method = bind(channel, airports.service)[MethodKind.STREAM]
        with pytest.raises(grpc.RpcError) as caught:  # noqa: PT012 - the loop is what is tested
            async for message in async_stream(method.call, method.request(), backoff=QUICK):
                received += [row.icao for row in records(message)]
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert received == KEYS[:4]
    assert len(airports.requests) == QUICK.attempts


async def test_asyncio_pages_and_streams_give_the_same_rows(environ: dict[str, str], airports: Airports) -> None:
    airports.cuts = [(4, unavailable), (2, told_to_retry)]
    tls = ClientTls.from_environment(environ)
    async with open_async_channel(environ["PENSTOCK_QUERY_ADDRESS"], tls) as channel:
        bound = bind(channel, airports.service)
        listing, streaming = bound[MethodKind.LIST], bound[MethodKind.STREAM]
        pages = [page async for page in async_pages(listing.call, listing.request(page_size=4))]
        messages = [message async for message in async_stream(streaming.call, streaming.request(), backoff=QUICK)]
    assert keys(iter(pages)) == KEYS
    assert keys(iter(messages)) == KEYS


def test_retry_info_is_read_from_the_status_details(client: ServiceClient, airports: Airports) -> None:
    airports.cuts = [(0, told_to_retry)] * 10
    method = client._methods[MethodKind.STREAM]
    with pytest.raises(grpc.RpcError) as caught:
        list(method.call(method.request()))
    assert retry_info_s(caught.value) == pytest.approx(0.001)


def test_slow_handshake_is_waited_for(environ: dict[str, str], contracts: ContractSet) -> None:
    """A busy machine may take long; connecting must not give up sooner than gRPC does by itself."""
    host, port = environ["PENSTOCK_QUERY_ADDRESS"].split(":")
    with socket.create_server(("127.0.0.1", 0)) as front, futures.ThreadPoolExecutor(3) as pool:
        pool.submit(relay_slowly, front, (host, int(port)))
        address = f"127.0.0.1:{front.getsockname()[1]}"
        with connect(SERVICE, environ={**environ, "PENSTOCK_QUERY_ADDRESS": address}, contracts=contracts) as client:
            assert keys(client.pages(page_size=5)) == KEYS


def relay_slowly(front: socket.socket, server: tuple[str, int]) -> None:
    """Relays one connection; the server's first bytes come half a second late."""
    client, _ = front.accept()
    with client, socket.create_connection(server) as upstream, futures.ThreadPoolExecutor(1) as pool:
        pool.submit(pump, client, upstream)
        first = upstream.recv(65536)
        time.sleep(0.5)
        client.sendall(first)
        pump(upstream, client)


def pump(source: socket.socket, target: socket.socket) -> None:
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)


def test_server_refuses_a_client_without_certificate(environ: dict[str, str], airports: Airports) -> None:
    credentials = grpc.ssl_channel_credentials(Path(environ["PENSTOCK_TLS_CA"]).read_bytes())
    with grpc.secure_channel(environ["PENSTOCK_QUERY_ADDRESS"], credentials) as channel:
        method = bind(channel, airports.service)[MethodKind.LIST]
        with pytest.raises(grpc.RpcError) as caught:
            method.call(method.request(page_size=1), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_missing_settings_name_the_variable_and_the_way(contracts: ContractSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="PENSTOCK_QUERY_ADDRESS is not set"):
        connect(SERVICE, environ={}, contracts=contracts)
    with pytest.raises(ConfigError, match="PENSTOCK_TLS_CA is not set"):
        ClientTls.from_environment({})
    missing = {f"PENSTOCK_TLS_{part}": str(tmp_path / "nothing") for part in ("CA", "CERT", "KEY")}
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        ClientTls.from_environment(missing)


def test_unknown_service_is_refused_with_the_known_ones(environ: dict[str, str], contracts: ContractSet) -> None:
    channel = open_channel(environ["PENSTOCK_QUERY_ADDRESS"], ClientTls.from_environment(environ))
    with channel, pytest.raises(ConfigError, match=SERVICE.replace(".", "[.]")):
        ServiceClient(channel, contracts, "aviation.v1.Nothing")
