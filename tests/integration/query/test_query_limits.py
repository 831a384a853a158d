"""One caller cannot starve another: connections and streams are shared by identity, over mTLS."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest

from query_service.settings import QueryLimits, stream_slots
from shared.client.channel import ClientTls, open_async_channel
from shared.local.certificates import CertificateAuthority, CertificateFiles
from shared.settings import RpcSettings, TlsFiles
from tests.integration.query.lab import Client, Lab, details, locked, readings, reasons, refused, serving, until

GREEDY, MODEST = "spiffe://lab/greedy", "spiffe://lab/modest"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CertificateFiles]:
    authority = CertificateAuthority.create(tmp_path_factory.mktemp("ca"))
    return {
        "server": authority.issue("server", dns=["localhost"], ips=["127.0.0.1"]),
        GREEDY: authority.issue("greedy", uris=[GREEDY]),
        MODEST: authority.issue("modest", uris=[MODEST]),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Callers:
    """Two callers of one server, and the order in which their calls were answered."""

    greedy: Client
    modest: Client
    answered: list[str] = field(default_factory=list)

    async def list(self, caller: str) -> None:
        client = self.greedy if caller == GREEDY else self.modest
        assert (await client.call("ListReadings", page_size=1)).readings
        self.answered.append(caller)

    async def until_running(self, count: int) -> None:
        """Returns once so many calls are inside the server."""
        async with asyncio.timeout(20):
            while len(self.greedy.server.in_flight) < count:  # noqa: ASYNC110  nothing tells when one comes in
                await asyncio.sleep(0.01)


@asynccontextmanager
async def two_callers(
    lab: Lab, certificates: dict[str, CertificateFiles], pool_size: int, limits: QueryLimits | None = None
) -> AsyncIterator[Callers]:
    server = certificates["server"]
    rpc = RpcSettings(
        listen="127.0.0.1:0",
        probe_listen="127.0.0.1:0",
        drain_s=0.0,
        tls=TlsFiles(ca=server.ca, cert=server.certificate, key=server.key),
        allowed_identities=frozenset({GREEDY, MODEST}),
    )
    async with (
        serving(lab, pool_size=pool_size, limits=limits, rpc=rpc) as client,
        dial(client, certificates[GREEDY]) as greedy,
        dial(client, certificates[MODEST]) as modest,
    ):
        yield Callers(greedy=greedy, modest=modest)


@asynccontextmanager
async def dial(client: Client, files: CertificateFiles) -> AsyncIterator[Client]:
    tls = ClientTls.from_environment(files.environment())
    async with open_async_channel(f"localhost:{client.server.port}", tls) as channel:
        yield Client(lab=client.lab, channel=channel, server=client.server)


async def test_a_modest_caller_is_answered_while_a_greedy_ones_calls_wait(
    lab: Lab, certificates: dict[str, CertificateFiles]
) -> None:
    await lab.insert(readings(lab, 1))
    async with two_callers(lab, certificates, pool_size=4, limits=QueryLimits(queue_s=60)) as callers:
        async with lab.session() as blocker, blocker.transaction():
            await blocker.execute("LOCK TABLE data.readings")
            greedy = [asyncio.create_task(callers.list(GREEDY)) for _ in range(200)]
            await callers.until_running(200)
            modest = [asyncio.create_task(callers.list(MODEST)) for _ in range(10)]
            await callers.until_running(210)
            await until(lab, locked(3))  # all connections are open: to open one takes as long as many pages
        await asyncio.gather(*greedy, *modest)
    # In order of arrival, all 200 would have been answered before the first of the ten. The median, because a busy
    # machine may hold up any one of them after its turn has come.
    places = [place for place, caller in enumerate(callers.answered) if caller == MODEST]
    assert len(places) == 10
    assert statistics.median(places) < 60


async def test_streams_of_one_caller_leave_room_for_anothers(
    lab: Lab, certificates: dict[str, CertificateFiles]
) -> None:
    await lab.insert(readings(lab, 10))
    async with two_callers(lab, certificates, pool_size=6, limits=QueryLimits(queue_s=0.1)) as callers:
        async with lab.session() as blocker, blocker.transaction():
            # Nobody reads before the lock is gone; how much of a stream gRPC buffers would be anybody's guess.
            await blocker.execute("LOCK TABLE data.readings")
            # Of five connections four serve streams, and three those of one caller.
            streams = [asyncio.create_task(callers.greedy.stream()) for _ in range(3)]
            await until(lab, locked(3))
            error = await refused(callers.greedy.open_stream().read(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            assert reasons(error) == ["TOO_MANY_STREAMS"]
            assert details(error, "RetryInfo")
            streams.append(asyncio.create_task(callers.modest.stream()))
            await until(lab, locked(4))
            page = asyncio.create_task(callers.list(GREEDY))
            await until(lab, locked(5))
        await page
        for messages in await asyncio.gather(*streams):
            assert sum(len(message.readings) for message in messages) == 10


async def test_a_wait_for_a_connection_ends_with_when_to_ask_again(lab: Lab) -> None:
    async with serving(lab, pool_size=3, limits=QueryLimits(queue_s=0.1)) as client:
        async with lab.session() as blocker, blocker.transaction():
            await blocker.execute("LOCK TABLE data.readings")
            holding = [asyncio.create_task(client.call("ListReadings")) for _ in range(2)]
            await until(lab, locked(2))
            error = await refused(client.call("ListReadings"), grpc.StatusCode.RESOURCE_EXHAUSTED)
            assert reasons(error) == ["NO_FREE_CONNECTION"]
            assert details(error, "RetryInfo")
        await asyncio.gather(*holding)


@pytest.mark.parametrize(
    ("connections", "told_apart", "slots"),
    [(1, True, (1, 1)), (2, True, (1, 1)), (3, True, (2, 1)), (9, True, (7, 6)), (9, False, (7, 7))],
)
def test_streams_leave_connections_to_pages_and_a_caller_streams_to_others(
    connections: int, told_apart: bool, slots: tuple[int, int]
) -> None:
    assert stream_slots(QueryLimits(), connections, told_apart=told_apart) == slots


def test_the_number_of_streams_can_be_set_but_not_beyond_the_pool() -> None:
    assert stream_slots(QueryLimits(streams=4, streams_per_caller=2), 9, told_apart=True) == (4, 2)
    assert stream_slots(QueryLimits(streams=100, streams_per_caller=100), 9, told_apart=True) == (7, 7)
