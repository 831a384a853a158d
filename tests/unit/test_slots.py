"""Slots for loads: never more at once than there are, and who is in no hurry comes last."""

from __future__ import annotations

import asyncio

from ingest_service.slots import Slots


async def told(slots: Slots, name: str, log: list[str], *, patient: bool = False) -> None:
    async with slots.hold(patient=patient):
        log.append(name)
        await asyncio.sleep(0)


async def test_patient_ones_wait_until_nobody_else_does() -> None:
    slots, log = Slots(1), list[str]()
    async with asyncio.TaskGroup() as tasks, slots.hold():
        for name in ("patient-1", "patient-2", "a", "b"):
            tasks.create_task(told(slots, name, log, patient=name.startswith("patient")))
        await asyncio.sleep(0)
    assert log == ["a", "b", "patient-1", "patient-2"]


async def test_slots_bound_what_runs_at_once() -> None:
    slots, running, most = Slots(3), 0, 0

    async def work(number: int) -> None:
        nonlocal running, most
        async with slots.hold(patient=number % 2 == 0):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*map(work, range(20)))
    assert (most, running) == (3, 0)


async def test_cancelled_waiter_loses_no_slot() -> None:
    """Also one that was given the slot in the same turn of the event loop in which it was cancelled."""
    slots, log = Slots(1), list[str]()
    async with slots.hold():
        waiting = [asyncio.create_task(told(slots, name, log)) for name in "abc"]
        await asyncio.sleep(0)
        waiting[1].cancel()
    waiting[0].cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting, return_exceptions=True)
        await told(slots, "d", log)
    assert log == ["c", "d"]
