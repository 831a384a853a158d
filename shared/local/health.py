"""Asks a service on its plaintext probe port whether it serves (grpc.health.v1)."""

from __future__ import annotations

import socket

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_TIMEOUT_S = 2.0


def is_serving(host: str, port: int) -> bool:
    """True when the service answers SERVING; False when it does not, or nobody listens yet."""
    # A gRPC channel that met a closed port waits a second before it dials again; a bare connect costs nothing.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(_TIMEOUT_S)
        if probe.connect_ex((host, port)) != 0:
            return False
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError:
            return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
