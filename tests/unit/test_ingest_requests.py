"""What a hostile caller may send to IngestService is his mistake, never ours."""

from __future__ import annotations

import uuid
from typing import Any, cast

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from penstock.ingest.v1 import ingest_pb2

from ingest_service import page_tokens
from ingest_service.ledger.records import LeftOut, Load, LoadState, LoadTrigger, ObjectVersion, ReadCounts
from ingest_service.populate import retry_request
from ingest_service.rejects_request import rejects_request
from ingest_service.rpc import IngestRpc
from ingest_service.sources import sources_by_name
from shared.errors import FailedPrecondition, InvalidRequest, PermissionDenied
from tests.unit.ledger_loads import load_of

NOWHERE: Any = None


def rpc() -> IngestRpc:
    """Without a database: what is refused must be refused before it is asked."""
    return IngestRpc(
        pool=NOWHERE,
        datasets={},
        sources=sources_by_name([], ["b"]),
        populates=NOWHERE,
        unloader=NOWHERE,
        reconciler=NOWHERE,
        watch=NOWHERE,
    )


@pytest.mark.parametrize("cursor", [["soon", "x"], [1], ["2024-01-01T00:00:00+00:00", "no uuid"], []])
async def test_forged_page_token_of_loads_is_refused(cursor: list[str | int]) -> None:
    request = ingest_pb2.ListLoadsRequest(dataset="d")
    request.page_token = page_tokens.encode(request, cursor)
    with pytest.raises(InvalidRequest, match="page_token"):
        await rpc().ListLoads(request, NOWHERE)


@pytest.mark.parametrize("cursor", [["x"], [], [1, 2]])
async def test_forged_page_token_of_rejects_is_refused(cursor: list[str | int]) -> None:
    request = ingest_pb2.ListRejectsRequest(load_id=str(uuid.uuid4()))
    request.page_token = page_tokens.encode(request, cursor)
    with pytest.raises(InvalidRequest, match="page_token"):
        await rpc().ListRejects(request, NOWHERE)


@pytest.mark.parametrize("fields", [{"dataset": "a\x00"}, {"uri": "s3://b\x00/k"}, {"uri": "s3://b/k\x00"}])
async def test_nul_is_refused_by_field(fields: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await rpc().ListLoads(ingest_pb2.ListLoadsRequest(**cast("dict[str, Any]", fields)), NOWHERE)
    assert [violation.field for violation in refused.value.violations] == list(fields)


@pytest.mark.parametrize("token", [b"x", b"\xff", b""])
@pytest.mark.parametrize("cursor", [["x"], [], [1], [1, 2, 3]])
async def test_forged_resume_token_of_a_watch_is_refused(cursor: list[str | int], token: bytes) -> None:
    request = ingest_pb2.WatchLoadsRequest(dataset="d")
    request.resume_token = token or page_tokens.encode(request, cursor).encode()
    with pytest.raises(InvalidRequest, match="resume_token") as refused:
        await anext(aiter(rpc().WatchLoads(request, NOWHERE)))
    assert refused.value.reason == "RESUME_TOKEN_INVALID"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "uri"),
        ({"dataset": "d", "etag": "e"}, "etag"),
        ({"dataset": "d", "object_version_id": "v"}, "object_version_id"),
        ({"dataset": "\x00"}, "dataset"),
        ({"uri": "nowhere"}, "uri"),
    ],
)
async def test_watch_of_nothing_is_refused_by_field(fields: dict[str, str], field: str) -> None:
    request = ingest_pb2.WatchLoadsRequest(**cast("dict[str, Any]", fields))
    with pytest.raises(InvalidRequest) as refused:
        await anext(aiter(rpc().WatchLoads(request, NOWHERE)))
    assert [violation.field for violation in refused.value.violations] == [field]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"datasets": ["none"]}, "datasets"),
        ({"prefix": "b/in/"}, "prefix"),
        ({"modified_since": Timestamp(seconds=9), "modified_before": Timestamp(seconds=9)}, "modified_before"),
        ({"modified_since": Timestamp(seconds=2**60)}, "modified_since"),
    ],
)
async def test_reconcile_of_what_cannot_be_is_refused_by_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await anext(aiter(rpc().Reconcile(ingest_pb2.ReconcileRequest(**fields), NOWHERE)))
    assert [violation.field for violation in refused.value.violations] == [field]


