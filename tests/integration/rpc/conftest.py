"""A real RpcServer over mTLS with a small service that fails, streams and waits in every way that matters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared import errors
from shared.local.certificates import CertificateAuthority, CertificateFiles
from shared.rpc.observation import Observer
from shared.rpc.server import RpcServer
from shared.settings import RpcSettings, TlsFiles

SERVICE = "test.v1.ProbeService"
CLIENT = "spiffe://penstock.test/client"


@dataclass(kw_only=True)
class Behaviors:
    """What the service does; tests wait on its events instead of sleeping."""

    started: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def echo(self, request: StringValue, context: Any) -> StringValue:
        """The request, or the failure that it names; for "peer" the caller's address."""
        _raise(request.value)
        if request.value == "slow":
            await _wait_in_vain(context.time_remaining())
        return StringValue(value=context.peer()) if request.value == "peer" else request

    async def wait(self, request: StringValue, _context: Any) -> StringValue:
        """Answers when released."""
        self.started.set()
        try:
            await self.released.wait()
        finally:
            self.closed.set()
        return request

    async def count(self, request: Int32Value, _context: Any) -> AsyncIterator[Int32Value]:
        """1..n; a negative n fails after -n messages."""
        try:
            for number in range(1, abs(request.value) + 1):
                yield Int32Value(value=number)
            if request.value < 0:
                raise errors.Unavailable("cut", reason="CUT", retry_after_s=2.5)
        finally:
            self.closed.set()

    async def endless(self, request: StringValue, _context: Any) -> AsyncIterator[StringValue]:
        """One message, then nothing until released."""
        try:
            yield request
            self.started.set()
            await self.released.wait()
        finally:
            self.closed.set()

    async def total(self, requests: AsyncIterator[Int32Value], _context: Any) -> Int32Value:
        """The sum of a request stream."""
        return Int32Value(value=sum([request.value async for request in requests]))

    async def each(self, requests: AsyncIterator[StringValue], _context: Any) -> AsyncIterator[StringValue]:
        """Each request of a stream, or the failure that it names."""
        async for request in requests:
            _raise(request.value)
            yield request

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """The generic handler of the service."""
        text, number = StringValue.FromString, Int32Value.FromString
        out_text, out_number = StringValue.SerializeToString, Int32Value.SerializeToString
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Echo": grpc.unary_unary_rpc_method_handler(self.echo, text, out_text),
                "Wait": grpc.unary_unary_rpc_method_handler(self.wait, text, out_text),
                "Count": grpc.unary_stream_rpc_method_handler(self.count, number, out_number),
                "Endless": grpc.unary_stream_rpc_method_handler(self.endless, text, out_text),
                "Total": grpc.stream_unary_rpc_method_handler(self.total, number, out_number),
                "Each": grpc.stream_stream_rpc_method_handler(self.each, text, out_text),
            },
        )


async def _wait_in_vain(remaining_s: float | None) -> None:
    """As a database call does: it gives up a little before the caller's deadline, or after a limit of its own."""
    try:
        async with asyncio.timeout(0.01 if remaining_s is None else remaining_s - 0.03):
            await asyncio.Event().wait()
    except TimeoutError as exc:
        raise errors.Unavailable("no answer in time", reason="SLOW", retry_after_s=1.0) from exc


def _raise(word: str) -> None:
    if word == "boom":
        raise RuntimeError("the secret of the database")
    if word == "missing":
        raise errors.NotFound("there is none", reason="NO_ROW", metadata={"key": "7"})
    if word == "invalid":
        violations = [errors.FieldViolation(field="filter", description="no such field")]
        raise errors.InvalidRequest(violations)
    if word == "stray":
        raise asyncio.CancelledError
    if word == "late":
        raise TimeoutError


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorder:
    """Spans and metrics as they were exported."""

    spans: InMemorySpanExporter
    metrics: InMemoryMetricReader
    observer: Observer


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """An observer whose spans and metrics stay in memory."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    meters = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    yield Recorder(spans=spans, metrics=reader, observer=Observer(tracer_provider=tracers, meter_provider=meters))
    tracers.shutdown()
    meters.shutdown()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    """The CA that server and clients trust."""
    return CertificateAuthority.create(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def server_files(authority: CertificateAuthority) -> CertificateFiles:
    """The server's certificate."""
    return authority.issue("server", dns=["localhost"], ips=["127.0.0.1"])


