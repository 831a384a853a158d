"""The figure of many streams at once: what the query process holds in memory while all of them are open.

Half of the clients read on, the others have stopped: gRPC's flow control then leaves their next messages with the
server. Each stream is a partition, so that what all of them send together stays small and every one has an end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from shared.client.channel import ClientTls
from shared.contract.model import MethodKind
from tests.bench.frames import row_prefix
from tests.bench.lab import Lab
from tests.bench.streams import COMPLETE
from tests.bench.table import Figure, Target
from tests.bench.watching import forget_peak, peak_mib

STREAMS = 500
_CHANNELS = 10
_MOST_PARTITIONS = 64
_PARTITION_ROWS = 15_000
_TIMEOUT_S = 120.0
# gRPC widens its windows to megabytes where a connection is fast, and would take the rest of such a stream unread.
_NARROW = [("grpc.http2.bdp_probe", 0)]
# Sessions of query processes that are in a transaction, by pg_stat_activity.
_SNAPSHOTS = """
SELECT count(*) FROM pg_stat_activity WHERE application_name = 'penstock-query' AND xact_start IS NOT NULL
"""


@dataclass(slots=True, kw_only=True)
class Client:
    """One open stream, and what has come of it."""

    partition: int
    call: Any
    rows: int = 0
    last: bytes = field(default=b"", repr=False)

    async def read(self) -> bool:
        """Takes a message; False at the end."""
        message = await self.call.read()
        if not isinstance(message, bytes):  # grpc.aio.EOF
            return False
        self.rows += row_prefix(message)[0]
        self.last = message
        return True

    async def read_on(self) -> None:
        """Takes all that is left."""
        while await self.read():
            pass


def many_streams(lab: Lab) -> Figure:
    """Peak resident memory of a query process with many open streams, and with one."""
    lab.need_orders()
    streams = 50 if lab.trial else STREAMS
    with lab.another_query_service(settings(streams)) as service:

        def peak(count: int) -> float:
            forget_peak(service.process.pid)
            asyncio.run(_open_together(lab, service.address, count))
            return peak_mib(service.process.pid)

        one, many = peak(1), peak(streams)
    each = (many - one) / (streams - 1)
    return Figure(
        name=f"peak RSS of a query process with {streams} open streams, half of them stalled : with one",
        ours=f"{many:.0f} MiB, {each * 1024:.0f} KiB a stream",
        baseline=f"{one:.0f} MiB",
        value=many / one,
        target=Target(),
    )


def settings(streams: int) -> dict[str, str]:
    """Lets one caller have so many streams: each holds a connection, and a quarter of those is kept for other calls.

    Streams that come all at once wait for one another's connection to be made.
    """
    return {
        "PENSTOCK_POOL_SIZE": str(streams * 4 // 3 + 3),
        "PENSTOCK_MAX_STREAMS": str(streams),
        "PENSTOCK_MAX_STREAMS_PER_CALLER": str(streams),
        "PENSTOCK_QUEUE_S": "60",
        "PENSTOCK_CONNECT_TIMEOUT_S": "60",
    }


async def _open_together(lab: Lab, address: str, count: int) -> None:
    """All streams are open before one is read on; those that stall wait until the others have ended."""
    parts = max(1, min(_MOST_PARTITIONS, lab.rows // _PARTITION_ROWS))
    async with _dialled(lab, address, min(count, _CHANNELS)) as channels:
        calls = [channel.unary_stream(lab.path(MethodKind.STREAM), None, None) for channel in channels]
        clients = [_opened(lab, calls[number % len(calls)], number % parts, parts) for number in range(count)]
        reading, stalled = clients[::2], clients[1::2]
        await asyncio.gather(*(client.read() for client in clients))
        _check_open(lab, count)
        await asyncio.gather(*(client.read_on() for client in reading))
        _check_open(lab, len(stalled))
        await asyncio.gather(*(client.read_on() for client in stalled))
    _check_complete(lab, clients, parts)


@asynccontextmanager
async def _dialled(lab: Lab, address: str, count: int) -> AsyncIterator[Sequence[grpc.aio.Channel]]:
    credentials = ClientTls.from_environment(lab.settings).credentials()
    async with AsyncExitStack() as stack:
        channels = [grpc.aio.secure_channel(address, credentials, options=_NARROW) for _ in range(count)]
        yield [await stack.enter_async_context(channel) for channel in channels]


def _opened(lab: Lab, call: Any, partition: int, parts: int) -> Client:
    request = lab.method(MethodKind.STREAM).input_class(partition={"count": parts, "index": partition})
    return Client(partition=partition, call=call(request.SerializeToString(), timeout=_TIMEOUT_S))


def _check_open(lab: Lab, count: int) -> None:
    """So many streams have their snapshots. Streams of few rows have been sent whole by now."""
    if not lab.trial:
        row = lab.database.execute(_SNAPSHOTS).fetchone()
        lab.expect(row, (count,), "streams with an open snapshot")


def _check_complete(lab: Lab, clients: Sequence[Client], parts: int) -> None:
    """Each stream ended complete, and the partitions together have every row."""
    status_of = lab.answer_class(MethodKind.STREAM).FromString
    for client in clients:
        status = status_of(client.last).status
        lab.expect((status.end_reason, status.rows), (COMPLETE, client.rows), "how one of many streams ended")
    if len(clients) >= parts:
        lab.expect(sum(client.rows for client in clients[:parts]), lab.rows, "rows of all partitions")
        for client in clients[parts:]:
            lab.expect(client.rows, clients[client.partition].rows, f"rows of partition {client.partition}")
