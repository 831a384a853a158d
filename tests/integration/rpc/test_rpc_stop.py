"""Health on the probe port, taken ports, and the order in which a server stops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2

from shared.errors import ConfigError

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health(channel: grpc.aio.Channel, name: str) -> Any:
    """The status of one health service."""
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    return (await check(health_pb2.HealthCheckRequest(service=name))).status


def retry_delay_s(error: grpc.aio.AioRpcError) -> Any:
    """The RetryInfo of an error."""
    trailing: Any = error.trailing_metadata()
    info = error_details_pb2.RetryInfo()
    assert any(
        detail.Unpack(info) for detail in status_pb2.Status.FromString(trailing["grpc-status-details-bin"]).details
    )
    return info.retry_delay.ToTimedelta().total_seconds()


async def test_probe_port_serves_health_in_plaintext_and_nothing_else(serve: Any, stub: Any) -> None:
    async with serve() as server, grpc.aio.insecure_channel(f"localhost:{server.probe_port}") as channel:
        assert await health(channel, "liveness") == SERVING
        with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
            await stub(channel).echo("x")
        reflection: Any = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")  # type: ignore[call-arg]
        with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
            await reflection(iter([b""])).read()


async def test_liveness_does_not_follow_readiness(serve: Any) -> None:
    async with serve() as server, grpc.aio.insecure_channel(f"localhost:{server.probe_port}") as channel:
        await server.set_serving(False)
        assert await health(channel, "readiness") == NOT_SERVING
        assert await health(channel, "") == NOT_SERVING
        assert await health(channel, "test.v1.ProbeService") == NOT_SERVING
        assert await health(channel, "liveness") == SERVING
        await server.set_serving(True)
        assert await health(channel, "readiness") == SERVING


@pytest.mark.parametrize("setting", ["listen", "probe_listen"])
async def test_taken_port_is_a_config_error_that_names_the_setting(serve: Any, setting: str) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"PENSTOCK_{setting.upper()}={address}"):
            async with serve(**{setting: address}):
                pass


async def test_second_server_cannot_share_the_port_of_the_first(serve: Any) -> None:
    async with serve() as server:
        with pytest.raises(ConfigError, match="PENSTOCK_LISTEN"):
            async with serve(listen=f"127.0.0.1:{server.port}"):
                pass


async def test_drain_turns_readiness_off_and_lets_a_running_rpc_finish(
    serve: Any, dial: Any, stub: Any, behaviors: Any
) -> None:
    async with (
        serve(behaviors, drain_s=20) as server,
        dial(server.port) as channel,
        grpc.aio.insecure_channel(f"localhost:{server.probe_port}") as probe,
    ):
        call = stub(channel).wait()
        await asyncio.wait_for(behaviors.started.wait(), 5)
        stopping = asyncio.create_task(server.stop())
        await asyncio.wait_for(server.draining.wait(), 5)
        assert await health(probe, "readiness") == NOT_SERVING
        assert await health(probe, "liveness") == SERVING
        await server.set_serving(True)
        assert await health(probe, "readiness") == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub(channel).echo("too late", timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not stopping.done()
        behaviors.released.set()
        assert (await call).value == "x"
        await asyncio.wait_for(stopping, 5)


async def test_stream_that_outlasts_the_drain_ends_unavailable_with_a_retry_delay(
    serve: Any, dial: Any, stub: Any, behaviors: Any, recorder: Any
) -> None:
    async with serve(behaviors, drain_s=0.1) as server, dial(server.port) as channel:
        call = stub(channel).endless()
        assert (await call.read()).value == "x"
        await server.stop()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert retry_delay_s(caught.value) == 1.0
    assert behaviors.closed.is_set()
    (span,) = recorder.spans.get_finished_spans()
    assert span.attributes["rpc.response.status_code"] == "UNAVAILABLE"


async def test_unary_rpc_that_outlasts_the_drain_ends_unavailable_too(
    serve: Any, dial: Any, stub: Any, behaviors: Any
) -> None:
    async with serve(behaviors, drain_s=0.1) as server, dial(server.port) as channel:
        call = stub(channel).wait()
        await asyncio.wait_for(behaviors.started.wait(), 5)
        await server.stop()
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await call


async def test_stream_that_watches_draining_ends_by_itself_and_at_once(
    serve: Any, dial: Any, stub: Any, behaviors: Any
) -> None:
    async with serve(behaviors, drain_s=60) as server, dial(server.port) as channel:
        call = stub(channel).endless()
        await call.read()

        async def release() -> None:
            await server.draining.wait()
            behaviors.released.set()

        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(release())
            group.create_task(server.stop())
        assert await call.read() is grpc.aio.EOF  # type: ignore[attr-defined]
        assert await call.code() is grpc.StatusCode.OK


async def test_open_health_watch_does_not_hold_up_the_drain(serve: Any, dial: Any) -> None:
    async with serve(drain_s=60) as server, dial(server.port) as channel:
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )(health_pb2.HealthCheckRequest(service="readiness"))
        assert (await watch.read()).status == SERVING
        await asyncio.wait_for(server.stop(), 10)
        assert (await watch.read()).status == NOT_SERVING


async def test_handler_that_ignores_its_cancellation_cannot_keep_the_server_up(
    serve: Any, dial: Any, stub: Any, behaviors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.rpc.server._END_S", 0.2)
    stubborn = asyncio.Event()

    async def wait(request: Any, _context: Any) -> Any:
        behaviors.started.set()
        while not stubborn.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await stubborn.wait()
        return request

    behaviors.wait = wait
    async with serve(behaviors, drain_s=0.1) as server, dial(server.port) as channel:
        call = stub(channel).wait()
        await asyncio.wait_for(behaviors.started.wait(), 5)
        await asyncio.wait_for(server.stop(), 10)
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        stubborn.set()
        assert await server.in_flight.wait_empty(5)


async def test_stop_under_load_shows_clients_nothing_but_answers_and_unavailable(
    serve: Any, dial: Any, stub: Any
) -> None:
    codes: set[grpc.StatusCode] = set()
    busy = asyncio.Event()

    async def call_until_refused(client: Any) -> None:
        while True:
            try:
                await client.echo("x", timeout=10)
                codes.add(grpc.StatusCode.OK)
                busy.set()
            except grpc.aio.AioRpcError as error:
                codes.add(error.code())
                return

    async with (
        serve(drain_s=5) as server,
        dial(server.port) as channel,
        asyncio.timeout(30),
        asyncio.TaskGroup() as group,
    ):
        for _ in range(64):
            group.create_task(call_until_refused(stub(channel)))
        await busy.wait()
        await server.stop()
    assert codes == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}


async def test_aged_connections_are_replaced_without_a_failed_call(serve: Any, dial: Any, stub: Any) -> None:
    async with serve(max_connection_age_s=0.2) as server, dial(server.port) as channel:
        connections: set[str] = set()
        async with asyncio.timeout(30):
            while len(connections) < 3:
                connections.add((await stub(channel).echo("peer", timeout=10)).value)


async def test_stopping_twice_is_harmless(serve: Any) -> None:
    async with serve() as server:
        await server.stop()
        await server.stop()
