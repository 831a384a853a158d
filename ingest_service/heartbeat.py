"""Signs of life in the ledger for as long as something runs: without them another process ends it or takes it over.

Must never die unseen: a beat that fails is told in the log, and the next one comes in time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from shared.errors import PenstockError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Lost(Exception):
    """What was worked on is not ours any more."""


async def run_kept_alive(
    what: str, sign: Callable[[], Awaitable[bool]], interval_s: float, work: Coroutine[Any, Any, T]
) -> T:
    """The result of `work`, which is cancelled when `sign` says False: then raises Lost. Cancelling this cancels it."""
    task = asyncio.create_task(work)
    lost: list[bool] = []

    def lose() -> None:
        lost.append(task.cancel())

    async with kept_alive(what, sign, interval_s, lose):
        try:
            return await task
        except asyncio.CancelledError as exc:
            if any(lost) and not _is_being_cancelled():
                raise Lost from exc
            raise


def _is_being_cancelled() -> bool:
    this = asyncio.current_task()
    return this is not None and this.cancelling() > 0


@asynccontextmanager
async def kept_alive(
    what: str, sign: Callable[[], Awaitable[bool]], interval_s: float, on_loss: Callable[[], object] | None = None
) -> AsyncIterator[None]:
    """Calls `sign` every `interval_s` while the block runs. When it says False, what was kept alive is not ours any
    more: `on_loss` is called, and no further sign is given."""
    task = asyncio.create_task(_beat(what, sign, interval_s, on_loss), name=f"heartbeat of {what}")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _beat(
    what: str, sign: Callable[[], Awaitable[bool]], interval_s: float, on_loss: Callable[[], object] | None
) -> None:
    alive = True
    while alive:
        await asyncio.sleep(interval_s)
        try:
            alive = await sign()
        except PenstockError as exc:
            logger.warning("no sign of life of %s: %s", what, exc.message)
        except Exception:
            logger.exception("no sign of life of %s", what)
    logger.info("%s was ended, or is somebody else's by now", what)
    if on_loss is not None:
        on_loss()
