"""The figures of how long a page takes while a large file is loaded: calls at a constant rate, whatever became of those
before, so that a stall counts for every call that falls into it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from itertools import count
from typing import Any

from shared.client.channel import ClientTls, open_async_channel
from tests.bench.lab import Lab
from tests.bench.pages import CACHE, CALL_TIMEOUT_S, PAGE_ROWS, Calls, first_pages
from tests.bench.table import Figure, Target

CALLS_A_SECOND = 100
IDLE_S = 5.0
LEAST_CALLS = 20
# The table that is read stays as it is; all that the load does falls on the same database and the same two cores.
LOADED = "spare_orders"


def list_loading(lab: Lab) -> Figure:
    """Pages from the database."""
    lab.need_orders()
    return _while_loading(lab, "List", lab.settings["PENSTOCK_QUERY_ADDRESS"])


def list_cached_loading(lab: Lab) -> Figure:
    """Pages that the process keeps."""
    lab.need_orders()
    with lab.another_query_service(CACHE) as service:
        return _while_loading(lab, "List cached", service.address)


def _while_loading(lab: Lab, kind: str, address: str) -> Figure:
    uri = lab.upload("base.csv", lab.base.path)
    lab.forget(LOADED)
    lab.settle()
    loading, idle = asyncio.run(_times(lab, address, first_pages(lab), uri))
    lab.forget(LOADED)
    what = f"{kind}, {PAGE_ROWS} rows, {CALLS_A_SECOND} calls/s, p50 / p99"
    return Figure(
        name=f"{what}, during a first load of {lab.rows:,} rows into another dataset : idle (ratio of p99)",
        ours=f"{_at(loading, 0.5):.1f} ms / {_at(loading, 0.99):.1f} ms of {len(loading)}",
        baseline=f"{_at(idle, 0.5):.1f} ms / {_at(idle, 0.99):.1f} ms of {len(idle)}",
        value=_at(loading, 0.99) / _at(idle, 0.99),
        target=Target(),
    )


async def _times(lab: Lab, address: str, pages: Calls, uri: str) -> tuple[Sequence[float], Sequence[float]]:
    """Milliseconds of calls while the object is loaded, and before that."""

    def load() -> None:
        lab.expect(lab.populate(uri, LOADED).rows_inserted, lab.rows, "rows loaded while pages were read")

    async with open_async_channel(address, ClientTls.from_environment(lab.settings)) as channel:
        call = channel.unary_unary(pages.path, None, None)
        # All at once, so that the server opens all its connections, and keeps the pages where it does so.
        await asyncio.gather(*(call(request, timeout=CALL_TIMEOUT_S) for request in pages.requests))
        idle = await _during(lab, call, pages, asyncio.sleep(0.2 if lab.trial else IDLE_S))
        return await _during(lab, call, pages, asyncio.to_thread(load)), idle


async def _during(lab: Lab, call: Any, pages: Calls, work: Awaitable[None]) -> Sequence[float]:
    """Milliseconds from when each call was due to its answer, for as long as the work takes."""
    clock, working = asyncio.get_running_loop().time, asyncio.ensure_future(work)
    begin, times_ms, wrong = clock(), [], []

    async def one(number: int, due: float) -> None:
        answer = await call(pages.requests[number], timeout=CALL_TIMEOUT_S)
        times_ms.append((clock() - due) * 1000)
        if answer != pages.answers[number]:
            wrong.append(number)

    async with asyncio.TaskGroup() as group:
        for number in count():
            due = begin + number / CALLS_A_SECOND
            await asyncio.sleep(due - clock())
            if working.done() and number >= LEAST_CALLS:
                break
            group.create_task(one(number % len(pages.requests), due))
    await working
    lab.expect(wrong, [], "pages with a wrong answer")
    return sorted(times_ms)


def _at(ordered: Sequence[float], share: float) -> float:
    """The value that so large a share of all does not exceed."""
    return ordered[int(len(ordered) * share)]
