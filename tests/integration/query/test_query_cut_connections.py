"""Streams and watches through a proxy that breaks every connection at random messages: the client goes on by row."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from shared.client.calls import bind
from shared.client.retry import Backoff
from shared.client.service import ServiceClient
from shared.client.streams import async_stream
from shared.client.watches import async_watch
from shared.contract.model import MethodKind
from tests.integration.consumer.flaky_proxy import FlakyProxy
from tests.integration.query.lab import COMPLETE, Client, Lab, readings
from tests.integration.query.test_query_watch import Fold, load, table

QUICK = Backoff(first_s=0.001, longest_s=0.05, attempts=100)
# gRPC waits 1 s before it dials again, and its windows must not take in the whole stream at once.
OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 10),
    ("grpc.min_reconnect_backoff_ms", 10),
    ("grpc.max_reconnect_backoff_ms", 50),
    ("grpc.http2.bdp_probe", 0),
)


class Line:
    """A client's connection through the proxy."""

    def __init__(self, client: Client, proxy: FlakyProxy, channel: grpc.aio.Channel, seed: int) -> None:
        self._methods = bind(channel, client.lab.service)
        self._proxy = proxy
        self._chance = random.Random(seed)
        self.cuts = 0

    def method(self, kind: MethodKind) -> Any:
        return self._methods[kind]

    async def cut_now_and_then(self, one_in: int) -> None:
        if self._chance.randrange(one_in) == 0:
            self.cuts += 1
            await self._proxy.down()
            await self._proxy.up()


@asynccontextmanager
async def line(client: Client, seed: int) -> AsyncIterator[Line]:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(FlakyProxy(client.server.port))
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{proxy.port}", options=OPTIONS)
        yield Line(client, proxy, await stack.enter_async_context(channel), seed)


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_stream_cut_at_random_messages_has_every_row_once(lab: Lab, client: Client, seed: int) -> None:
    rows = readings(lab, 15_000, payload=b"x" * 700)
    await lab.insert(rows)
    got: list[Any] = []
    async with line(client, seed) as through, asyncio.timeout(60):
        method = through.method(MethodKind.STREAM)
        async for message in async_stream(method.call, method.request(), backoff=QUICK):
            got += message.readings
            await through.cut_now_and_then(4)
        assert message.status.end_reason == COMPLETE
        assert through.cuts >= 2
    assert got == rows


async def test_a_watch_cut_at_random_messages_folds_to_the_table(lab: Lab, client: Client) -> None:
    chance, fold, loads = random.Random(3), Fold(lab), 25
    rows = readings(lab, 30)

    async def change() -> None:
        for number in range(loads):
            come = [lab.reading(site="A", day="2024-05-01", serial=n, label=str(number)) for n in range(number % 30)]
            await load(lab, come, chance.sample(rows[29:], 1))

    async with line(client, 3) as through, asyncio.timeout(60), asyncio.TaskGroup() as group:
        method = through.method(MethodKind.WATCH)
        group.create_task(change())
        async for message in async_watch(method.call, method.request(after_version=0), backoff=QUICK):
            fold.apply(message)
            if message.dataset_version == loads:
                break
            await through.cut_now_and_then(2)
        assert through.cuts >= 2
    assert fold.rows == await table(lab, fold)


async def test_the_client_without_stubs_gets_batches_and_watches(lab: Lab, client: Client) -> None:
    rows = readings(lab, 3)
    await load(lab, rows)
    keys = [{name: getattr(row, name) for name in lab.dataset.key} for row in rows]

    def talk() -> None:
        channel = grpc.insecure_channel(f"127.0.0.1:{client.server.port}")
        with ServiceClient(channel, lab.contracts, lab.service.full_name) as service:
            answer = service.batch_get(keys[2], keys[0], read_mask={"paths": ["serial"]})
            assert [record.serial for record in answer.readings] == [2, 0]
            fold = Fold(lab)
            for message in service.watch(after_version=0):
                fold.apply(message)
                if message.dataset_version:
                    break
            assert list(fold.rows.values()) == rows
            with pytest.raises(grpc.RpcError) as caught:
                next(service.watch(after_version=0, epoch="0" * 32))
            assert caught.value.code() is grpc.StatusCode.ABORTED

    await asyncio.to_thread(talk)
