"""The one table from error class to gRPC status, and the google.rpc details that go with it.

Must never send the text of an unexpected exception to a caller: that goes to the log under the same trace id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from shared import errors

DOMAIN = "penstock"
DETAILS_KEY = "grpc-status-details-bin"

STATUS_CODES: Mapping[type[errors.PenstockError], StatusCode] = {
    errors.PenstockError: StatusCode.INTERNAL,
    errors.ConfigError: StatusCode.INTERNAL,
    errors.ContractError: StatusCode.FAILED_PRECONDITION,
    errors.InvalidRequest: StatusCode.INVALID_ARGUMENT,
    errors.NotFound: StatusCode.NOT_FOUND,
    errors.AlreadyExists: StatusCode.ALREADY_EXISTS,
    errors.PermissionDenied: StatusCode.PERMISSION_DENIED,
    errors.Unauthenticated: StatusCode.UNAUTHENTICATED,
    errors.FailedPrecondition: StatusCode.FAILED_PRECONDITION,
    errors.Aborted: StatusCode.ABORTED,
    errors.OutOfRange: StatusCode.OUT_OF_RANGE,
    errors.Unimplemented: StatusCode.UNIMPLEMENTED,
    errors.Unavailable: StatusCode.UNAVAILABLE,
    errors.ResourceExhausted: StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
}

# All trailing metadata of a response must fit the client's 8 KiB default; a text may triple when percent-encoded, and
# the details grow by a third as base64.
_MAX_MESSAGE_BYTES = 1024
_MAX_STATUS_BYTES = 3072
# Callers choose how many fields they get wrong; each one is looked at more than once below.
_MOST_VIOLATIONS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcStatus:
    """A status ready for `context.abort(code, message, trailing)`."""

    code: StatusCode
    message: str
    trailing: tuple[tuple[str, bytes], ...] = ()


def code_of(exc: BaseException) -> StatusCode:
    """The status code of an error; what is not in the table is INTERNAL, a passed time limit is not."""
    for cls in type(exc).__mro__:
        if cls in STATUS_CODES:
            return STATUS_CODES[cls]
    return StatusCode.DEADLINE_EXCEEDED if isinstance(exc, TimeoutError) else StatusCode.INTERNAL


def status_of(exc: BaseException, trace_id: str) -> RpcStatus:
    """The status that a caller sees; INTERNAL has a fixed text with the trace id to search the log for."""
    code = code_of(exc)
    if code is StatusCode.INTERNAL:
        text = f"internal error; the server's log has the cause under trace id {trace_id}"
        info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata={"trace_id": trace_id})
        return _packed(code, text, [info])
    if isinstance(exc, errors.PenstockError):
        return _packed(code, exc.message, _details(exc))
    info = error_details_pb2.ErrorInfo(reason="TIME_LIMIT", domain=DOMAIN)
    return _packed(code, "the time limit passed before the work was done", [info])


def _details(exc: errors.PenstockError) -> list[Message]:
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=exc.reason, domain=DOMAIN, metadata=exc.metadata),
    ]
    if exc.retry_after_s is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=_duration(exc.retry_after_s)))
    if isinstance(exc, errors.InvalidRequest):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=_clip(v.field), description=_clip(v.description))
            for v in exc.violations[:_MOST_VIOLATIONS]
        ]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    return details


def _packed(code: StatusCode, text: str, details: list[Message]) -> RpcStatus:
    message = _clip(text)
    number: int = code.value[0]
    status = status_pb2.Status(code=number, message=message)
    for detail in details:
        status.details.add().Pack(_fitting(detail, _MAX_STATUS_BYTES - status.ByteSize()))
    return RpcStatus(code=code, message=message, trailing=((DETAILS_KEY, status.SerializeToString()),))


def _fitting(detail: Message, budget_bytes: int) -> Message:
    """The detail with as many of its violations or metadata entries as the budget holds, first ones first."""
    if isinstance(detail, error_details_pb2.BadRequest):
        while len(detail.field_violations) > 1 and detail.ByteSize() > budget_bytes:
            del detail.field_violations[-1]
    if isinstance(detail, error_details_pb2.ErrorInfo):
        while detail.metadata and detail.ByteSize() > budget_bytes:
            del detail.metadata[max(detail.metadata, key=lambda key: len(detail.metadata[key]))]
    return detail


def _clip(text: str) -> str:
    raw = text.encode("utf-8", "replace")
    if len(raw) <= _MAX_MESSAGE_BYTES:
        return raw.decode()
    return raw[: _MAX_MESSAGE_BYTES - 3].decode("utf-8", "ignore") + "..."


def _duration(seconds: float) -> Duration:
    delay = Duration()
    delay.FromNanoseconds(max(0, round(seconds * 1e9)))
    return delay
