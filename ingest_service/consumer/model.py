"""What the consumer is told and what it counts, as plain values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from ingest_service.backoff import Backoff
from ingest_service.events import ObjectEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one event: terminal, or to be tried again after at least `retry_after_s`. `give_back`: by another
    process, as long as the queue allows; then the dead-letter queue has it. `rest`: what the next attempt has to do,
    where a part is done."""

    terminal: bool
    retry_after_s: float = 0.0
    give_back: bool = False
    reason: str = ""
    rest: Handle | None = field(default=None, compare=False)


TERMINAL = Outcome(terminal=True)


def retry(after_s: float = 0.0, *, reason: str = "", rest: Handle | None = None) -> Outcome:
    """The event met a transient failure; the consumer's own back-off applies where it is longer than `after_s`."""
    return Outcome(terminal=False, retry_after_s=after_s, reason=reason, rest=rest)


Handle = Callable[[ObjectEvent], Awaitable[Outcome]]
Ready = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerConfig:
    """How the consumer works.

    `concurrency`: events handled at once. `in_flight_limit`: messages held in all, with those that wait for a retry or
    for an older event of their object. `visibility_timeout_s`: asked for at receive and renewed every third of it; a
    crashed pod's messages come back after it. `visibility_cap_s`: SQS allows 12 h from receive on; past the cap no
    attempt begins. `redelivery_s`: when a message that this process gives up comes again; `unreadable_redelivery_s`:
    one that nobody can read, which is on its way to the dead-letter queue. `delete_linger_s`: for so long a message
    that is done waits for others, to be deleted together. `receive_linger_s`: for so long, less than half of the places
    that are free wait for others, to be filled by one receive.
    """

    concurrency: int = 4
    in_flight_limit: int = 40
    wait_s: int = 20
    visibility_timeout_s: int = 60
    visibility_cap_s: float = 11 * 3600
    retry_backoff: Backoff = field(default_factory=lambda: Backoff(base_s=1, cap_s=120))
    sqs_backoff: Backoff = field(default_factory=lambda: Backoff(base_s=0.5, cap_s=30))
    ready_poll_s: float = 1.0
    redelivery_s: int = 30
    unreadable_redelivery_s: int = 5
    unexpected_attempts: int = 3
    delete_linger_s: float = 0.1
    receive_linger_s: float = 0.01
    drain_s: float = 30.0
    hand_back_s: float = 5.0


@dataclass(slots=True, kw_only=True)
class ConsumerCounts:
    """Since the start of the process."""

    received: int = 0
    deleted: int = 0
    handled: int = 0
    retries: int = 0
    test_events: int = 0
    unknown_events: int = 0
    unparsable: int = 0
    unexpected: int = 0
    visibility_lost: int = 0
    handed_back: int = 0
    receive_failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One receive of one SQS message. `received_s` is on the event loop's clock, the `_ns` are Unix time."""

    id: str
    receipt_handle: str = field(repr=False)
    body: str = field(repr=False)
    receive_count: int
    received_s: float
    asked_ns: int
    received_ns: int
    trace_headers: Mapping[str, str]
