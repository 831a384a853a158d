"""IngestService as its callers see it: Populate, Unload and the ledger, over mTLS on a whole stack."""

from __future__ import annotations

import base64
import json
import secrets
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc

from shared.client.service import ServiceClient, connect
from tests.e2e.running_stack import RunningStack, eventually

pytestmark = pytest.mark.xdist_group("e2e")

HEADER = "icao,name,country,lat,lon\n"


@pytest.fixture
def stub(stack: RunningStack) -> Iterator[ingest_pb2_grpc.IngestServiceStub]:
    with stack.channel("INGEST") as channel:
        yield ingest_pb2_grpc.IngestServiceStub(channel)


@pytest.fixture
def airports(stack: RunningStack) -> Iterator[ServiceClient]:
    with connect("aviation.v1.AirportService", environ=stack.environment) as client:
        yield client


def code_of() -> str:
    """A key that no other test uses: four letters and digits."""
    return secrets.token_hex(2).upper()


def put_quietly(stack: RunningStack, key: str, text: str) -> str:
    """Puts an object where no dataset listens to events, so that only Populate loads it."""
    bucket = stack.environment["PENSTOCK_BUCKET"]
    stack.s3().put_object(Bucket=bucket, Key=key, Body=text.encode())
    return f"s3://{bucket}/{key}"


def populate(
    stub: ingest_pb2_grpc.IngestServiceStub, **fields: object
) -> tuple[list[ingest_pb2.PopulateResponse], list[ingest_pb2.Load]]:
    responses = list(stub.Populate(ingest_pb2.PopulateRequest(**fields), timeout=60))  # type: ignore[arg-type]
    return responses, list(responses[-1].loads)


def error_info(error: Any) -> error_details_pb2.ErrorInfo:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return info


def test_populate_streams_progress_and_ends_with_its_loads(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub, airports: ServiceClient
) -> None:
    code = code_of()
    uri = put_quietly(stack, f"backfill/{code}.csv", f"{HEADER}{code},Here,NO,1,2\n")
    responses, loads = populate(stub, uri=uri, dataset="airports")
    assert [load.state for load in loads] == [ingest_pb2.LOAD_STATE_SUCCEEDED]
    assert loads[0].rows_read == loads[0].rows_inserted == 1
    progress = [response.progress for response in responses[:-1]]
    assert progress
    assert {one.load_id for one in progress} == {loads[0].id}
    assert progress[-1].phase == ingest_pb2.LOAD_PHASE_DONE
    assert progress[-1].bytes_read == progress[-1].bytes_total == loads[0].size_bytes
    assert airports.get(icao=code).name == "Here"


def test_populate_again_is_already_applied_and_force_merges_again(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub
) -> None:
    code = code_of()
    uri = put_quietly(stack, f"backfill/{code}.csv", f"{HEADER}{code},Here,NO,1,2\n")
    _, (first,) = populate(stub, uri=uri, dataset="airports")
    _, (again,) = populate(stub, uri=uri, dataset="airports")
    _, (forced,) = populate(stub, uri=uri, dataset="airports", force=True)
    assert again.state == ingest_pb2.LOAD_STATE_ALREADY_APPLIED
    assert again.reason == "VERSION_ALREADY_APPLIED"
    assert again.dataset_version == first.dataset_version
    assert forced.state == ingest_pb2.LOAD_STATE_SUCCEEDED
    assert (forced.rows_unchanged, forced.rows_inserted, forced.rows_updated) == (1, 0, 0)


def test_populate_of_a_prefix_loads_the_oldest_object_first(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub, airports: ServiceClient
) -> None:
    code = code_of()
    for name in ("b", "a"):  # S3 lists by key; what was written last has to win
        put_quietly(stack, f"backfill/{code}/{name}.csv", f"{HEADER}{code},{name},NO,1,2\n")
    bucket = stack.environment["PENSTOCK_BUCKET"]
    _, loads = populate(stub, prefix=f"s3://{bucket}/backfill/{code}/", dataset="airports")
    assert len(loads) == 2
    assert all(load.state == ingest_pb2.LOAD_STATE_SUCCEEDED for load in loads)
    last = max(loads, key=lambda load: load.last_modified.ToNanoseconds())
    assert airports.get(icao=code).name == loads[-1].uri.removesuffix(".csv")[-1]
    assert loads[-1].last_modified == last.last_modified


