"""Which failed calls are worth another try, and after how long. Pure: no clock, no call."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Full jitter over an exponential (AWS Architecture Blog, "Exponential Backoff And Jitter")."""

    first_s: float = 0.1
    longest_s: float = 5.0
    attempts: int = 8

    def delay_s(self, attempt: int, chance: float) -> float:
        """The delay before try `attempt` (from 1); `chance` is a random number in [0, 1)."""
        ceiling: float = min(self.longest_s, self.first_s * 2 ** (attempt - 1))
        return ceiling * chance


class Retries:
    """The tries of one piece of work that can go on where it stopped: counted anew after each progress."""

    def __init__(self, backoff: Backoff | None = None, *, chance: random.Random | None = None) -> None:
        self._backoff = backoff or Backoff()
        self._chance = chance or random.Random()  # noqa: S311 - spreads clients, guards nothing
        self._failures = 0

    def progressed(self) -> None:
        """The server answered: earlier failures are forgiven."""
        self._failures = 0

    def delay_s(self, error: grpc.RpcError) -> float:
        """How long to wait before the next try; raises `error` where none makes sense."""
        self._failures += 1
        told_s = retry_info_s(error)
        if not (told_s is not None or _code(error) is grpc.StatusCode.UNAVAILABLE):
            raise error
        if self._failures >= self._backoff.attempts:
            raise error
        return self._backoff.delay_s(self._failures, self._chance.random()) + (told_s or 0.0)


def retry_info_s(error: grpc.RpcError) -> float | None:
    """The delay that the server asked for (google.rpc.RetryInfo), in seconds."""
    trailers: Any = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    for key, value in trailers or ():
        if key == _DETAILS_KEY:
            return _retry_delay_s(status_pb2.Status.FromString(value))
    return None


def _retry_delay_s(status: status_pb2.Status) -> float | None:
    info = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return float(info.retry_delay.seconds) + float(info.retry_delay.nanos) / 1e9
    return None


def _code(error: grpc.RpcError) -> grpc.StatusCode | None:
    code: grpc.StatusCode | None = error.code() if hasattr(error, "code") else None
    return code
