"""Facts and errors as S3 implementations word them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import aiohttp
import pytest
from botocore.exceptions import ClientError, NoCredentialsError, ReadTimeoutError

from ingest_service.backoff import Backoff
from ingest_service.objects import ObjectChanged, ObjectGone, is_transient
from ingest_service.objects.errors import Call, translate
from ingest_service.objects.model import head_of
from shared.errors import FailedPrecondition, NotFound, PenstockError, PermissionDenied, Unavailable

CALL = Call(operation="GetObject", permission="s3:GetObject", bucket="lake", key="airports/a.csv")


def answer(code: str, status: int = 400) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "GetObject")


def head(**changes: Any) -> Any:
    response = {
        "ETag": '"e"',
        "LastModified": dt.datetime(2024, 5, 6, 7, tzinfo=dt.timezone(dt.timedelta(hours=2))),
        "ContentLength": 3,
        **changes,
    }
    return head_of(response, "lake", "k")


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("gzip", "gzip"),
        ("aws-chunked", None),
        ("aws-chunked,gzip", "gzip"),
        ("gzip, aws-chunked", "gzip"),
        ("", None),
        (None, None),
    ],
)
def test_upload_chunking_is_no_content_encoding(told: str | None, read: str | None) -> None:
    assert head(ContentEncoding=told).content_encoding == read


def test_head_is_in_utc_and_without_quotes() -> None:
    facts = head(VersionId="")
    assert (facts.etag, facts.version_id) == ("e", None)
    assert facts.last_modified == dt.datetime(2024, 5, 6, 5, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("exc", "kind", "transient"),
    [
        (answer("NoSuchKey", 404), ObjectGone, False),
        (answer("404", 404), ObjectGone, False),
        (answer("405", 405), ObjectGone, False),
        (answer("NoSuchBucket", 404), NotFound, False),
        (answer("PreconditionFailed", 412), ObjectChanged, False),
        (answer("AccessDenied", 403), PermissionDenied, False),
        (answer("KMS.DisabledException", 400), PermissionDenied, False),
        (answer("InvalidObjectState", 403), FailedPrecondition, False),
        (answer("InvalidRequest", 400), FailedPrecondition, False),
        (answer("301", 301), FailedPrecondition, False),
        (answer("ExpiredToken", 400), Unavailable, True),
        (answer("RequestTimeTooSkewed", 403), Unavailable, True),
        (answer("SlowDown", 503), Unavailable, True),
        (answer("RequestTimeout", 400), Unavailable, True),
        (answer("InternalError", 500), Unavailable, True),
        (answer("whatever", 502), Unavailable, True),
        (NoCredentialsError(), Unavailable, True),
        (ReadTimeoutError(endpoint_url="http://s3"), Unavailable, True),
        (aiohttp.ClientPayloadError("cut"), Unavailable, True),
        (TimeoutError(), Unavailable, True),
        (ConnectionResetError(), Unavailable, True),
    ],
)
def test_one_table_tells_transient_from_permanent(exc: Exception, kind: type[PenstockError], transient: bool) -> None:
    error = translate(exc, CALL)
    assert type(error) is kind
    assert is_transient(error) is transient
    assert "s3://lake/airports/a.csv" in error.message or kind is NotFound


def test_back_off_doubles_up_to_its_cap_with_jitter_below() -> None:
    backoff = Backoff(base_s=1, cap_s=10)
    assert [backoff.delay_s(attempt, lambda: 1.0) for attempt in (1, 2, 3, 4, 5, 5000)] == [1, 2, 4, 8, 10, 10]
    assert backoff.delay_s(3, lambda: 0.0) == 2