def test_validate_only_writes_nothing_but_the_ledger(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub, airports: ServiceClient
) -> None:
    code = code_of()
    uri = put_quietly(stack, f"backfill/{code}.csv", f"{HEADER}{code},Here,NO,1,2\n")
    _, (load,) = populate(stub, uri=uri, dataset="airports", validate_only=True)
    assert load.state == ingest_pb2.LOAD_STATE_VALIDATED
    assert load.rows_read == 1
    with pytest.raises(grpc.RpcError) as caught:
        airports.get(icao=code)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_same_request_id_attaches_and_other_fields_are_refused(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub
) -> None:
    code, request_id = code_of(), str(uuid.uuid4())
    uri = put_quietly(stack, f"backfill/{code}.csv", f"{HEADER}{code},Here,NO,1,2\n")
    _, first = populate(stub, uri=uri, dataset="airports", request_id=request_id)
    _, second = populate(stub, uri=uri, dataset="airports", request_id=request_id)
    assert [load.id for load in first] == [load.id for load in second]
    with pytest.raises(grpc.RpcError) as caught:
        populate(stub, uri=uri, dataset="airports", request_id=request_id, force=True)
    assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
    assert error_info(caught.value).reason == "REQUEST_ID_REUSED"


def test_caller_that_goes_away_cancels_nothing(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub, airports: ServiceClient
) -> None:
    code, request_id = code_of(), str(uuid.uuid4())
    rows = "".join(f"{code},row {number},NO,1,2\n" for number in range(20_000))
    uri = put_quietly(stack, f"backfill/{code}.csv", HEADER + rows)
    request = ingest_pb2.PopulateRequest(uri=uri, dataset="airports", request_id=request_id)
    call: Any = stub.Populate(request, timeout=60)
    next(iter(call))
    call.cancel()
    _, (load,) = populate(stub, uri=uri, dataset="airports", request_id=request_id)
    assert load.state == ingest_pb2.LOAD_STATE_SUCCEEDED
    assert load.rows_duplicate == 19_999
    assert airports.get(icao=code).name == "row 19999"


def test_bad_row_fails_the_load_naming_line_field_and_rule_and_touches_nothing(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub, airports: ServiceClient
) -> None:
    code = code_of()
    text = f"{HEADER}{code},Here,NO,1,2\nbad key,There,NO,1,2\n{code},X,NO,not a number,2\n"
    uri = put_quietly(stack, f"backfill/{code}.csv", text)
    _, (load,) = populate(stub, uri=uri, dataset="airports")
    assert load.state == ingest_pb2.LOAD_STATE_FAILED
    assert load.reason == "TOO_MANY_REJECTS"
    assert "line 3" in load.message
    assert uri in load.message
    page = stub.ListRejects(ingest_pb2.ListRejectsRequest(load_id=load.id, page_size=1), timeout=10)
    rest = stub.ListRejects(ingest_pb2.ListRejectsRequest(load_id=load.id, page_token=page.next_page_token), timeout=10)
    rejects = [*page.rejects, *rest.rejects]
    assert [(one.line, one.field, one.rule) for one in rejects] == [
        (3, "icao", "string.pattern"),
        (4, "latitude", "type.double"),
    ]
    assert rejects[0].raw == b"bad key,There,NO,1,2"
    assert not rest.next_page_token
    with pytest.raises(grpc.RpcError):
        airports.get(icao=code)


def test_rejects_are_exported_as_lines_of_json_that_name_load_object_line_field_and_rule(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub
) -> None:
    code, bad = code_of(), 250
    rows = b"".join(b"b\xff %d,There,NO,1,2\n" % number for number in range(bad))
    bucket = stack.environment["PENSTOCK_BUCKET"]
    stack.s3().put_object(
        Bucket=bucket, Key=f"backfill/{code}.csv", Body=HEADER.encode() + b"bad key,x,NO,1,2\n" + rows
    )
    uri = f"s3://{bucket}/backfill/{code}.csv"
    _, (load,) = populate(stub, uri=uri, dataset="airports")
    *pieces, end = stub.ExportRejects(ingest_pb2.ExportRejectsRequest(load_id=load.id), timeout=30)
    lines = [json.loads(line) for line in b"".join(piece.ndjson for piece in pieces).splitlines()]
    assert len(pieces) == 3
    assert (end.rows_exported, end.rows_rejected, len(lines)) == (bad + 1, bad + 1, bad + 1)
    assert lines[0] | {"message": ""} == {
        "load": load.id,
        "dataset": "airports",
        "object": uri,
        "object_version_id": load.object_version_id,
        "line": 2,
        "field": "icao",
        "rule": "string.pattern",
        "message": "",
        "raw": "bad key,x,NO,1,2",
    }
    assert [line["line"] for line in lines] == list(range(2, bad + 3))
    assert base64.b64decode(lines[1]["raw_base64"]) == b"b\xff 0,There,NO,1,2"


