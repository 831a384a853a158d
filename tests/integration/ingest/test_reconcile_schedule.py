"""Reconciles at an interval: one process does it, every process tells the gap."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from ingest_service.ledger.records import LoadState, LoadTrigger
from ingest_service.reconcile.schedule import Claims, Schedule, ScheduleLimits
from tests.integration.ingest.reconciling import reconciler
from tests.integration.ingest.rig import Rig, by_key, many, until
from tests.integration.merge.lab import Thing

ONE = Thing(owner="a", number=1, label="one", rank=1)
AT_ONCE = ScheduleLimits(settle_s=-60, heartbeat_s=0.05)


def schedule(rig: Rig, owner: str = "here", limits: ScheduleLimits = AT_ONCE, **changes: Any) -> Schedule:
    claims = Claims(pool=rig.pool, reconciler=reconciler(rig), owner=owner, limits=limits)
    parts: dict[str, Any] = {"pool": rig.pool, "claims": claims, "datasets": ["things"], "interval_s": 3600}
    return Schedule(limits=limits, **(parts | changes))


class Meter:
    """What a schedule tells."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self._reader])

    def gaps(self) -> dict[str, int]:
        """Of the dataset `things`, by kind, but for those that are none."""
        data: Any = self._reader.get_metrics_data()
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
        points = [point for m in metrics if m.name == "penstock.reconcile.gap" for point in m.data.data_points]
        assert {point.attributes["penstock.dataset"] for point in points} <= {"things"}
        return {point.attributes["penstock.gap"]: point.value for point in points if point.value}


async def states(rig: Rig) -> list[tuple[LoadTrigger, LoadState]]:
    return [(load.trigger, load.state) for load in await rig.ledger()]


async def test_one_of_two_processes_reconciles_and_both_tell_the_gap(rig: Rig) -> None:
    await rig.put([ONE])
    meters = {owner: Meter() for owner in ("here", "there")}
    here, there = (schedule(rig, owner, meter_provider=meter.provider) for owner, meter in meters.items())
    await asyncio.gather(here.run_once(), there.run_once())
    assert await states(rig) == [(LoadTrigger.RECONCILE, LoadState.SUCCEEDED)]
    await asyncio.gather(here.run_once(), there.run_once())
    assert [meter.gaps() for meter in meters.values()] == [{"missing": 1}] * 2
    for meter in meters.values():
        meter.provider.shutdown()


async def test_next_reconcile_waits_for_the_interval(rig: Rig) -> None:
    meter = Meter()
    ours = schedule(rig, meter_provider=meter.provider)
    await ours.run_once()
    await rig.put([ONE])
    await ours.run_once()
    assert await rig.table() == {}
    await rig.execute("UPDATE penstock.reconciles SET ended_at = ended_at - interval '2 hours'")
    await ours.run_once()
    assert await rig.table() == by_key([ONE])
    assert meter.gaps() == {"missing": 1}
    await rig.execute("UPDATE penstock.reconciles SET ended_at = ended_at - interval '2 hours'")
    await ours.run_once()
    assert meter.gaps() == {}
    meter.provider.shutdown()


async def test_object_whose_event_may_be_on_its_way_is_left_to_it(rig: Rig) -> None:
    await rig.put([ONE])
    await schedule(rig, limits=ScheduleLimits()).run_once()
    assert await states(rig) == []


async def test_no_interval_means_only_when_asked(rig: Rig) -> None:
    await rig.put([ONE])
    await schedule(rig, interval_s=0).run_once()
    assert await states(rig) == []


async def test_stopped_process_gives_its_claim_back_at_once(rig: Rig) -> None:
    await rig.put(many(2_000))
    rig.store.gate.clear()
    running = asyncio.create_task(schedule(rig).run_once())
    await rig.store.reading.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    rig.store.gate.set()
    await schedule(rig, "there").run_once()
    assert await states(rig) == [
        (LoadTrigger.RECONCILE, LoadState.ABANDONED),
        (LoadTrigger.RECONCILE, LoadState.SUCCEEDED),
    ]


async def test_run_ends_when_its_claim_is_lost(rig: Rig) -> None:
    """It hung for longer than its heartbeat may be silent, and another process is at it."""
    await rig.put(many(2_000))
    rig.store.gate.clear()
    running = asyncio.create_task(schedule(rig).run_once())
    await rig.store.reading.wait()
    await rig.execute("UPDATE penstock.reconciles SET owner = 'another'")
    await running
    assert await states(rig) == [(LoadTrigger.RECONCILE, LoadState.ABANDONED)]
    rig.store.gate.set()


async def test_loop_outlives_a_run_that_fails(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    await rig.put([ONE])
    ours = schedule(rig, limits=ScheduleLimits(settle_s=-60, tick_s=0.02))
    await rig.execute("ALTER TABLE penstock.reconciles RENAME TO elsewhere")
    loop = asyncio.create_task(ours.run())
    await until(lambda: "reconcile skipped" in caplog.text)
    await rig.execute("ALTER TABLE penstock.elsewhere RENAME TO reconciles")
    await until(lambda: _loaded(rig))
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def _loaded(rig: Rig) -> bool:
    return bool(await rig.table())
