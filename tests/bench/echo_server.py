"""The least that a grpc.aio server can do: the same bytes for every request, from memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grpc

from tests.bench import baseline_server

SERVICE = "bench.Echo"
METHOD = f"/{SERVICE}/Say"
PAYLOAD = "BENCH_PAYLOAD"


def handlers(payload: bytes) -> grpc.GenericRpcHandler[bytes, bytes]:
    """One unary method without (de)serializers."""

    async def say(request: bytes, context: Any) -> bytes:
        return payload

    return grpc.method_handlers_generic_handler(SERVICE, {"Say": grpc.unary_unary_rpc_method_handler(say)})


if __name__ == "__main__":
    baseline_server.run(handlers(Path(os.environ[PAYLOAD]).read_bytes()))