def test_good_rows_survive_bad_ones_up_to_the_allowed_share(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub
) -> None:
    carrier = code_of()
    lines = [f'{{"carrier":"{carrier}","number":"1"}}', '{"carrier":"","number":2}']
    uri = put_quietly(stack, f"backfill/{carrier}.ndjson", "\n".join(lines))
    _, (load,) = populate(stub, uri=uri, dataset="shipments")
    assert load.state == ingest_pb2.LOAD_STATE_SUCCEEDED
    assert (load.rows_inserted, load.rows_rejected) == (1, 1)


def test_unload_names_the_objects_whose_rows_do_not_come_back_and_a_forced_populate_restores_them(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub, airports: ServiceClient
) -> None:
    code = code_of()
    uris = [put_quietly(stack, f"backfill/{code}-{n}.csv", f"{HEADER}{code},{n},NO,1,2\n") for n in ("one", "two")]
    for uri in uris:
        populate(stub, uri=uri, dataset="airports")
    answer = stub.Unload(ingest_pb2.UnloadRequest(uri=uris[1], dataset="airports"), timeout=10)
    assert (answer.load.rows_deleted, answer.rows_not_restored) == (1, 1)
    assert list(answer.not_restored_uris) == [uris[0]]
    assert uris[0] in answer.load.message
    populate(stub, uri=uris[0], dataset="airports", force=True)
    assert airports.get(icao=code).name == "one"


def test_unload_takes_back_what_the_object_put_there(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub, airports: ServiceClient
) -> None:
    code = code_of()
    uri = put_quietly(stack, f"backfill/{code}.csv", f"{HEADER}{code},Here,NO,1,2\n")
    _, (loaded,) = populate(stub, uri=uri, dataset="airports")
    unload = stub.Unload(ingest_pb2.UnloadRequest(uri=uri, dataset="airports"), timeout=10).load
    assert unload.state == ingest_pb2.LOAD_STATE_SUCCEEDED
    assert unload.trigger == ingest_pb2.LOAD_TRIGGER_UNLOAD
    assert unload.rows_deleted == 1
    assert unload.dataset_version > loaded.dataset_version
    with pytest.raises(grpc.RpcError) as caught:
        airports.get(icao=code)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    _, (again,) = populate(stub, uri=uri, dataset="airports")
    assert again.state == ingest_pb2.LOAD_STATE_SUCCEEDED


