"""Every kind of RPC through the interceptor: results, errors with details, spans, metrics."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from opentelemetry.trace import SpanKind, StatusCode

from shared.rpc.observation import Observer
from shared.telemetry.unrecorded import UnrecordedTracerProvider


def details(error: grpc.aio.AioRpcError) -> Any:
    """The google.rpc.Status of a failed call, as a client reads it."""
    return rpc_status.from_call(_SyncView(error))  # type: ignore[arg-type]


class _SyncView:
    """What grpc_status asks of a finished call, read from the error that a caller holds."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code = error.code
        self.details = error.details
        self.trailing_metadata = error.trailing_metadata


def unpacked(status: Any, kind: type[Any]) -> Any:
    """The detail of that type."""
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            return message
    raise AssertionError(f"no {kind.__name__} in {status}")


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """The error of a call that must fail, streams read to their end."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (_read_all(call) if hasattr(call, "__aiter__") else call)
    return caught.value


async def _read_all(call: Any) -> None:
    async for _ in call:
        pass


def span(recorder: Any) -> Any:
    """The one finished span."""
    (only,) = recorder.spans.get_finished_spans()
    return only


async def test_all_four_kinds_of_rpc_work(serve: Any, dial: Any, stub: Any) -> None:
    async with serve() as server, dial(server.port) as channel:
        client = stub(channel)
        assert (await client.echo("hello")).value == "hello"
        assert [message.value async for message in client.count(3)] == [1, 2, 3]
        assert (await client.total([1, 2, 3])).value == 6
        assert [message.value async for message in client.each(["a", "b"])] == ["a", "b"]


async def test_error_details_round_trip_through_grpc_status(serve: Any, dial: Any, stub: Any) -> None:
    async with serve() as server, dial(server.port) as channel:
        client = stub(channel)
        missing = details(await failure(client.echo("missing")))
        info = unpacked(missing, error_details_pb2.ErrorInfo)
        assert (info.reason, info.domain, dict(info.metadata)) == ("NO_ROW", "penstock", {"key": "7"})

        invalid = details(await failure(client.each(["a", "invalid"])))
        (violation,) = unpacked(invalid, error_details_pb2.BadRequest).field_violations
        assert (violation.field, violation.description) == ("filter", "no such field")

        cut = await failure(client.count(-2))
        assert cut.code() is grpc.StatusCode.UNAVAILABLE
        delay = unpacked(details(cut), error_details_pb2.RetryInfo).retry_delay
        assert delay.ToNanoseconds() == 2_500_000_000


async def test_unexpected_error_is_internal_with_the_trace_id_and_without_its_text(
    serve: Any, dial: Any, stub: Any, recorder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as server, dial(server.port) as channel:
        error = await failure(stub(channel).echo("boom"))
    trace_id = f"{span(recorder).context.trace_id:032x}"
    assert error.code() is grpc.StatusCode.INTERNAL
    assert trace_id in (error.details() or "")
    assert "secret" not in str(error)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "secret" in caplog.text
    assert record.trace_id == trace_id  # type: ignore[attr-defined]


async def test_cancellation_from_inside_a_handler_still_gives_the_caller_a_status(
    serve: Any, dial: Any, stub: Any
) -> None:
    async with serve() as server, dial(server.port) as channel:
        error = await failure(stub(channel).echo("stray", timeout=5))
        assert error.code() is grpc.StatusCode.INTERNAL


async def test_a_wait_cut_to_the_callers_deadline_is_no_outage(serve: Any, dial: Any, stub: Any) -> None:
    # UNAVAILABLE would have the client try again what it has no time for.
    async with serve() as server, dial(server.port) as channel:
        assert (await failure(stub(channel).echo("slow", timeout=0.3))).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await failure(stub(channel).echo("slow"))).code() is grpc.StatusCode.UNAVAILABLE


async def test_time_limit_inside_a_handler_is_deadline_exceeded(serve: Any, dial: Any, stub: Any) -> None:
    async with serve() as server, dial(server.port) as channel:
        error = await failure(stub(channel).echo("late"))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_request_that_cannot_be_parsed_is_invalid_argument(serve: Any, dial: Any) -> None:
    async with serve() as server, dial(server.port) as channel:
        raw = channel.unary_unary("/test.v1.ProbeService/Echo")
        assert (await failure(raw(b"\xff\xff"))).code() is grpc.StatusCode.INVALID_ARGUMENT
        streamed = channel.stream_stream("/test.v1.ProbeService/Each")
        assert (await failure(streamed(iter([b"\xff\xff"])))).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_unknown_method_is_unimplemented_and_makes_no_metric_series_of_its_own(
    serve: Any, dial: Any, recorder: Any
) -> None:
    async with serve() as server, dial(server.port) as channel:
        for kind in (channel.unary_unary, channel.unary_stream):
            error = await failure(kind("/test.v1.ProbeService/Invented")(b""))
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert {finished.name for finished in recorder.spans.get_finished_spans()} == {"_OTHER"}


async def test_span_of_a_good_call_has_caller_method_code_and_the_callers_trace(
    serve: Any, dial: Any, stub: Any, recorder: Any
) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with serve() as server, dial(server.port) as channel:
        await stub(channel).echo("hello", metadata=[("traceparent", parent)])
    seen = span(recorder)
    assert seen.name == "test.v1.ProbeService/Echo"
    assert seen.kind is SpanKind.SERVER
    assert seen.status.status_code is StatusCode.UNSET
    assert f"{seen.context.trace_id:032x}" in parent
    assert f"{seen.parent.span_id:016x}" in parent
    assert seen.attributes["rpc.response.status_code"] == "OK"
    assert seen.attributes["penstock.peer.identity"] == "spiffe://penstock.test/client"


@pytest.mark.parametrize(
    ("word", "code", "status"),
    [
        ("missing", "NOT_FOUND", StatusCode.UNSET),
        ("invalid", "INVALID_ARGUMENT", StatusCode.UNSET),
        ("boom", "INTERNAL", StatusCode.ERROR),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
async def test_only_the_servers_own_faults_are_span_errors(
    serve: Any, dial: Any, stub: Any, recorder: Any, word: str, code: str, status: StatusCode, streaming: bool
) -> None:
    async with serve() as server, dial(server.port) as channel:
        client = stub(channel)
        await failure(client.each([word]) if streaming else client.echo(word))
    seen = span(recorder)
    assert seen.attributes["rpc.response.status_code"] == code
    assert seen.status.status_code is status


@pytest.mark.parametrize("streaming", [False, True])
async def test_cancelled_call_ends_its_handler_and_its_span_as_cancelled(
    serve: Any, dial: Any, stub: Any, behaviors: Any, recorder: Any, streaming: bool
) -> None:
    async with serve(behaviors) as server, dial(server.port) as channel:
        client = stub(channel)
        call = client.endless() if streaming else client.wait()
        if streaming:
            await call.read()
        await asyncio.wait_for(behaviors.started.wait(), 5)
        call.cancel()
        await asyncio.wait_for(behaviors.closed.wait(), 5)
        assert await server.in_flight.wait_empty(5)
    seen = span(recorder)
    assert seen.attributes["rpc.response.status_code"] == "CANCELLED"
    assert seen.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("streaming", [False, True])
async def test_passed_deadline_ends_the_handler_and_the_span_says_so(
    serve: Any, dial: Any, stub: Any, behaviors: Any, recorder: Any, streaming: bool
) -> None:
    async with serve(behaviors) as server, dial(server.port) as channel:
        client = stub(channel)
        await client.echo("connect first")
        error = await failure(client.endless(timeout=0.3) if streaming else client.wait(timeout=0.3))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(behaviors.closed.wait(), 5)
        assert await server.in_flight.wait_empty(5)
    seen = recorder.spans.get_finished_spans()[-1]
    assert seen.attributes["rpc.response.status_code"] == "DEADLINE_EXCEEDED"
    assert seen.status.status_code is StatusCode.ERROR


async def test_each_rpc_is_one_span_and_one_metric_point(serve: Any, dial: Any, stub: Any, recorder: Any) -> None:
    async with serve() as server, dial(server.port) as channel:
        client = stub(channel)
        await client.echo("a")
        await client.echo("b")
        assert len([message async for message in client.count(50)]) == 50
        # The OK of a unary call reaches the client just after the span has ended; a stream's just before.
        assert await server.in_flight.wait_empty(5)
    assert len(recorder.spans.get_finished_spans()) == 3
    data = recorder.metrics.get_metrics_data()
    metrics = {metric.name: metric for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    points = {
        point.attributes["rpc.method"]: point.count for point in metrics["rpc.server.call.duration"].data.data_points
    }
    assert points == {"test.v1.ProbeService/Echo": 2, "test.v1.ProbeService/Count": 1}
    assert {point.value for point in metrics["rpc.server.active_calls"].data.data_points} == {0}


async def test_access_log_has_one_line_per_rpc(
    serve: Any, dial: Any, stub: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO", "penstock.access")
    async with serve() as server, dial(server.port) as channel:
        await stub(channel).echo("a")
        caplog.set_level("WARNING", "penstock.access")
        await stub(channel).echo("b")
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["level"], line["logger"]) == ("INFO", "penstock.access")
    assert (line["method"], line["code"]) == ("test.v1.ProbeService/Echo", "OK")
    assert line["identity"] == "spiffe://penstock.test/client"
    assert line["duration_ms"] >= 0


async def test_without_a_collector_a_call_is_found_by_one_trace_id_the_callers_where_it_sent_one(
    serve: Any,
    dial: Any,
    stub: Any,
    recorder: Any,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("INFO", "penstock.access")
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    observer = Observer(tracer_provider=UnrecordedTracerProvider())
    async with serve(observer=observer) as server, dial(server.port) as channel:
        await stub(channel).echo("a", metadata=[("traceparent", parent)])
        error = await failure(stub(channel).echo("boom"))
    called, failed = map(json.loads, capsys.readouterr().err.splitlines())
    assert called["trace_id"] in parent
    info = unpacked(details(error), error_details_pb2.ErrorInfo)
    assert (failed["code"], failed["trace_id"]) == ("INTERNAL", info.metadata["trace_id"])
    assert failed["trace_id"] != called["trace_id"]
    assert recorder.spans.get_finished_spans() == ()


async def test_message_over_the_receive_limit_is_refused(serve: Any, dial: Any, stub: Any) -> None:
    async with serve(max_receive_bytes=1024 * 1024) as server, dial(server.port) as channel:
        error = await failure(stub(channel).echo("x" * (2 * 1024 * 1024)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_response_over_64_kib_arrives_whole(serve: Any, dial: Any, stub: Any) -> None:
    async with serve() as server, dial(server.port) as channel:
        answer = await stub(channel).echo("x" * 1_000_000)
        assert answer == StringValue(value="x" * 1_000_000)
