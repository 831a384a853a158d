"""What is received together: places that become free one after the other are filled by one receive, if they hurry."""

from __future__ import annotations

import asyncio

from ingest_service.consumer.admission import Admission


def full(linger_s: float, concurrency: int = 4) -> Admission:
    admission = Admission(concurrency=concurrency, in_flight_limit=40, linger_s=linger_s)
    for _ in range(concurrency):
        admission.take()
    return admission


async def test_free_place_waits_for_half_of_them() -> None:
    admission = full(linger_s=60)
    waiting = asyncio.create_task(admission.until_free())
    admission.give_back()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    admission.give_back()
    assert await asyncio.wait_for(waiting, 5) == 2


async def test_free_place_does_not_wait_long() -> None:
    admission = full(linger_s=0.01)
    admission.give_back()
    assert await asyncio.wait_for(admission.until_free(), 5) == 1


async def test_the_only_place_waits_for_no_other() -> None:
    admission = full(linger_s=60, concurrency=1)
    admission.give_back()
    assert await asyncio.wait_for(admission.until_free(), 5) == 1


async def test_nothing_lingers_where_nothing_runs() -> None:
    admission = Admission(concurrency=4, in_flight_limit=40, linger_s=60)
    assert await asyncio.wait_for(admission.until_free(), 5) == 4
