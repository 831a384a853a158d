"""Reconciles that nobody asks for: every dataset at an interval, by one process at a time, with the gap as a metric."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from uuid import UUID

import asyncpg
from opentelemetry import metrics

from ingest_service.heartbeat import Lost, run_kept_alive
from ingest_service.ledger import reconciles
from ingest_service.reconcile.comparison import GapKind, Window
from ingest_service.reconcile.reconciler import Reconciler, Report, Scope, Tally
from shared.errors import PenstockError
from shared.postgres.errors import translated

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleLimits:
    """`tick_s` between two looks at what is due; `heartbeat_s` of a run; `farewell_s`: what one that is stopped may
    still take for giving its claim back. `settle_s`: younger objects have events on their way and are left to them."""

    tick_s: float = 60.0
    heartbeat_s: float = 10.0
    farewell_s: float = 5.0
    settle_s: float = 300.0


class Claims:
    """Runs a reconcile of claimed datasets: nobody else is at them meanwhile, in whichever process."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool[asyncpg.Record],
        reconciler: Reconciler,
        owner: str,
        limits: ScheduleLimits | None = None,
    ) -> None:
        self._pool = pool
        self._reconciler = reconciler
        self._owner = owner
        self._limits = limits or ScheduleLimits()

    async def take(self, datasets: Sequence[str], *, ended_before_s: float | None = None) -> dict[str, UUID]:
        """What is due, see `ledger.reconciles.claim`."""
        with translated():
            async with self._pool.acquire() as connection:
                await reconciles.register(connection, datasets)
                return await reconciles.claim(connection, datasets, self._owner, ended_before_s=ended_before_s)

    async def run(self, claimed: Mapping[str, UUID], scope: Scope) -> Report:
        """The report of a whole run; the claim is given back by the caller. Raises Lost when it is not ours any more,
        and when a dataset has come to another epoch."""
        report = Report.of(scope)
        sign = self._limits.heartbeat_s
        return await run_kept_alive("reconcile", lambda: self._alive(claimed), sign, self._to_its_end(scope, report))

    async def give_back(self, claimed: Mapping[str, UUID]) -> None:
        """While something worse may be on its way up, which must not be replaced: the claim goes stale otherwise."""
        try:
            async with asyncio.timeout(self._limits.farewell_s), self._pool.acquire() as connection:
                await reconciles.release(connection, claimed, self._owner)
        except Exception:
            logger.exception("the claim on reconciling %s stays until it is stale", ", ".join(claimed))

    async def _to_its_end(self, scope: Scope, report: Report) -> Report:
        async with aclosing(self._reconciler.run(scope, report)) as steps:
            async for _ in steps:
                pass
        return report

    async def _alive(self, claimed: Mapping[str, UUID]) -> bool:
        with translated():
            async with self._pool.acquire() as connection:
                return await reconciles.heartbeat(connection, claimed, self._owner)


class Schedule:
    """`run()` around `run_once()`. Every process runs it; claims keep them from doing things twice."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool[asyncpg.Record],
        claims: Claims,
        datasets: Iterable[str],
        interval_s: float,
        limits: ScheduleLimits | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._pool = pool
        self._claims = claims
        self._datasets = sorted(datasets)
        self._interval_s = interval_s
        self._limits = limits or ScheduleLimits()
        self._gaps: Mapping[str, Mapping[str, int]] = {}
        meter = metrics.get_meter(__name__, meter_provider=meter_provider)
        self._mended = meter.create_counter(
            "penstock.reconcile.mended", unit="{object}", description="Gaps that reconciles of this process mended"
        )
        meter.create_observable_gauge(
            "penstock.reconcile.gap",
            [self._observe],
            unit="{object}",
            description="Objects on which bucket and ledger differed at the last reconcile of any process",
        )

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.run_once()
            except PenstockError as exc:
                logger.warning("reconcile skipped: %s", exc.message)
            except Exception:
                # Loads are in work in this process: a round that met a bug is no reason to end them.
                logger.exception("reconcile failed")
            # Processes that started together look at different times.
            await asyncio.sleep(self._limits.tick_s * (0.5 + 0.5 * random.random()))  # noqa: S311 - no secret

    async def run_once(self) -> None:
        """Reconciles what is due, when nobody is at it, and learns what the last reconciles found."""
        if self._interval_s:
            claimed = await self._claims.take(self._datasets, ended_before_s=self._interval_s)
            if claimed:
                await self._reconcile(claimed)
        with translated():
            async with self._pool.acquire() as connection:
                self._gaps = await reconciles.gaps(connection, self._datasets)

    async def _reconcile(self, claimed: Mapping[str, UUID]) -> None:
        settled = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=self._limits.settle_s)
        scope = Scope(datasets=tuple(sorted(claimed)), window=Window(before=settled))
        try:
            report = await self._claims.run(claimed, scope)
            await self._record(report)
        except Lost:
            logger.info("a reconcile was broken off: another process is at it, or an epoch has changed")
        finally:
            await self._claims.give_back(claimed)

    async def _record(self, report: Report) -> None:
        """Also of a run that met problems: to begin again at once would meet them again."""
        logger.info("reconciled %s", summary(report))
        for tally in report.tallies.values():
            self._mended.add(tally.mended, {"penstock.dataset": tally.dataset})
            with translated():
                async with self._pool.acquire() as connection:
                    await reconciles.record(
                        connection, tally.dataset, {str(kind): n for kind, n in tally.found.items()}
                    )

    def _observe(self, _options: metrics.CallbackOptions) -> list[metrics.Observation]:
        return [
            metrics.Observation(count, {"penstock.dataset": dataset, "penstock.gap": kind.lower()})
            for dataset, gaps in self._gaps.items()
            for kind, count in gaps.items()
        ]


def summary(report: Report) -> str:
    """A line of counts, dataset by dataset, and what kept the run from being whole."""
    line = "; ".join(map(_counts, report.tallies.values()))
    return f"{line}; not whole: {report.problems[0].message}" if report.problems else line


def _counts(tally: Tally) -> str:
    found = ", ".join(f"{tally.found[kind]} {kind.lower()}" for kind in GapKind)
    return f"{tally.dataset}: {tally.listed} listed, {found}, {tally.mended} mended, {tally.left} left"
