"""The gRPC server of a service: mTLS, one interceptor, health, reflection, probe port, and a stop in a fixed order.

Stop order: readiness NOT_SERVING -> new RPCs are answered UNAVAILABLE with RetryInfo -> GOAWAY, the port is closed ->
wait for running RPCs up to `drain_s` -> the rest ends UNAVAILABLE with RetryInfo -> whatever ignores that is cut off ->
probe port closed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from shared.errors import ConfigError
from shared.rpc.admission import Admission
from shared.rpc.credentials import CertificateSource
from shared.rpc.health import SERVICE_NAME, Health
from shared.rpc.identity import Policy
from shared.rpc.inflight import InFlight
from shared.rpc.interceptor import RpcInterceptor
from shared.rpc.observation import Observer
from shared.rpc.reflection import reflection_handlers, reflection_pool
from shared.settings import RpcSettings

_LOG = logging.getLogger(__name__)
# How many calls more there may be in all than calls that are served: health, reflection, requests on their way.
SPARE_RPCS = 64
# An interrupted handler has this long to close its cursor and send its status.
_END_S = 3.0


class RpcServer:
    """An async context manager; inside it the server answers, though not ready until `set_serving(True)`.

    `handlers` come from `grpc.method_handlers_generic_handler` and raise `shared.errors` classes; `descriptors` and
    `files` describe their services for reflection. `draining` is set when the stop begins: RPCs that have no end of
    their own (Watch) watch it and end by themselves, with their own last message.
    """

    def __init__(
        self,
        settings: RpcSettings,
        handlers: Sequence[grpc.GenericRpcHandler[Any, Any]],
        *,
        descriptors: FileDescriptorSet | None = None,
        files: Iterable[FileDescriptor] = (),
        observer: Observer | None = None,
    ) -> None:
        self._settings = settings
        self._names = [h.service_name() for h in handlers if isinstance(h, grpc.ServiceRpcHandler)]
        self._health = Health(self._names)
        pool = reflection_pool(descriptors, files)
        self._handlers = [
            *handlers,
            self._health.handler(),
            *reflection_handlers([*self._names, SERVICE_NAME], pool),
        ]
        self._observer = observer or Observer()
        self.in_flight = InFlight()
        self.draining = asyncio.Event()
        self.port = 0
        self.probe_port = 0
        self._server: grpc.aio.Server | None = None
        self._probe: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        """Bind both ports and start. Raises ConfigError for TLS files that do not work and for a taken port."""
        certificates = CertificateSource(self._settings.tls) if self._settings.tls else None
        self._warn_when_open()
        await self._health.open()
        probe = grpc.aio.server(options=_probe_options())
        probe.add_generic_rpc_handlers([self._health.handler()])
        self.probe_port = _bind(probe, "PENSTOCK_PROBE_LISTEN", self._settings.probe_listen, None)
        # gRPC's own limit is the second one: it says neither why nor when to come back, but it also holds for calls
        # whose request never arrives, which gRPC waits for before it asks us, and for health and reflection.
        server = grpc.aio.server(
            options=_options(self._settings),
            maximum_concurrent_rpcs=self._settings.max_concurrent_rpcs + SPARE_RPCS,
        )
        server.add_generic_rpc_handlers([self._interceptor()])
        credentials = certificates.credentials() if certificates else None
        self.port = _bind(server, "PENSTOCK_LISTEN", self._settings.listen, credentials)
        await probe.start()
        await server.start()
        self._probe, self._server = probe, server
        _LOG.info("listening", extra={"port": self.port, "probe_port": self.probe_port, "services": self._names})
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def set_serving(self, serving: bool) -> None:
        """Readiness of this process, on both ports; ignored once draining."""
        await self._health.set_serving(serving)

    async def stop(self) -> None:
        """Drain and stop, in the order at the top of this file; the second call does nothing."""
        server, probe = self._server, self._probe
        self._server = self._probe = None
        if server is None or probe is None:
            return
        self.draining.set()
        self._observer.log.close()
        await self._health.drain()
        await self.in_flight.close()
        # From here on clients are sent away with GOAWAY and try elsewhere by themselves.
        stopped = asyncio.ensure_future(server.stop(self._settings.drain_s + 2 * _END_S))
        await self._drain()
        done, _ = await asyncio.wait({stopped}, timeout=_END_S)
        if not done:
            _LOG.error("%d RPCs did not end when they were told to and were cut off", len(self.in_flight))
            await server.stop(None)
        await stopped
        await probe.stop(None)
        _LOG.info("stopped")

    async def _drain(self) -> None:
        idle = await self.in_flight.wait_idle(self._settings.drain_s)
        cut = self.in_flight.interrupt()
        if not idle:
            _LOG.warning("%d RPCs were still running after %s s and were ended", cut, self._settings.drain_s)

    def _interceptor(self) -> RpcInterceptor:
        policy = Policy(allowed=self._settings.allowed_identities, required=self._settings.tls is not None)
        settings = self._settings
        admission = Admission(settings.caller_limits, time.monotonic, most_calls=settings.max_concurrent_rpcs)
        return RpcInterceptor(
            self._handlers, policy=policy, admission=admission, in_flight=self.in_flight, observer=self._observer
        )

    def _warn_when_open(self) -> None:
        if self._settings.tls is None:
            _LOG.warning(
                "PENSTOCK_TLS=off: EVERYONE who reaches %s may call every RPC, unencrypted", self._settings.listen
            )
        elif not self._settings.allowed_identities:
            _LOG.warning("PENSTOCK_ALLOWED_IDENTITIES is empty: every caller is denied")


def _bind(server: grpc.aio.Server, setting: str, address: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as exc:
        raise ConfigError(
            f"{setting}={address}: cannot listen there: the port is taken or the address is not of this machine",
            reason="CANNOT_LISTEN",
        ) from exc


def _probe_options() -> list[tuple[str, int]]:
    # Two processes on one port would share its connections at random; a taken port has to be an error.
    return [("grpc.so_reuseport", 0)]


def _options(settings: RpcSettings) -> list[tuple[str, int]]:
    """Names: https://grpc.github.io/grpc/core/group__grpc__arg__keys.html; times in milliseconds."""
    return [
        *_probe_options(),
        ("grpc.max_receive_message_length", settings.max_receive_bytes),
        ("grpc.max_send_message_length", settings.max_send_bytes),
        ("grpc.keepalive_time_ms", _ms(settings.keepalive_s)),
        ("grpc.keepalive_timeout_ms", _ms(settings.keepalive_timeout_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        # How often a client may ping before it is sent away; below the 60 s of the clients that we ship.
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(settings.min_ping_interval_s)),
        ("grpc.max_connection_age_ms", _ms(settings.max_connection_age_s)),
        ("grpc.max_connection_age_grace_ms", _ms(settings.max_connection_age_grace_s)),
    ]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
