"""Deletes messages that are done, up to ten in one request: SQS charges by the request, and each takes a millisecond of
the loop.

Must never keep a message longer than `linger_s`. One whose process dies meanwhile comes again and is found to be done.
"""

from __future__ import annotations

import asyncio

from ingest_service.consumer.model import Message
from ingest_service.consumer.queue import MAX_BATCH, Queue


class Deletes:
    """What any number of tasks ask for within `linger_s` goes together."""

    def __init__(self, queue: Queue, linger_s: float) -> None:
        self._queue = queue
        self._linger_s = linger_s
        self._waiting: list[tuple[Message, asyncio.Future[None]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()

    async def delete(self, message: Message) -> None:
        """Returns when the message is deleted. Raises VisibilityLost, and what else `Queue.delete` says."""
        loop = asyncio.get_running_loop()
        deleted: asyncio.Future[None] = loop.create_future()
        self._waiting.append((message, deleted))
        if len(self._waiting) == MAX_BATCH:
            self._send_all()
        elif self._timer is None:
            self._timer = loop.call_later(self._linger_s, self._send_all)
        await deleted

    def _send_all(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting = self._waiting, []
        task = asyncio.create_task(self._send(batch), name=f"delete {len(batch)} messages")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, batch: list[tuple[Message, asyncio.Future[None]]]) -> None:
        problems: list[Exception | None]
        try:
            problems = [*await self._queue.delete([message for message, _ in batch])]
        except Exception as exc:  # noqa: BLE001 - raised by each of those who wait
            problems = [exc] * len(batch)
        for (_, deleted), problem in zip(batch, problems, strict=True):
            if deleted.done():  # whoever waited was cancelled
                continue
            if problem is None:
                deleted.set_result(None)
            else:
                deleted.set_exception(problem)
