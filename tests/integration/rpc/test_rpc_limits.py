"""Limits of one caller over mTLS: told with RetryInfo, and never another caller's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shared.local.certificates import CertificateAuthority
from shared.rpc import server as rpc_server
from shared.settings import CallerLimits
from tests.integration.rpc.conftest import CLIENT, SERVICE, Behaviors, Dial, Serve
from tests.integration.rpc.test_rpc_calls import details

OTHER = "spiffe://penstock.test/other"


async def limit_met(call: Any) -> tuple[str, float]:
    """The reason of a refused call, and when to come back."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    status = details(caught.value)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    return info.reason, retry.retry_delay.ToNanoseconds() / 1e9


async def test_one_callers_calls_at_once_are_bounded_and_anothers_go_on(
    serve: Serve, dial: Dial, stub: Callable[..., Any], behaviors: Behaviors, authority: CertificateAuthority
) -> None:
    other_files = authority.issue("other", uris=[OTHER])
    limits, allowed = CallerLimits(calls=2), frozenset({CLIENT, OTHER})
    async with (
        serve(behaviors, caller_limits=limits, allowed_identities=allowed) as server,
        dial(server.port) as channel,
        dial(server.port, other_files) as other,
    ):
        running = [stub(channel).wait(), stub(channel).endless()]
        await running[1].read()
        await behaviors.started.wait()
        assert await limit_met(stub(channel).echo("x")) == ("TOO_MANY_CALLS", 1.0)
        assert (await stub(other).echo("x")).value == "x"
        behaviors.released.set()
        await running[0]
        assert (await stub(channel).echo("x")).value == "x"


async def test_all_calls_at_once_are_bounded_but_for_health(
    serve: Serve, dial: Dial, stub: Callable[..., Any], behaviors: Behaviors
) -> None:
    async with serve(behaviors, max_concurrent_rpcs=1) as server, dial(server.port) as channel:
        call = stub(channel).wait()
        await behaviors.started.wait()
        assert await limit_met(stub(channel).echo("x")) == ("TOO_MANY_CALLS", 1.0)
        health = health_pb2_grpc.HealthStub(channel)
        checks = [health.Check(health_pb2.HealthCheckRequest(service="liveness")) for _ in range(3)]
        assert {(await check).status for check in checks} == {health_pb2.HealthCheckResponse.SERVING}
        behaviors.released.set()
        await call
        assert (await stub(channel).echo("x")).value == "x"


async def test_calls_whose_request_never_comes_and_health_watches_are_bounded_too(
    serve: Serve, dial: Dial, stub: Callable[..., Any], authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC waits for a request before it asks who calls: so also for callers who may not."""
    monkeypatch.setattr(rpc_server, "SPARE_RPCS", 3)
    stranger = authority.issue("stranger", uris=[OTHER])
    never = asyncio.Event()

    async def no_request() -> AsyncIterator[bytes]:
        await never.wait()
        yield b""

    async with (
        serve(max_concurrent_rpcs=1) as server,
        dial(server.port) as channel,
        dial(server.port, stranger) as strange,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="liveness"))
        await watch.read()
        calls = [strange.stream_unary(f"/{SERVICE}/Echo", None, None)(no_request()) for _ in range(5)]
        ended = asyncio.as_completed([asyncio.create_task(call.code()) for call in calls], timeout=5)
        assert [await next(ended) for _ in range(2)] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
        assert sum(call.done() for call in calls) == 2
        for call in calls:
            call.cancel()
        for _ in range(500):
            if await stub(channel).echo("x").code() is grpc.StatusCode.OK:
                break
            await asyncio.sleep(0.01)
        assert (await stub(channel).echo("x")).value == "x"
        watch.cancel()


async def test_however_a_call_ends_its_place_is_free_again(
    serve: Serve, dial: Dial, stub: Callable[..., Any], behaviors: Behaviors
) -> None:
    async with serve(behaviors, max_concurrent_rpcs=1) as server, dial(server.port) as channel:
        for word in ("boom", "missing", "stray", "late", "x"):
            await stub(channel).echo(word).code()
        assert await stub(channel).echo("slow", timeout=0.05).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        for begin in (stub(channel).wait, stub(channel).endless):
            behaviors.started.clear()
            behaviors.closed.clear()
            call = begin()
            await behaviors.started.wait()
            call.cancel()
            await behaviors.closed.wait()
        async with asyncio.timeout(5):
            assert await server.in_flight.wait_empty(5)
            assert (await stub(channel).echo("x")).value == "x"


async def test_one_callers_rate_is_bounded_and_anothers_is_its_own(
    serve: Serve, dial: Dial, stub: Callable[..., Any], authority: CertificateAuthority
) -> None:
    other_files = authority.issue("other", uris=[OTHER])
    limits, allowed = CallerLimits(per_second=0.001, burst=3), frozenset({CLIENT, OTHER})
    async with (
        serve(caller_limits=limits, allowed_identities=allowed) as server,
        dial(server.port) as channel,
        dial(server.port, other_files) as other,
    ):
        for _ in range(3):
            await stub(channel).echo("x")
        reason, delay_s = await limit_met(stub(channel).echo("x"))
        assert reason == "RATE_LIMITED"
        assert 0 < delay_s <= 1000
        assert (await stub(other).echo("x")).value == "x"