REFUSED = [
    ({}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SOURCE"),
    ({"uri": "s3://b/k", "prefix": "s3://b/"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SOURCE"),
    ({"uri": "http://b/k", "dataset": "airports"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_URI"),
    ({"uri": "s3://secret/k", "dataset": "airports"}, grpc.StatusCode.PERMISSION_DENIED, "BUCKET_NOT_CONFIGURED"),
    ({"uri": "s3://penstock/k", "dataset": "nope"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_URI"),
    (
        {"uri": "s3://penstock/k", "dataset": "airports", "request_id": "x"},
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_ID",
    ),
]


@pytest.mark.parametrize(("fields", "code", "reason"), REFUSED)
def test_wrong_populate_request_is_refused_with_its_reason(
    stub: ingest_pb2_grpc.IngestServiceStub, fields: dict[str, str], code: grpc.StatusCode, reason: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        populate(stub, **fields)
    assert caught.value.code() == code
    assert error_info(caught.value).reason == reason


def test_object_that_is_not_there_fails_with_its_name(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub
) -> None:
    uri = f"s3://{stack.environment['PENSTOCK_BUCKET']}/airports/nothing-here.csv"
    _, (load,) = populate(stub, uri=uri)
    assert load.state == ingest_pb2.LOAD_STATE_FAILED
    assert load.reason == "OBJECT_GONE"
    assert uri in load.message


def test_loads_are_listed_newest_first_by_dataset_state_and_object(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub
) -> None:
    code = code_of()
    uri = put_quietly(stack, f"backfill/{code}.csv", f"{HEADER}{code},Here,NO,1,2\n")
    for _ in range(3):
        populate(stub, uri=uri, dataset="airports")
    request = ingest_pb2.ListLoadsRequest(uri=uri, page_size=2)
    page = stub.ListLoads(request, timeout=10)
    request.page_token = page.next_page_token
    rest = stub.ListLoads(request, timeout=10)
    found = [*page.loads, *rest.loads]
    assert len(found) == 3
    assert not rest.next_page_token
    assert [one.create_time.ToNanoseconds() for one in found] == sorted(
        (one.create_time.ToNanoseconds() for one in found), reverse=True
    )
    applied = [ingest_pb2.LOAD_STATE_ALREADY_APPLIED]
    narrowed = stub.ListLoads(
        ingest_pb2.ListLoadsRequest(uri=uri, states=applied, dataset="airports"), timeout=10
    ).loads
    assert len(narrowed) == 2
    assert stub.GetLoad(ingest_pb2.GetLoadRequest(id=found[0].id), timeout=10) == found[0]


def test_page_token_of_another_request_is_refused(stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub) -> None:
    code = code_of()
    uri = put_quietly(stack, f"backfill/{code}.csv", f"{HEADER}{code},Here,NO,1,2\n")
    populate(stub, uri=uri, dataset="airports")
    populate(stub, uri=uri, dataset="airports")
    token = stub.ListLoads(ingest_pb2.ListLoadsRequest(uri=uri, page_size=1), timeout=10).next_page_token
    for other in (token[:-3], "garbage", token):
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListLoads(ingest_pb2.ListLoadsRequest(page_token=other, dataset="airports"), timeout=10)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert error_info(caught.value).reason == "PAGE_TOKEN_INVALID"


def test_upload_is_awaited_until_its_rows_can_be_read_in_one_call(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub, airports: ServiceClient
) -> None:
    code, bucket = code_of(), stack.environment["PENSTOCK_BUCKET"]
    key, body = f"airports/{code}.csv", f"{HEADER}{code},Here,NO,1,2\n".encode()
    version = stack.s3().put_object(Bucket=bucket, Key=key, Body=body)["VersionId"]
    request = ingest_pb2.WatchLoadsRequest(uri=f"s3://{bucket}/{key}", object_version_id=version, until_settled=True)
    *_, last = stub.WatchLoads(request, timeout=30)
    assert last.settled
    assert last.load.state == ingest_pb2.LOAD_STATE_SUCCEEDED
    assert last.load.dataset_version > 0
    assert airports.get(icao=code).name == "Here"
    request.resume_token = last.resume_token
    request.until_settled = False
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.WatchLoads(request, timeout=5))
    assert error_info(caught.value).reason == "RESUME_TOKEN_INVALID", "the token is of another request"


def test_retry_loads_the_mended_object_and_streams_as_populate_does(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub, airports: ServiceClient
) -> None:
    code = code_of()
    uri = put_quietly(stack, f"backfill/{code}.csv", f"{HEADER}bad key,Here,NO,1,2\n")
    _, (failed,) = populate(stub, uri=uri, dataset="airports")
    assert failed.state == ingest_pb2.LOAD_STATE_FAILED
    put_quietly(stack, f"backfill/{code}.csv", f"{HEADER}{code},Here,NO,1,2\n")
    *progress, last = stub.RetryLoad(ingest_pb2.RetryLoadRequest(id=failed.id), timeout=60)
    (load,) = last.loads
    assert (load.state, load.trigger) == (ingest_pb2.LOAD_STATE_SUCCEEDED, ingest_pb2.LOAD_TRIGGER_RETRY)
    assert (load.uri, load.dataset, load.request_id) == (uri, "airports", last.request_id)
    assert {one.progress.load_id for one in progress} == {load.id}
    assert airports.get(icao=code).name == "Here"


def test_reconcile_tells_what_is_missing_and_then_loads_it(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub, airports: ServiceClient
) -> None:
    code = code_of()
    load = stack.upload(f"airports/{code}.csv", f"{HEADER}{code},Here,NO,1,2\n".encode())
    with psycopg.connect(stack.environment["PENSTOCK_DATABASE_URL"]) as connection:
        connection.execute("DELETE FROM data.airports WHERE icao = %s", (code,))
        connection.execute("DELETE FROM penstock.objects WHERE key = %s", (f"airports/{code}.csv",))
    request = ingest_pb2.ReconcileRequest(datasets=["airports"], prefix=load.uri, dry_run=True)
    gap, last = stub.Reconcile(request, timeout=30)
    assert (gap.gap.kind, gap.gap.uri, gap.gap.dataset) == (ingest_pb2.GAP_KIND_MISSING, load.uri, "airports")
    assert (gap.gap.last_modified.seconds, gap.gap.size_bytes) == (load.last_modified.seconds, load.size_bytes)
    (counts,) = last.counts
    assert (counts.dataset, counts.objects_listed, counts.missing, counts.mended) == ("airports", 1, 1, 0)
    request.dry_run = False
    gap, last = stub.Reconcile(request, timeout=30)
    assert gap.gap.load.state == ingest_pb2.LOAD_STATE_SUCCEEDED
    assert gap.gap.load.trigger == ingest_pb2.LOAD_TRIGGER_RECONCILE
    assert (last.counts[0].missing, last.counts[0].mended, last.counts[0].left) == (1, 1, 0)
    assert airports.get(icao=code).name == "Here"
    (last,) = stub.Reconcile(request, timeout=30)
    assert (last.counts[0].objects_listed, last.counts[0].missing) == (1, 0)


@pytest.mark.slow
def test_service_is_not_ready_until_a_new_epoch_is_looked_into(stack: RunningStack) -> None:
    """As after a failover; another process is at it for as long as the test holds its claim."""
    claim = "UPDATE penstock.reconciles SET owner = 'test', heartbeat_at = now() + interval '1 minute'"
    with (
        stack.channel("INGEST") as channel,
        psycopg.connect(stack.environment["PENSTOCK_DATABASE_URL"], autocommit=True) as connection,
    ):
        health = health_pb2_grpc.HealthStub(channel)

        def is_serving() -> bool:
            answer = health.Check(health_pb2.HealthCheckRequest(service="readiness"), timeout=10)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        eventually(is_serving)
        connection.execute(claim)
        connection.execute("UPDATE penstock.datasets SET epoch = gen_random_uuid() WHERE name = 'airports'")
        eventually(lambda: not is_serving())
        connection.execute("UPDATE penstock.reconciles SET heartbeat_at = NULL")
        eventually(is_serving)


def test_cancelled_load_names_the_certificate_of_who_cancelled_it(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub
) -> None:
    load_id = uuid.uuid4()
    with psycopg.connect(stack.environment["PENSTOCK_DATABASE_URL"]) as connection:
        connection.execute(
            "INSERT INTO penstock.loads (id, dataset, bucket, key, trigger, state, phase, heartbeat_at)"
            " VALUES (%s, 'airports', 'lake', 'a', 'EVENT', 'RUNNING', 'STAGING', now())",
            (load_id,),
        )
    load = stub.CancelLoad(ingest_pb2.CancelLoadRequest(id=str(load_id)), timeout=10).load
    assert load.state == ingest_pb2.LOAD_STATE_CANCELLED
    assert "cancelled by " in load.message
    assert "anonymous" not in load.message


def test_ended_load_is_not_cancelled_and_an_unload_not_retried(
    stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub
) -> None:
    code = code_of()
    uri = put_quietly(stack, f"backfill/{code}.csv", f"{HEADER}{code},Here,NO,1,2\n")
    _, (loaded,) = populate(stub, uri=uri, dataset="airports")
    with pytest.raises(grpc.RpcError) as caught:
        stub.CancelLoad(ingest_pb2.CancelLoadRequest(id=loaded.id), timeout=10)
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert error_info(caught.value).reason == "LOAD_ENDED"
    unload = stub.Unload(ingest_pb2.UnloadRequest(uri=uri, dataset="airports"), timeout=10).load
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.RetryLoad(ingest_pb2.RetryLoadRequest(id=unload.id), timeout=10))
    assert error_info(caught.value).reason == "LOAD_NOT_RETRYABLE"


@pytest.mark.parametrize("method", ["CancelLoad", "RetryLoad"])
def test_load_that_is_to_be_ended_or_retried_must_exist(stub: ingest_pb2_grpc.IngestServiceStub, method: str) -> None:
    request = getattr(ingest_pb2, f"{method}Request")
    for load_id, code in ((str(uuid.uuid4()), "NOT_FOUND"), ("x", "INVALID_ARGUMENT")):
        with pytest.raises(grpc.RpcError) as caught:
            list(getattr(stub, method)(request(id=load_id), timeout=10))
        assert caught.value.code() == grpc.StatusCode[code]


def test_unknown_load_is_not_found(stub: ingest_pb2_grpc.IngestServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ListRejects(ingest_pb2.ListRejectsRequest(load_id=str(uuid.uuid4())), timeout=10)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
