"""Read replicas: which of them may answer for a dataset now, by what they hold and not by what they say of themselves.

A replica is looked at every second, with the versions of its own tables. It is left out where it does not answer, is of
another epoch than the primary, or has lacked a version for too long. Never decides what a row is worth: each statement
tells its own version.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import asyncpg

from query_service.connections import Connections
from query_service.shares import Shares
from query_service.versions import Standing, Versions
from shared.errors import PenstockError
from shared.postgres.errors import translated

logger = logging.getLogger(__name__)

LOOK_S = 1.0
ANSWER_S = 3.0
# Of the time that a replica lets a statement hold up replication. Replication waits in turns, so one stream may find a
# part of it used up; what is left over is for that.
_SHARE_OF_DELAY = 0.5
_FOR_EVER_S = 86_400.0

# All datasets, of which there are few, and how long a snapshot may hold up replication here (-1: for ever).
_LOOK = """
SELECT d.name, d.epoch, d.version, s.setting::bigint AS delay_ms
FROM penstock.datasets AS d, pg_catalog.pg_settings AS s WHERE s.name = 'max_standby_streaming_delay'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A database server: its connections, and the slots of the streams that may hold some of them for long."""

    connections: Connections
    streams: Shares


class Lag:
    """For how long one replica has lacked versions that the primary has. Pure; time comes in as an argument."""

    def __init__(self) -> None:
        self._missing: dict[str, tuple[Standing, float]] = {}

    def behind_s(self, dataset: str, standing: Standing, primary: Standing, now: float) -> float:
        """Seconds since a look first found a version missing that is missing still; 0 where nothing is.

        A replica that is always a little behind a busy primary misses another version at each look, none for long.
        """
        missing = self._missing.get(dataset)
        if missing is not None and _reached(standing, missing[0]):
            missing = None
        if missing is None and not _reached(standing, primary):
            missing = (primary, now)
        if missing is None:
            self._missing.pop(dataset, None)
            return 0.0
        self._missing[dataset] = missing
        return now - missing[1]


def _reached(standing: Standing, wanted: Standing) -> bool:
    return standing.epoch == wanted.epoch and standing.version >= wanted.version


class Replica:
    """One replica. `name` is its address, for logs."""

    def __init__(
        self,
        *,
        name: str,
        pool: asyncpg.Pool[asyncpg.Record],
        server: Server,
        versions: Versions,
        max_lag_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.server = server
        self.stream_age_s = 0.0
        self._pool = pool
        self._versions = versions
        self._max_lag_s = max_lag_s
        self._clock = clock
        self._lag = Lag()
        self._fit: frozenset[str] = frozenset()
        self._said = ""

    def serves(self, dataset: str) -> bool:
        """Whether it may be asked for that dataset."""
        return dataset in self._fit

    def leave_out(self, why: str) -> None:
        """It is not asked until the next look finds it well."""
        self._fit = frozenset()
        self._say(f"is not used: {why}")

    async def run(self) -> None:
        """Looks every second until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Finds out for which datasets it may be asked."""
        try:
            with translated():
                rows = await self._pool.fetch(_LOOK, timeout=ANSWER_S)
        except PenstockError as exc:
            self.leave_out(exc.message)
            return
        self._fit = frozenset(self._fitting(rows))
        behind = sorted({row["name"] for row in rows} - self._fit)
        self._say(f"is behind in {', '.join(behind)}" if behind else "is used")
        for delay_ms in {row["delay_ms"] for row in rows}:
            self.stream_age_s = delay_ms / 1000 * _SHARE_OF_DELAY if delay_ms >= 0 else _FOR_EVER_S

    def _fitting(self, rows: Iterable[asyncpg.Record]) -> Iterable[str]:
        now = self._clock()
        for row in rows:
            primary = self._versions.last_heard(row["name"])
            standing = Standing(epoch=row["epoch"], version=row["version"])
            if primary is None or standing.epoch != primary.epoch:
                continue
            if self._lag.behind_s(row["name"], standing, primary, now) <= self._max_lag_s:
                yield row["name"]

    def _say(self, text: str) -> None:
        if text != self._said:
            logger.info("the replica %s %s", self.name, text)
        self._said = text


class Replicas:
    """Takes turns among the replicas that may be asked."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self._replicas = list(replicas)

    def choose(self, dataset: str) -> Replica | None:
        """The next one for that dataset; None where the primary has to answer."""
        for place, replica in enumerate(self._replicas):
            if replica.serves(dataset):
                self._replicas.append(self._replicas.pop(place))
                return replica
        return None
