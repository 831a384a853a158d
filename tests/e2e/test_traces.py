"""One trace from SQS receive to commit, one from RPC to SQL, seen from where the spans arrive."""

from __future__ import annotations

import secrets

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from penstock.ingest.v1 import ingest_pb2

from shared.client.calls import bind
from shared.contract.build import load_contracts
from shared.contract.model import MethodKind
from tests.e2e.running_stack import RunningStack, eventually

pytestmark = pytest.mark.xdist_group("e2e")

CSV = b"icao,name,country,lat,lon\nZZ01,Test Field,NO,60.1,11.2\nZZ02,Other Field,NO,61.1,12.2\n"


def by_id(spans: list[Span]) -> dict[bytes, Span]:
    return {span.span_id: span for span in spans}


def ancestors(span: Span, spans: list[Span]) -> list[str]:
    known, names = by_id(spans), []
    while span.parent_span_id in known:
        span = known[span.parent_span_id]
        names.append(span.name)
    return names


def test_upload_is_one_trace_from_sqs_receive_to_commit(stack: RunningStack) -> None:
    load = stack.upload(f"airports/{secrets.token_hex(4)}.csv", CSV)
    assert load.state == ingest_pb2.LOAD_STATE_SUCCEEDED, load
    assert len(load.trace_id) == 32

    def complete() -> list[Span] | None:
        spans = stack.sink.trace(load.trace_id)
        names = {span.name for span in spans}
        root = any(span.kind == Span.SPAN_KIND_CONSUMER for span in spans)
        return spans if root and {"merge", "stage", "S3.GetObject"} <= names else None

    spans = eventually(complete)
    merge = next(span for span in spans if span.name == "merge")
    consumer = next(span for span in spans if span.kind == Span.SPAN_KIND_CONSUMER and "process" in span.name)
    assert consumer.name in ancestors(merge, spans)
    assert consumer.start_time_unix_nano <= merge.start_time_unix_nano
    assert merge.end_time_unix_nano <= consumer.end_time_unix_nano
    assert all(span.status.code != Status.STATUS_CODE_ERROR for span in spans)


def test_list_is_one_trace_from_rpc_to_sql(stack: RunningStack) -> None:
    stack.upload(f"airports/{secrets.token_hex(4)}.csv", CSV)
    service = next(s for s in load_contracts().services if s.full_name == "aviation.v1.AirportService")
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
    with stack.channel("QUERY") as channel:
        method = bind(channel, service)[MethodKind.LIST]
        page = method.call(
            method.request(page_size=2, country=["NO"]),
            timeout=10,
            metadata=[("traceparent", f"00-{trace_id}-{caller}-01")],
        )
    assert len(page.airports) == 2

    def complete() -> list[Span] | None:
        spans = stack.sink.trace(trace_id)
        return spans if len(spans) >= 2 else None

    spans = eventually(complete)
    server = next(span for span in spans if span.kind == Span.SPAN_KIND_SERVER)
    assert server.name == "aviation.v1.AirportService/ListAirports"
    assert server.parent_span_id.hex() == caller
    query = next(span for span in spans if span.kind == Span.SPAN_KIND_CLIENT)
    assert query.parent_span_id == server.span_id
    attributes = {one.key: one.value.string_value for one in query.attributes}
    assert "airports" in attributes["db.query.text"]
    assert "NO" not in attributes["db.query.text"].replace("NOT", "").split("'")
