"""Runs a baseline as a gRPC server in a process of its own, with the same mTLS on both sides as Penstock's services."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc
import grpc.aio

from shared.local.ports import LOOPBACK, free_port
from shared.local.processes import ChildProcess

ADDRESS = "BENCH_LISTEN"
_REPOSITORY = Path(__file__).resolve().parents[2]
_START_TIMEOUT_S = 30.0


async def serve(handlers: grpc.GenericRpcHandler[bytes, bytes]) -> None:
    """Serves until the process is told to end. Called in the child."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([handlers])
    server.add_secure_port(os.environ[ADDRESS], _credentials(os.environ))
    await server.start()
    await server.wait_for_termination()


@contextmanager
def running(module: str, environment: Mapping[str, str], directory: Path) -> Iterator[str]:
    """Starts `python -m <module>` and yields its address. Called in the parent."""
    address = f"{LOOPBACK}:{free_port()}"
    process = ChildProcess(
        module.rpartition(".")[2],
        [sys.executable, "-m", module],
        environment={**os.environ, **environment, ADDRESS: address},
        log_path=directory / "logs" / f"{module}.log",
        directory=_REPOSITORY,
        stop_timeout_s=2.0,
    )
    with process:
        process.wait_until(lambda: _listens(address), timeout_s=_START_TIMEOUT_S)
        yield address


def run(handlers: grpc.GenericRpcHandler[bytes, bytes]) -> None:
    """The whole program of a child that needs nothing but its handlers."""
    asyncio.run(serve(handlers))


def _credentials(environ: Mapping[str, str]) -> grpc.ServerCredentials:
    ca, certificate, key = (Path(environ[f"PENSTOCK_TLS_{part}"]).read_bytes() for part in ("CA", "CERT", "KEY"))
    return grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=True)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, int(port))) == 0
