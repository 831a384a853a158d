"""The one error tree. Pure: no driver, no gRPC. `shared/rpc/status.py` maps each class to a gRPC status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """A field of a request and what is wrong with it (google.rpc.BadRequest)."""

    field: str
    description: str


class PenstockError(Exception):
    """Base of all expected errors.

    `reason` is stable UPPER_SNAKE_CASE (google.rpc.ErrorInfo.reason), `message` one line that says what to do,
    `metadata` goes into ErrorInfo, `retry_after_s` into RetryInfo where set.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s


class ConfigError(PenstockError):
    """A setting is missing or wrong: the process refuses to start."""


class ContractError(PenstockError):
    """A contract breaks a rule; `problems` are lines of `file: message.field: reason`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems), reason="CONTRACT_INVALID")
        self.problems = tuple(problems)


# How many violations a message spells out: callers choose how many there are.
MOST_NAMED = 20


class InvalidRequest(PenstockError):
    """The caller sent something that can never work; `violations` name the fields."""

    def __init__(self, violations: Sequence[FieldViolation], *, reason: str = "INVALID_REQUEST") -> None:
        named = [f"{v.field}: {v.description}" if v.field else v.description for v in violations[:MOST_NAMED]]
        more = [f"and {len(violations) - MOST_NAMED} more"] if len(violations) > MOST_NAMED else []
        message = "; ".join([*named, *more])
        super().__init__(message, reason=reason)
        self.violations = tuple(violations)


class NotFound(PenstockError):
    """The thing asked for does not exist."""


class AlreadyExists(PenstockError):
    """The thing exists with other content (a request_id used again with other fields)."""


class PermissionDenied(PenstockError):
    """The caller's identity is known and may not do this."""


class Unauthenticated(PenstockError):
    """The caller has no usable identity."""


class FailedPrecondition(PenstockError):
    """The state of the system forbids it; retrying without a change of state is useless."""


class Aborted(PenstockError):
    """A consistency demand of the caller cannot be met (require_same_version)."""


class OutOfRange(PenstockError):
    """What is asked for was there and is no longer kept; start again from what is."""


class Unimplemented(PenstockError):
    """Declared in the contract and not served by this version."""


class Unavailable(PenstockError):
    """A dependency or this server cannot serve now; retry after `retry_after_s`."""


class ResourceExhausted(PenstockError):
    """A limit was reached; retry after `retry_after_s` or ask for less."""


class DeadlineExceeded(PenstockError):
    """The time limit of the request passed before the work was done."""
