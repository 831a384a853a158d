"""Reflection as the tools use it: grpcurl (v1alpha) and buf curl (v1), over mTLS, on the repository's contracts."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from penstock.ingest.v1 import ingest_pb2

from shared.contract.model import ContractSet, Service
from shared.errors import NotFound
from shared.local.certificates import CertificateFiles
from shared.rpc.reflection import reflection_pool
from shared.rpc.server import RpcServer
from shared.settings import RpcSettings, TlsFiles


def tool(name: str) -> str:
    """A tool of the virtual environment or the PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


async def output(*command: str) -> str:
    """What a command prints, on both streams; it must end well."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    printed, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, printed.decode()
    return printed.decode()


def handler(service: Service) -> grpc.GenericRpcHandler[Any, Any]:
    """All methods of a contract's service; each says that there is nothing."""

    async def unary(_request: Any, _context: Any) -> bytes:
        raise NotFound("there is none", reason="NO_ROW")

    async def stream(_request: Any, _context: Any) -> AsyncIterator[bytes]:
        yield b""

    return grpc.method_handlers_generic_handler(
        service.full_name,
        {
            method.name: grpc.unary_stream_rpc_method_handler(stream)
            if method.server_streaming
            else grpc.unary_unary_rpc_method_handler(unary)
            for method in service.methods
        },
    )


@pytest.fixture
async def server(server_files: CertificateFiles, contracts: ContractSet) -> AsyncIterator[RpcServer]:
    """A server with the repository's contracts and the ingest service's file."""
    settings = RpcSettings(
        listen="127.0.0.1:0",
        probe_listen="127.0.0.1:0",
        tls=TlsFiles(ca=server_files.ca, cert=server_files.certificate, key=server_files.key),
        allowed_identities=frozenset({"*"}),
        drain_s=0.1,
    )
    handlers = [handler(service) for service in contracts.services]
    async with RpcServer(
        settings, handlers, descriptors=contracts.descriptors, files=[ingest_pb2.DESCRIPTOR]
    ) as running:
        yield running


@pytest.fixture
def grpcurl(client_files: CertificateFiles) -> list[str]:
    """The command up to the address."""
    return [
        tool("grpcurl"),
        *("-cacert", str(client_files.ca), "-cert", str(client_files.certificate), "-key", str(client_files.key)),
    ]


@pytest.fixture
def buf_curl(client_files: CertificateFiles) -> list[str]:
    """The command up to the URL."""
    return [
        *(tool("buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge"),
        *("--cacert", str(client_files.ca), "--cert", str(client_files.certificate), "--key", str(client_files.key)),
    ]


async def test_grpcurl_lists_and_describes(server: RpcServer, grpcurl: list[str], contracts: ContractSet) -> None:
    address = f"localhost:{server.port}"
    listed = (await output(*grpcurl, address, "list")).split()
    assert {service.full_name for service in contracts.services} <= set(listed)
    assert "grpc.health.v1.Health" in listed
    for name in (*listed, "google.rpc.BadRequest", "penstock.ingest.v1.Load", "aviation.v1.Airport"):
        assert name.rpartition(".")[2] in await output(*grpcurl, address, "describe", name)
    health = await output(*grpcurl, "-d", '{"service": "liveness"}', address, "grpc.health.v1.Health/Check")
    assert "SERVING" in health


async def test_grpcurl_shows_error_details(server: RpcServer, grpcurl: list[str]) -> None:
    address = f"localhost:{server.port}"
    command = (*grpcurl, "-d", '{"icao": "EDDF"}', address, "aviation.v1.AirportService/GetAirport")
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, printed = await process.communicate()
    assert "NO_ROW" in printed.decode()


async def test_buf_curl_lists_services_and_methods(
    server: RpcServer, buf_curl: list[str], contracts: ContractSet
) -> None:
    url = f"https://localhost:{server.port}"
    services = (await output(*buf_curl, "--list-services", url)).split()
    assert {service.full_name for service in contracts.services} <= set(services)
    methods = (await output(*buf_curl, "--list-methods", url)).split()
    assert "aviation.v1.AirportService/ListAirports" in methods
    assert "grpc.health.v1.Health/Check" in methods
    health = await output(*buf_curl, "-d", '{"service": "liveness"}', f"{url}/grpc.health.v1.Health/Check")
    assert "SERVING" in health


def test_reflected_contracts_keep_their_options(contracts: ContractSet) -> None:
    pool = reflection_pool(contracts.descriptors)
    for original in contracts.descriptors.file:
        reflected = FileDescriptorProto()
        pool.FindFileByName(original.name).CopyToProto(reflected)
        assert reflected.SerializeToString(deterministic=True) == original.SerializeToString(deterministic=True)


def test_reflection_works_without_any_contract() -> None:
    pool = reflection_pool(None)
    for name in ("grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "google.rpc.RetryInfo"):
        assert pool.FindFileContainingSymbol(name)