@pytest.fixture(scope="session")
def client_files(authority: CertificateAuthority) -> CertificateFiles:
    """The certificate of an allowed client."""
    return authority.issue("client", uris=[CLIENT])


def tls_files(files: CertificateFiles) -> TlsFiles:
    """As settings name them."""
    return TlsFiles(ca=files.ca, cert=files.certificate, key=files.key)


Serve = Callable[..., AbstractAsyncContextManager[RpcServer]]
Dial = Callable[..., AbstractAsyncContextManager[grpc.aio.Channel]]


@pytest.fixture
def serve(server_files: CertificateFiles, recorder: Recorder) -> Serve:
    """`serve(behaviors, observer, **settings)`: a running server that is ready."""

    @asynccontextmanager
    async def start(
        behaviors: Behaviors | None = None, observer: Observer | None = None, **overrides: Any
    ) -> AsyncIterator[RpcServer]:
        values: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "probe_listen": "127.0.0.1:0",
            "tls": tls_files(server_files),
            "allowed_identities": frozenset({CLIENT}),
            "drain_s": 0.2,
        }
        settings = RpcSettings(**(values | overrides))
        handlers = [(behaviors or Behaviors()).handler()]
        async with RpcServer(settings, handlers, observer=observer or recorder.observer) as server:
            await server.set_serving(True)
            yield server

    return start


@pytest.fixture
def dial(client_files: CertificateFiles) -> Dial:
    """`dial(port, files)`: a channel with a client certificate; `files=None` has none."""

    def connect(port: int, files: CertificateFiles | None = client_files) -> grpc.aio.Channel:
        ca = client_files.ca.read_bytes()
        if files is None:
            credentials = grpc.ssl_channel_credentials(ca)
        else:
            credentials = grpc.ssl_channel_credentials(ca, files.key.read_bytes(), files.certificate.read_bytes())
        # Channels with equal arguments would share connections, and rotation could not be seen.
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.secure_channel(f"localhost:{port}", credentials, options=options)

    return connect


@dataclass(frozen=True, slots=True)
class Stub:
    """The client's side of the test service."""

    channel: grpc.aio.Channel

    def echo(self, text: str, **options: Any) -> Any:
        """A unary call."""
        return self._unary("Echo")(StringValue(value=text), **options)

    def wait(self, **options: Any) -> Any:
        """A unary call that stays open."""
        return self._unary("Wait")(StringValue(value="x"), **options)

    def count(self, number: int, **options: Any) -> Any:
        """A server stream."""
        multi = self.channel.unary_stream(f"/{SERVICE}/Count", Int32Value.SerializeToString, Int32Value.FromString)
        return multi(Int32Value(value=number), **options)

    def endless(self, **options: Any) -> Any:
        """A server stream that stays open after one message."""
        multi = self.channel.unary_stream(f"/{SERVICE}/Endless", StringValue.SerializeToString, StringValue.FromString)
        return multi(StringValue(value="x"), **options)

    def total(self, numbers: list[int]) -> Any:
        """A client stream."""
        multi = self.channel.stream_unary(f"/{SERVICE}/Total", Int32Value.SerializeToString, Int32Value.FromString)
        return multi(iter([Int32Value(value=number) for number in numbers]))

    def each(self, words: list[str]) -> Any:
        """A stream both ways."""
        multi = self.channel.stream_stream(f"/{SERVICE}/Each", StringValue.SerializeToString, StringValue.FromString)
        return multi(iter([StringValue(value=word) for word in words]))

    def _unary(self, method: str) -> Any:
        return self.channel.unary_unary(f"/{SERVICE}/{method}", StringValue.SerializeToString, StringValue.FromString)


@pytest.fixture
def stub() -> Callable[[grpc.aio.Channel], Stub]:
    """`stub(channel)`."""
    return Stub


@pytest.fixture
def behaviors() -> Behaviors:
    """A fresh service."""
    return Behaviors()


@pytest.fixture
def rotated(tmp_path: Path, server_files: CertificateFiles) -> TlsFiles:
    """A copy of the server's files that a test may replace."""
    copies = TlsFiles(ca=tmp_path / "ca.crt", cert=tmp_path / "tls.crt", key=tmp_path / "tls.key")
    copies.ca.write_bytes(server_files.ca.read_bytes())
    copies.cert.write_bytes(server_files.certificate.read_bytes())
    copies.key.write_bytes(server_files.key.read_bytes())
    return copies
