"""Sees one received message through: parse, handle each record until it is terminal, then delete or hand back.

Must never delete a message whose records are not all terminal.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.trace import StatusCode

from ingest_service.consumer.admission import Admission
from ingest_service.consumer.deletes import Deletes
from ingest_service.consumer.model import ConsumerConfig, ConsumerCounts, Handle, Message, Outcome, retry
from ingest_service.consumer.queue import Queue, VisibilityLost
from ingest_service.consumer.tracing import message_span, settle_span
from ingest_service.consumer.visibility import Visibility, kept_invisible
from ingest_service.events import Event, ObjectEvent, S3TestEvent, UnknownEvent, UnparsableBody, parse_body
from ingest_service.objects.errors import ObjectChanged, is_transient
from shared.errors import PenstockError

logger = logging.getLogger(__name__)

_SETTLE_ATTEMPTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fate:
    """What to do with a message: delete it, or show it again after `visible_in_s`."""

    delete: bool = False
    visible_in_s: int = 0
    problem: str = ""


class Processor:
    """Works on messages; `stopping` makes it begin nothing new and hand back what has not begun."""

    def __init__(
        self,
        queue: Queue,
        handle: Handle,
        config: ConsumerConfig,
        counts: ConsumerCounts,
        admission: Admission,
        stopping: asyncio.Event,
        tracer_provider: trace.TracerProvider | None = None,
    ) -> None:
        self._queue = queue
        self._handle = handle
        self._config = config
        self._counts = counts
        self._admission = admission
        self._stopping = stopping
        self._deletes = Deletes(queue, config.delete_linger_s)
        self._tracer = trace.get_tracer(__name__, tracer_provider=tracer_provider)

    async def process(self, message: Message) -> None:
        """Returns when the message is deleted, handed back or lost; raises nothing. Cancelled, it hands back first."""
        with message_span(self._tracer, self._queue, message) as span:
            try:
                async with kept_invisible(self._queue, message, self._config) as visibility:
                    fate = await self._fate(message, visibility)
                    if fate.delete:
                        with self._admission.waiting():
                            await self._delete(message)
                if not fate.delete:
                    await self._show(message, fate.visible_in_s)
            except asyncio.CancelledError:
                await self._show(message, 0)
                span.set_status(StatusCode.ERROR, "handed back unfinished")
                raise
            if fate.problem:
                span.set_status(StatusCode.ERROR, fate.problem)

    async def _fate(self, message: Message, visibility: Visibility) -> _Fate:
        try:
            events = parse_body(message.body)
        except UnparsableBody as exc:
            self._counts.unparsable += 1
            logger.error(  # noqa: TRY400 - the stack says nothing that the text does not
                "message %s (receive %d) cannot be read and is left to the dead-letter queue: %s; body: %.500s",
                *(message.id, message.receive_count, exc, message.body),
            )
            return _Fate(visible_in_s=self._config.unreadable_redelivery_s, problem=f"unparsable body: {exc}")
        for event in events:
            fate = await self._finish(event, visibility)
            if not fate.delete:
                return fate
        return _Fate(delete=True)

    async def _finish(self, event: Event, visibility: Visibility) -> _Fate:
        """Handles one event, again and again while its failures are transient and the message is ours."""
        if not isinstance(event, ObjectEvent):
            self._count_other(event)
            return _Fate(delete=True)
        unexpected, handle = 0, self._handle
        for attempt in itertools.count(1):
            async with self._admission.admitted((event.bucket, event.key)):
                if self._stopping.is_set():
                    return _Fate()
                outcome = await self._attempt(handle, event)
            if outcome is not None and outcome.terminal:
                self._counts.handled += 1
                return _Fate(delete=True)
            if outcome is not None and outcome.give_back:
                return _Fate(visible_in_s=self._config.redelivery_s, problem=outcome.reason)
            handle = (outcome and outcome.rest) or handle
            unexpected += outcome is None
            if unexpected >= self._config.unexpected_attempts:
                return _Fate(visible_in_s=self._config.redelivery_s, problem="unexpected error")
            if not await self._pause(attempt, outcome, visibility):
                break
        return _Fate()

    async def _attempt(self, handle: Handle, event: ObjectEvent) -> Outcome | None:
        """None for a failure that nobody foresaw: some tries, then the dead-letter queue, where it alerts."""
        try:
            return await handle(event)
        except PenstockError as exc:
            if is_transient(exc) or isinstance(exc, ObjectChanged):
                return retry(exc.retry_after_s or 0, reason=exc.reason)
            logger.exception("s3://%s/%s: unexpected error", event.bucket, event.key)
        except Exception:
            logger.exception("s3://%s/%s: unexpected error", event.bucket, event.key)
        self._counts.unexpected += 1
        return None

    async def _pause(self, attempt: int, outcome: Outcome | None, visibility: Visibility) -> bool:
        """Waits before the next attempt; False when there must be none: the message is lost or we are stopping."""
        self._counts.retries += 1
        delay_s = self._config.retry_backoff.delay_s(attempt, random.random)
        delay_s = max(delay_s, outcome.retry_after_s if outcome else 0)
        reason = outcome.reason if outcome else "unexpected error"
        logger.info("attempt %d failed (%s); next in %.1f s", attempt, reason or "no reason given", delay_s)
        with self._admission.waiting():
            return not await _any_set(self._stopping, visibility.lost, timeout_s=delay_s)

    def _count_other(self, event: S3TestEvent | UnknownEvent) -> None:
        if isinstance(event, S3TestEvent):
            self._counts.test_events += 1
            logger.info("bucket %s announced its notifications with a test event", event.bucket)
        else:
            self._counts.unknown_events += 1
            logger.info("event %s says nothing about an object's content; acknowledged", event.event_name)

    async def _delete(self, message: Message) -> None:
        with settle_span(self._tracer, self._queue, "delete"):
            for attempt in range(1, _SETTLE_ATTEMPTS + 1):
                try:
                    await self._deletes.delete(message)
                except VisibilityLost as exc:
                    self._counts.visibility_lost += 1
                    logger.info("message %s is done but not ours to delete: %s", message.id, exc.message)
                    return
                except PenstockError as exc:
                    logger.warning("message %s is done, its delete failed: %s", message.id, exc.message)
                    await asyncio.sleep(self._config.sqs_backoff.delay_s(attempt, random.random))
                else:
                    self._counts.deleted += 1
                    return

    async def _show(self, message: Message, visible_in_s: int) -> None:
        with settle_span(self._tracer, self._queue, "release"):
            try:
                async with asyncio.timeout(self._config.hand_back_s):
                    await self._queue.set_visibility(message, visible_in_s)
            except VisibilityLost:
                self._counts.visibility_lost += 1
            except (PenstockError, TimeoutError) as exc:
                # It becomes visible by itself when its timeout ends.
                logger.warning("message %s could not be handed back: %s", message.id, exc)
            else:
                self._counts.handed_back += 1


async def _any_set(*events: asyncio.Event, timeout_s: float) -> bool:
    """Whether one of the events was set within the time."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
