"""The receiving loop: takes from the queue what can be started now, and nothing while the database is down."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

from opentelemetry.trace import TracerProvider

from ingest_service.consumer.admission import Admission
from ingest_service.consumer.model import ConsumerConfig, ConsumerCounts, Handle, Message, Ready
from ingest_service.consumer.process import Processor
from ingest_service.consumer.queue import Queue
from shared.errors import PenstockError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Consumer:
    """Receives messages and has them processed. `run()` until `stop()`; tests drive `run_once()` and `idle()`.

    `handle` is called once per object event and attempt, never twice at once for the same object. `ready` is asked
    before every receive: a message received while nothing can be committed only burns one of its receives.
    """

    def __init__(
        self,
        queue: Queue,
        handle: Handle,
        ready: Ready,
        config: ConsumerConfig | None = None,
        *,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self._queue = queue
        self._ready = ready
        self._config = config or ConsumerConfig()
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._was_ready = True
        self.counts = ConsumerCounts()
        self._admission = Admission(
            concurrency=self._config.concurrency,
            in_flight_limit=self._config.in_flight_limit,
            linger_s=self._config.receive_linger_s,
        )
        self._processor = Processor(
            queue, handle, self._config, self.counts, self._admission, self._stopping, tracer_provider
        )

    @property
    def in_flight(self) -> int:
        """Messages received and not settled yet."""
        return len(self._tasks)

    def stop(self) -> None:
        """Makes run() stop receiving at once, finish what runs within `drain_s`, and hand back the rest."""
        self._stopping.set()

    async def run(self) -> None:
        """Until stop(). Cancelled, or on a bug of its own, it hands back everything without waiting for it."""
        try:
            while not self._stopping.is_set():
                await self.run_once()
            if self._tasks:
                logger.info("stopping: up to %.0f s for %d messages", self._config.drain_s, len(self._tasks))
                await asyncio.wait(self._tasks, timeout=self._config.drain_s)
        finally:
            self._stopping.set()
            await self._hand_back()

    async def run_once(self) -> int:
        """One receive, when something can be started and then, at that moment, ready; how many messages it gave."""
        free = await self._unless_stopping(self._admission.until_free())
        if not await self._unless_stopping(self._is_ready()):
            return 0
        # A receive that is broken off by stop() may leave messages invisible until their timeout; they are not lost.
        messages = await self._unless_stopping(self._receive(free)) if free else None
        for message in messages or ():
            self._start(message)
        return len(messages or ())

    async def idle(self) -> None:
        """Returns when no message is in hand."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _is_ready(self) -> bool:
        ready = await self._ready()
        if ready != self._was_ready:
            logger.info("receiving again" if ready else "not ready: receiving nothing, %d in flight", self.in_flight)
        self._was_ready = ready
        if not ready:
            await asyncio.sleep(self._config.ready_poll_s)
        return ready

    async def _receive(self, limit: int) -> list[Message]:
        config = self._config
        try:
            messages = await self._queue.receive(
                limit, wait_s=config.wait_s, visibility_timeout_s=config.visibility_timeout_s
            )
        except PenstockError as exc:
            self._failures += 1
            self.counts.receive_failures += 1
            delay_s = config.sqs_backoff.delay_s(self._failures, random.random)
            logger.error("nothing received, next try in %.1f s: %s", delay_s, exc.message)  # noqa: TRY400
            await asyncio.sleep(delay_s)
            return []
        self._failures = 0
        self.counts.received += len(messages)
        return messages

    def _start(self, message: Message) -> None:
        self._admission.take()
        task = asyncio.create_task(self._processor.process(message), name=f"message {message.id}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._admission.give_back()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a message's task failed; the message comes back by itself", exc_info=error)

    async def _hand_back(self) -> None:
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=2 * self._config.hand_back_s)
            if stuck:
                logger.error("%d messages would not stop; they come back when their visibility ends", len(stuck))

    async def _unless_stopping(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`; None when stop() came first."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            stop.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)
