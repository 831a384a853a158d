"""The query service over mTLS, with rows behind it, and callers with whatever certificate a test gives them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message

from query_service.app import query_pool, running
from query_service.settings import QueryLimits, QuerySettings
from shared.local.certificates import CertificateFiles
from shared.rpc.server import RpcServer
from shared.settings import DatabaseSettings, RpcSettings
from tests.integration.query.lab import Client, Lab, details, reasons
from tests.integration.rpc.conftest import CLIENT, tls_files


class Refusal(NamedTuple):
    """An error as a caller sees it: status code, ErrorInfo reason, BadRequest field."""

    code: grpc.StatusCode
    reason: str
    field: str
    message: str


@asynccontextmanager
async def serving_mtls(lab: Lab, files: CertificateFiles) -> AsyncIterator[RpcServer]:
    """The service on a free port, open to one identity."""
    settings = QuerySettings(
        contracts=None,
        rpc=RpcSettings(
            listen="127.0.0.1:0",
            probe_listen="127.0.0.1:0",
            drain_s=0.0,
            tls=tls_files(files),
            allowed_identities=frozenset({CLIENT}),
        ),
        database=DatabaseSettings(url=lab.url, pool_size=4),
        limits=QueryLimits(version_wait_s=0.2),
    )
    async with query_pool(settings) as pool, running(settings, lab.contracts, pool) as server:
        yield server


async def refusal(client: Client, method: str, request: Message | bytes) -> Refusal:
    """What a call that must fail gets."""
    body = request if isinstance(request, bytes) else request.SerializeToString()
    path = f"/{client.lab.service.full_name}/{method}"
    call: Any = client.channel.unary_stream(path, None, None)(body, timeout=20)
    try:
        async for message in call:
            raise AssertionError(f"{method} {body[:200]!r} was answered with {len(message)} bytes")
    except grpc.aio.AioRpcError as error:
        fields = [v.field for bad in details(error, "BadRequest") for v in bad.field_violations]
        (reason,) = reasons(error)
        return Refusal(error.code(), reason, ",".join(fields), error.details() or "")
    raise AssertionError("answered with nothing")
