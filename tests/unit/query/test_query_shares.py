"""Slots are shared by caller: who asked for many waits for who asked for one, and nobody is forgotten or remembered."""

from __future__ import annotations

import asyncio
import random

import pytest

from query_service.shares import Shares

FOREVER_S = 60.0


async def turns() -> None:
    """Lets everything that can go on go on."""
    for _ in range(10):
        await asyncio.sleep(0)


class Callers:
    """Calls that wait for a slot, and the order in which they got one."""

    def __init__(self, shares: Shares) -> None:
        self.shares = shares
        self.served: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, caller: str, count: int = 1) -> None:
        self.tasks += [asyncio.create_task(self._call(caller)) for _ in range(count)]
        await turns()

    async def end(self, caller: str) -> None:
        self.shares.release(caller)
        await turns()

    async def _call(self, caller: str) -> None:
        await self.shares.acquire(caller, FOREVER_S)
        self.served.append(caller)


async def test_a_call_behind_many_of_another_caller_is_next() -> None:
    callers = Callers(Shares(2))
    await callers.ask("greedy", 50)
    await callers.ask("modest")
    await callers.end("greedy")
    assert callers.served == ["greedy", "greedy", "modest"]
    for task in callers.tasks:
        task.cancel()


async def test_callers_with_equal_shares_take_turns() -> None:
    callers = Callers(Shares(1))
    await callers.ask("a", 4)
    await callers.ask("b", 2)
    await callers.ask("c", 2)
    for _ in range(7):
        await callers.end(callers.served[-1])
    assert callers.served == ["a", "a", "b", "c", "a", "b", "c", "a"]


async def test_a_caller_leaves_the_rest_free_for_others() -> None:
    callers = Callers(Shares(3, 2))
    await callers.ask("greedy", 3)
    assert callers.served == ["greedy", "greedy"]
    assert callers.shares.try_acquire("modest")
    callers.shares.release("modest")
    assert not callers.shares.try_acquire("greedy")
    await callers.end("greedy")
    assert callers.served == ["greedy"] * 3


async def test_whoever_stops_waiting_holds_nothing_up() -> None:
    callers = Callers(Shares(1))
    await callers.ask("a")
    await callers.ask("b", 2)
    callers.tasks[1].cancel()
    await callers.end("a")
    assert callers.served == ["a", "b"]


async def test_a_slot_that_comes_with_a_cancellation_goes_on() -> None:
    callers = Callers(Shares(1))
    await callers.ask("a")
    await callers.ask("b")
    await callers.ask("c")
    callers.shares.release("a")
    callers.tasks[1].cancel()
    await turns()
    assert callers.served == ["a", "c"]


async def test_whoever_waits_too_long_is_told_and_holds_nothing_up() -> None:
    callers = Callers(Shares(1))
    await callers.ask("a")
    with pytest.raises(TimeoutError):
        await callers.shares.acquire("b", 0.001)
    with pytest.raises(TimeoutError):
        await callers.shares.acquire("b", -1.0)
    await callers.ask("c")
    await callers.end("a")
    await callers.end("c")
    assert (callers.served, len(callers.shares)) == (["a", "c"], 0)


async def test_a_turn_that_is_over_as_its_slot_comes_free_is_passed_over() -> None:
    shares = Shares(1)
    await shares.acquire("a", FOREVER_S)
    late = asyncio.create_task(shares.acquire("b", 0.0))
    next_one = asyncio.create_task(shares.acquire("c", FOREVER_S))
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    loop.call_later(0.0, shares.release, "a")  # right behind the end of b's turn, before b has seen it
    await next_one
    assert isinstance(late.exception(), TimeoutError)
    assert not shares.try_acquire("d")
    shares.release("c")
    assert len(shares) == 0


@pytest.mark.parametrize("seed", range(20))
async def test_slots_are_never_lost_and_callers_never_remembered(seed: int) -> None:
    chance = random.Random(seed)
    shares = Shares(3, 2)
    held = 0

    async def call(caller: str) -> None:
        nonlocal held
        await shares.acquire(caller, chance.choice([FOREVER_S, FOREVER_S, 0.0, 0.0005]))
        held += 1
        assert held <= 3
        try:
            for _ in range(chance.randrange(5)):
                await asyncio.sleep(0)
        finally:
            held -= 1
            shares.release(caller)

    tasks = [asyncio.create_task(call(chance.choice("abcd"))) for _ in range(60)]
    for task in chance.sample(tasks, 20):
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait(tasks)
    assert (held, len(shares)) == (0, 0)
    assert [shares.try_acquire(caller) for caller in "abcd"] == [True, True, True, False]
