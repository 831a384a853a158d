"""grpc.health.v1 for callers, load balancers and kubelets, served on the main port and on the plaintext probe port.

Service names: `readiness`, `""` and each served service follow readiness; `liveness` says only that the event loop
answers and never depends on the database. A Kubernetes probe names one: `grpc: {port: 50052, service: readiness}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]

LIVENESS, READINESS = "liveness", "readiness"
SERVICE_NAME = "grpc.health.v1.Health"


class Health:
    """The health of one process; not ready until told so, and never again once it drains."""

    def __init__(self, service_names: Sequence[str]) -> None:
        self._names = ("", READINESS, *service_names)
        self._servicer = health_aio.HealthServicer()
        self._draining = False

    async def open(self) -> None:
        """Alive and not ready; before the ports open, because the servicer starts out as SERVING."""
        await self._servicer.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self.set_serving(False)

    async def set_serving(self, serving: bool) -> None:
        """Readiness, told to watchers too; True is ignored while draining."""
        states = health_pb2.HealthCheckResponse
        status = states.SERVING if serving and not self._draining else states.NOT_SERVING
        for name in self._names:
            await self._servicer.set(name, status)

    async def drain(self) -> None:
        """Not ready for good. Liveness stays: a kubelet must not kill a pod that is finishing its work."""
        self._draining = True
        await self.set_serving(False)

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """Check and Watch, for any number of servers."""
        request, response = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "Check": grpc.unary_unary_rpc_method_handler(
                    self._servicer.Check, request.FromString, response.SerializeToString
                ),
                "Watch": grpc.unary_stream_rpc_method_handler(
                    self._servicer.Watch, request.FromString, response.SerializeToString
                ),
            },
        )
