"""The table of errors and statuses: complete, with details that fit a response's trailers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from shared import errors
from shared.rpc.status import STATUS_CODES, code_of, status_of


def subclasses(cls: type[errors.PenstockError]) -> Iterator[type[errors.PenstockError]]:
    """All classes of the tree that `shared.errors` defines."""
    yield cls
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from subclasses(child)


def parsed(trailing: tuple[tuple[str, bytes], ...]) -> status_pb2.Status:
    """The status in grpc-status-details-bin."""
    ((key, value),) = trailing
    assert key == "grpc-status-details-bin"
    return status_pb2.Status.FromString(value)


def detail(status: status_pb2.Status, kind: type[Any]) -> Any:
    """The detail of that type, which must be there."""
    message = kind()
    assert any(entry.Unpack(message) for entry in status.details)
    return message


@pytest.mark.parametrize("cls", list(subclasses(errors.PenstockError)))
def test_every_error_is_in_the_table(cls: type[errors.PenstockError]) -> None:
    assert cls in STATUS_CODES


def test_error_of_a_service_takes_the_status_of_its_parent() -> None:
    class NoSuchDataset(errors.NotFound):
        pass

    assert code_of(NoSuchDataset("x", reason="NO_DATASET")) is StatusCode.NOT_FOUND


def test_status_repeats_code_and_message_as_grpc_status_demands() -> None:
    result = status_of(errors.NotFound("nö such thing", reason="NO_ROW", metadata={"key": "1"}), "t")
    status = parsed(result.trailing)
    assert (status.code, status.message) == (5, "nö such thing") == (result.code.value[0], result.message)
    info = detail(status, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == ("NO_ROW", "penstock", {"key": "1"})


def test_retry_delay_is_sent_where_the_error_has_one() -> None:
    status = parsed(status_of(errors.Unavailable("x", reason="X", retry_after_s=1.25), "t").trailing)
    assert detail(status, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 1250
    without = parsed(status_of(errors.Unavailable("x", reason="X"), "t").trailing)
    assert not any(entry.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for entry in without.details)


@pytest.mark.parametrize(
    "exc",
    [RuntimeError("s3cret"), errors.ConfigError("s3cret", reason="X"), errors.PenstockError("s3cret", reason="X")],
)
def test_internal_errors_show_the_trace_id_and_nothing_of_their_own(exc: Exception) -> None:
    result = status_of(exc, "abc123")
    assert result.code is StatusCode.INTERNAL
    assert "abc123" in result.message
    assert "s3cret" not in repr(result)


def test_time_limits_are_not_internal_errors() -> None:
    assert code_of(TimeoutError()) is StatusCode.DEADLINE_EXCEEDED
    assert code_of(errors.DeadlineExceeded("x", reason="X")) is StatusCode.DEADLINE_EXCEEDED


def test_a_thousand_violations_still_fit_the_trailers() -> None:
    violations = [errors.FieldViolation(field=f"field_{n}", description="ö" * 300) for n in range(1000)]
    result = status_of(errors.InvalidRequest(violations), "t")
    assert len(result.trailing[0][1]) < 4096
    assert len(result.message.encode()) <= 1024
    first = detail(parsed(result.trailing), error_details_pb2.BadRequest).field_violations[0]
    assert first.field == "field_0"


def test_oversized_metadata_is_dropped_and_the_reason_stays() -> None:
    exc = errors.Aborted("x", reason="CHANGED", metadata={"short": "1", "long": "x" * 100_000})
    info = detail(parsed(status_of(exc, "t").trailing), error_details_pb2.ErrorInfo)
    assert (info.reason, dict(info.metadata)) == ("CHANGED", {"short": "1"})


def test_lone_surrogates_in_a_message_do_not_break_the_answer() -> None:
    assert status_of(errors.NotFound("\ud800", reason="X"), "t").message == "?"


def test_as_many_violations_as_a_request_can_hold_cost_no_time() -> None:
    # 39 kB of unknown fields once held up the event loop for 4 s, and 4 MB for hours.
    violations = [errors.FieldViolation(field=str(n), description="there is no such field") for n in range(100_000)]
    started = time.process_time()
    result = status_of(errors.InvalidRequest(violations), "t")
    assert time.process_time() - started < 1
    assert len(result.trailing[0][1]) <= 3072
    assert "and 99980 more" in str(errors.InvalidRequest(violations))
