"""Keeps a received message invisible to other consumers for as long as it is worked on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ingest_service.consumer.model import ConsumerConfig, Message
from ingest_service.consumer.queue import Queue, VisibilityLost
from shared.errors import PenstockError

logger = logging.getLogger(__name__)


class Visibility:
    """Whether the message is still ours. What runs when it is lost may finish: the ledger refuses a second commit."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()


@asynccontextmanager
async def kept_invisible(queue: Queue, message: Message, config: ConsumerConfig) -> AsyncIterator[Visibility]:
    """Renews the visibility timeout at every third of it until the body ends, the handle is invalid, or the cap."""
    visibility = Visibility()
    heartbeat = asyncio.create_task(_beat(queue, message, config, visibility), name=f"heartbeat {message.id}")
    try:
        yield visibility
    finally:
        heartbeat.cancel()
        await asyncio.gather(heartbeat, return_exceptions=True)


async def _beat(queue: Queue, message: Message, config: ConsumerConfig, visibility: Visibility) -> None:
    interval_s = config.visibility_timeout_s / 3
    ends_s = message.received_s + config.visibility_cap_s
    while (left_s := ends_s - asyncio.get_running_loop().time()) > 0:
        await asyncio.sleep(min(interval_s, left_s))
        try:
            await queue.set_visibility(message, config.visibility_timeout_s)
        except VisibilityLost as exc:
            logger.warning("message %s: heartbeat stops: %s", message.id, exc.message)
            break
        except PenstockError as exc:
            # It may still arrive before the timeout; if not, the message is delivered again and the ledger knows.
            logger.warning("message %s: heartbeat failed, goes on: %s", message.id, exc.message)
    else:
        logger.warning("message %s: held for %.0f s, the cap", message.id, config.visibility_cap_s)
    visibility.lost.set()
