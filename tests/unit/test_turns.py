"""Turns: one at a time, those who wait together, nobody twice, and nobody who has left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ingest_service.turns import Turns


class Server:
    """Serves a group when it may, and tells whom it serves."""

    def __init__(self) -> None:
        self.permits = asyncio.Semaphore(0)
        self.begun: asyncio.Queue[list[str]] = asyncio.Queue()

    async def serve(self, members: Sequence[str]) -> list[str]:
        self.begun.put_nowait(list(members))
        await self.permits.acquire()
        if "broken" in members:
            raise ValueError("broken")
        return [member.upper() for member in members]

    async def groups(self, count: int) -> list[list[str]]:
        """Lets so many groups be served, and says who was in them."""
        for _ in range(count):
            self.permits.release()
        return [await asyncio.wait_for(self.begun.get(), 5) for _ in range(count)]

    def turns(self, most: int = 10) -> Turns[str, str]:
        return Turns(lambda members: min(most, len(members)), self.serve)


async def waiting(turns: Turns[str, str], names: Sequence[str]) -> list[asyncio.Task[str | None]]:
    """One who is being served, and those behind him in the line."""
    tasks = []
    for name in names:
        tasks.append(asyncio.create_task(turns.take(name)))
        await asyncio.sleep(0)
    return tasks


async def test_whoever_finds_nobody_is_served_at_once_and_those_who_come_meanwhile_together() -> None:
    server = Server()
    tasks = await waiting(server.turns(), "abcd")
    assert server.begun.qsize() == 1
    assert await server.groups(2) == [["a"], ["b", "c", "d"]]
    assert await asyncio.gather(*tasks) == ["A", "B", "C", "D"]


async def test_no_more_are_served_at_once_than_fit_together() -> None:
    server = Server()
    tasks = await waiting(server.turns(most=2), "abcdef")
    assert await server.groups(4) == [["a"], ["b", "c"], ["d", "e"], ["f"]]
    assert await asyncio.gather(*tasks) == list("ABCDEF")


async def test_who_leaves_the_line_is_not_served() -> None:
    server = Server()
    tasks = await waiting(server.turns(), "abcd")
    for left in tasks[1:3]:
        left.cancel()
    await asyncio.gather(*tasks[1:3], return_exceptions=True)
    assert await server.groups(2) == [["a"], ["d"]]
    assert [await tasks[0], await tasks[3]] == ["A", "D"]


async def test_those_whose_server_was_cancelled_know_nothing_and_those_behind_them_are_served() -> None:
    server = Server()
    first, *tasks = await waiting(server.turns(most=3), "abcde")
    assert await server.groups(1) == [["a"]]
    await first
    assert await asyncio.wait_for(server.begun.get(), 5) == ["b", "c", "d"]
    tasks[0].cancel()
    assert await server.groups(1) == [["e"]]
    assert await asyncio.gather(*tasks[1:]) == [None, None, "E"]


async def test_who_leaves_while_he_is_served_takes_nothing_from_the_others() -> None:
    server = Server()
    first, *tasks = await waiting(server.turns(), "abcd")
    assert await server.groups(1) == [["a"]]
    await first
    assert await asyncio.wait_for(server.begun.get(), 5) == ["b", "c", "d"]
    tasks[1].cancel()
    server.permits.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [results[0], results[2]] == ["B", "D"]
    assert isinstance(results[1], asyncio.CancelledError)


async def test_failure_is_told_to_all_who_were_served_and_to_nobody_else() -> None:
    server = Server()
    tasks = await waiting(server.turns(most=2), ["a", "broken", "b", "c"])
    assert await server.groups(3) == [["a"], ["broken", "b"], ["c"]]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [results[0], results[3]] == ["A", "C"]
    assert [type(result) for result in results[1:3]] == [ValueError, ValueError]
