"""The proxy that breaks connections on demand breaks all of them."""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import suppress

import pytest

from tests.integration.consumer.flaky_proxy import LOOPBACK, FlakyProxy


@pytest.mark.parametrize("turns", range(8))
async def test_a_connection_is_closed_wherever_its_acceptance_is_when_the_proxy_goes_down(turns: int) -> None:
    """A transport that is left open is a warning of the garbage collector, which fails the test."""
    async with FlakyProxy(target_port=9) as proxy:
        with socket.create_connection((LOOPBACK, proxy.port)) as client:
            for _ in range(turns):
                await asyncio.sleep(0)
            await proxy.down()
            gc.collect()
            client.settimeout(5)
            with suppress(ConnectionResetError):
                assert client.recv(1) == b""
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((LOOPBACK, proxy.port))
        await proxy.up()
