"""Where each dataset stands on the primary, as far as this process has heard.

One connection of its own listens for the word that every load sends with its commit, and looks at the table once a
second besides. The word is never the news: it only says when to look. What is heard here labels no rows; those carry
their own version.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from shared.errors import PenstockError
from shared.postgres.errors import translated

logger = logging.getLogger(__name__)

CHANNEL = "penstock_version"  # what a load notifies: ingest_service/ledger/datasets.py
POLL_S = 1.0
# A connection that does not answer for so long is given up, and until another one answers nothing counts as current.
ANSWER_S = 3.0

# All datasets, of which there are few. No index needed.
_STANDINGS = "SELECT name, epoch, version FROM penstock.datasets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A state of a dataset. Versions of two epochs do not compare."""

    epoch: UUID
    version: int


class Versions:
    """Serves who waits for versions. `run()` must run beside it, and nobody else may use the pool."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], *, poll_s: float = POLL_S) -> None:
        self._pool = pool
        self._poll_s = poll_s
        self._known: Mapping[str, Standing] = {}
        self._bells: dict[str, asyncio.Event] = {}
        self._listening = False
        self._said_lost = False

    def current(self, dataset: str) -> Standing | None:
        """Where the dataset stands, at most the delay of a notification ago; None while nobody listens."""
        return self._known.get(dataset) if self._listening else None

    def last_heard(self, dataset: str) -> Standing | None:
        """Where the dataset stood when that was last heard, however long ago."""
        return self._known.get(dataset)

    async def changed(self, dataset: str, *, beyond: int, timeout_s: float) -> Standing | None:
        """Returns once the dataset is beyond that version or in another epoch than now, or after `timeout_s`.

        Returns where it stands then, which may be no news; None where nothing was heard of the dataset yet.
        """
        began = self._known.get(dataset)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not _is_news(self._known.get(dataset), began, beyond):
                    await self._bells.setdefault(dataset, asyncio.Event()).wait()
        return self._known.get(dataset)

    async def run(self) -> None:
        """Listens until cancelled. A lost connection is opened again every `poll_s`."""
        while True:
            try:
                with translated():
                    await self._listen()
            except PenstockError as exc:
                if not self._said_lost:
                    logger.warning("new versions of datasets are not heard: %s", exc.message)
                self._said_lost = True
            await asyncio.sleep(self._poll_s)

    async def _listen(self) -> None:
        """Looks whenever the bell rings, until the connection is lost."""
        bell = asyncio.Event()

        def ring(*_: object) -> None:
            bell.set()

        async with self._pool.acquire(timeout=ANSWER_S) as connection:
            try:
                connection.add_termination_listener(ring)
                await connection.add_listener(CHANNEL, ring)
                while True:
                    bell.clear()  # before the look: what is committed meanwhile rings again
                    self._note(await connection.fetch(_STANDINGS, timeout=ANSWER_S))
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._poll_s):
                            await bell.wait()
            finally:
                self._listening = False
                # Not back into the pool, which resets nothing. A connection that was lost has left it by itself.
                with contextlib.suppress(asyncpg.InterfaceError):
                    connection.terminate()

    def _note(self, rows: Iterable[asyncpg.Record]) -> None:
        """Believes the table, also where it has gone back: after a failover the newest versions may be lost."""
        before = self._known
        self._known = {row["name"]: Standing(epoch=row["epoch"], version=row["version"]) for row in rows}
        if self._said_lost:
            logger.info("new versions of datasets are heard again")
        self._listening, self._said_lost = True, False
        for name in [name for name in self._bells if self._known.get(name) != before.get(name)]:
            self._bells.pop(name).set()


def _is_news(now: Standing | None, began: Standing | None, beyond: int) -> bool:
    if now is None:
        return False
    return now.version > beyond or (began is not None and now.epoch != began.epoch)
