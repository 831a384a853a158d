"""Limits of one caller over mTLS: told with RetryInfo, and never another caller's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shared.local.certificates import CertificateAuthority
from shared.settings import CallerLimits
from tests.integration.rpc.conftest import CLIENT, Behaviors, Dial, Serve
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