async def test_reconcile_of_a_bucket_beside_the_sources_is_denied() -> None:
    with pytest.raises(PermissionDenied):
        await anext(aiter(rpc().Reconcile(ingest_pb2.ReconcileRequest(prefix="s3://other/"), NOWHERE)))


async def test_form_in_which_retries_are_stored_is_no_request_of_callers() -> None:
    request = ingest_pb2.PopulateRequest(uri="s3://b/k", dataset="d", retry_of=str(uuid.uuid4()))
    with pytest.raises(InvalidRequest, match="call RetryLoad instead"):
        await anext(aiter(rpc().Populate(request, NOWHERE)))


@pytest.mark.parametrize("field", ["uri", "prefix", "dataset", "force"])
async def test_rejects_of_a_load_name_object_and_dataset_and_take_no_force(field: str) -> None:
    value: Any = True if field == "force" else "s3://b/k"
    request = ingest_pb2.PopulateRequest(rejects_of=str(uuid.uuid4()), **{field: value})
    with pytest.raises(InvalidRequest) as refused:
        await anext(aiter(rpc().Populate(request, NOWHERE)))
    assert [violation.field for violation in refused.value.violations] == [field]


async def test_rejects_of_what_is_no_load_are_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        await anext(aiter(rpc().Populate(ingest_pb2.PopulateRequest(rejects_of="x"), NOWHERE)))
    assert (refused.value.reason, refused.value.violations[0].field) == ("INVALID_ID", "rejects_of")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": LoadState.RUNNING}, "LOAD_RUNNING"),
        ({"state": LoadState.FAILED, "reason": "TOO_MANY_REJECTS"}, "LOAD_LOADED_NOTHING"),
        ({"state": LoadState.VALIDATED, "validate_only": True}, "LOAD_LOADED_NOTHING"),
        ({"state": LoadState.ALREADY_APPLIED}, "LOAD_LOADED_NOTHING"),
        ({"read": ReadCounts(rows_read=9)}, "NO_REJECTS"),
        ({"trigger": LoadTrigger.UNLOAD, "read": ReadCounts()}, "NO_REJECTS"),
        ({"read": ReadCounts(rows_read=9, rows_rejected=3)}, "REJECTS_NOT_KEPT"),
    ],
)
def test_load_whose_rejects_cannot_be_had_alone_is_refused_with_its_id(changes: dict[str, Any], reason: str) -> None:
    left_out = LeftOut(load=_ended(**changes), places=(3, 4))
    with pytest.raises(FailedPrecondition) as refused:
        rejects_request(ingest_pb2.PopulateRequest(), left_out)
    assert (refused.value.reason, refused.value.metadata["load_id"]) == (reason, str(left_out.load.id))


def test_rejects_are_stored_as_a_request_of_their_object_and_retried_as_such() -> None:
    load = _ended()
    asked = ingest_pb2.PopulateRequest(rejects_of=str(load.id), validate_only=True)
    stored = rejects_request(asked, LeftOut(load=load, places=(3, 4)))
    wanted = {"uri": "s3://b/k", "dataset": "d", "rejects_of": str(load.id), "validate_only": True}
    assert stored == ingest_pb2.PopulateRequest(**cast("dict[str, Any]", wanted))
    again = retry_request(_ended(rejects_of=load.id))
    assert (again.rejects_of, again.uri, again.retry_of) == (str(load.id), "s3://b/k", str(load.id))


def _ended(**changes: Any) -> Load:
    values = {"state": LoadState.SUCCEEDED, "read": ReadCounts(rows_read=9, rows_rejected=2)}
    return load_of(ObjectVersion(bucket="b", key="k"), **(values | changes))
