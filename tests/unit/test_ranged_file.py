"""The bridge between Arrow's blocking reads and the event loop: exact bytes, each fetched once, no endless wait."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from ingest_service.ranged_file import RangedFile

DATA = random.Random(3).randbytes(100_000)


class Source:
    """Gives bytes and notes which were asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    async def fetch(self, begin: int, size: int) -> bytes:
        self.asked.append((begin, size))
        return DATA[begin : begin + size]


@pytest.mark.parametrize("step_bytes", [1, 7, 1000, 1 << 20])
async def test_ranges_are_read_forward_in_turns_and_every_byte_is_fetched_once(step_bytes: int) -> None:
    source = Source()
    file = RangedFile(source.fetch, len(DATA), asyncio.get_running_loop())
    ranges = [(100, 900), (5000, 5003), (40_000, 43_000)]

    def read() -> None:
        file.expect(ranges, step_bytes)
        places = dict(ranges)
        at = {begin: begin for begin, _ in ranges}
        dice = random.Random(step_bytes)
        while any(at[begin] < end for begin, end in ranges):
            begin = dice.choice([begin for begin, end in ranges if at[begin] < end])
            size = min(dice.randint(1, 300), places[begin] - at[begin])
            file.seek(at[begin])
            assert file.read(size) == DATA[at[begin] : at[begin] + size]
            at[begin] += dice.randint(1, size)  # Arrow peeks: what was read may be read again

    with ThreadPoolExecutor(1) as thread:
        await asyncio.get_running_loop().run_in_executor(thread, read)
    fetched = sorted(byte for begin, size in source.asked for byte in range(begin, begin + size))
    assert fetched == [byte for begin, end in ranges for byte in range(begin, end)]


async def test_bytes_outside_of_what_is_expected_are_read_as_well() -> None:
    file = RangedFile(Source().fetch, len(DATA), asyncio.get_running_loop())

    def read() -> list[bytes]:
        file.expect([(10, 20)], 5)
        found = []
        for at in (0, 15, 12, 99_995):
            file.seek(at)
            found.append(file.read(10))
        return found

    with ThreadPoolExecutor(1) as thread:
        found = await asyncio.get_running_loop().run_in_executor(thread, read)
    assert found == [DATA[0:10], DATA[15:25], DATA[12:22], DATA[-5:]]


async def test_stopped_file_ends_the_read_that_waits_and_those_to_come() -> None:
    waiting = asyncio.Event()

    async def never(_: int, __: int) -> bytes:
        waiting.set()
        await asyncio.get_running_loop().create_future()
        return b""

    file = RangedFile(never, 10, asyncio.get_running_loop())
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(file.read, 10)
        await waiting.wait()
        file.stop()
        for future in (reading, thread.submit(file.read, 10)):
            assert isinstance(future.exception(timeout=10), concurrent.futures.CancelledError)
