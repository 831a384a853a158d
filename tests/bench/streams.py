"""The figures of Stream: against a hand-written server and psql, with a read_mask, and in parts for two readers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import grpc

from shared.client.channel import ClientTls, open_channel
from shared.contract.model import MethodKind
from tests.bench import baseline_server, files, handwritten_server
from tests.bench.frames import Digest, copy_digest, digest
from tests.bench.lab import Lab
from tests.bench.stream_reader import Reader, reading
from tests.bench.table import Figure, Target, rate, rate_ratio, seconds, time_ratio
from tests.bench.timing import alternate, timed

COMPLETE = 1
READERS = 2
MASK = ("id", "price", "currency")
_TIMEOUT_S = 600.0


def stream_handwritten(lab: Lab) -> Figure:
    """Rows a second of StreamOrders, and of the same done by hand."""
    lab.need_baseline()
    lab.need_orders()
    with _handwritten(lab) as by_hand:
        ours, theirs = alternate(
            lambda: _stream_ours(lab)[0],
            lambda: _stream(lab, by_hand, handwritten_server.METHOD)[0],
        )
        _check_same_rows(lab, by_hand)
    return Figure(
        name=f"Stream all {lab.rows:,} rows : hand-written grpc.aio + asyncpg server",
        ours=rate(lab.rows, ours, "rows/s"),
        baseline=rate(lab.rows, theirs, "rows/s"),
        value=rate_ratio(ours, theirs),
        target=Target(at_least=6, aim="10"),
    )


def stream_copy(lab: Lab) -> Figure:
    """Rows a second of StreamOrders, and of psql's COPY of the same bytes."""
    lab.need_orders()
    ours, theirs = alternate(lambda: _stream_ours(lab)[0], lambda: timed(lab.psql.copy_out))
    return Figure(
        name="Stream all : psql COPY (SELECT _wire ... ORDER BY key) TO STDOUT (FORMAT binary)",
        ours=rate(lab.rows, ours, "rows/s"),
        baseline=rate(lab.rows, theirs, "rows/s"),
        value=rate_ratio(ours, theirs),
        target=Target(at_least=0.5, aim="0.8"),
    )


def stream_masked(lab: Lab) -> Figure:
    """Rows a second with a read_mask, and without."""
    lab.need_orders()
    request = _request(lab, read_mask={"paths": MASK})
    ours, theirs = alternate(lambda: _stream_ours(lab, request)[0], lambda: _stream_ours(lab)[0])
    _check_masked(lab, _stream_ours(lab, request)[1])
    return Figure(
        name=f"Stream all with a read_mask of {len(MASK)} of {len(files.COLUMNS)} fields : Stream all",
        ours=rate(lab.rows, ours, "rows/s"),
        baseline=rate(lab.rows, theirs, "rows/s"),
        value=rate_ratio(ours, theirs),
        target=Target(),
    )


def stream_partitioned(lab: Lab) -> Figure:
    """The time until all parts are with their readers, a process each, and until one of them has everything."""
    lab.need_orders()
    whole = [_request(lab)]
    parts = [_request(lab, partition={"count": READERS, "index": index}) for index in range(READERS)]
    path = lab.path(MethodKind.STREAM)
    with ExitStack() as stack:
        readers = [stack.enter_context(reading(lab, path, f"reader-{number}")) for number in range(READERS)]
        ours, theirs = alternate(lambda: _at_once(readers, parts), lambda: _at_once(readers, whole))
        _check_parts(lab, readers, parts, whole)
    return Figure(
        name=f"Stream all in {READERS} partitions, a client process each : one Stream",
        ours=seconds(ours),
        baseline=seconds(theirs),
        value=time_ratio(ours, theirs),
        target=Target(),
    )


def _request(lab: Lab, **fields: object) -> bytes:
    encoded: bytes = lab.method(MethodKind.STREAM).input_class(**fields).SerializeToString()
    return encoded


def _stream_ours(lab: Lab, request: bytes = b"") -> tuple[float, Sequence[bytes]]:
    elapsed_s, responses = _stream(lab, lab.query, lab.path(MethodKind.STREAM), request)
    status = lab.answer_class(MethodKind.STREAM).FromString(responses[-1]).status
    lab.expect((status.end_reason, status.rows), (COMPLETE, lab.rows), "how the stream ended")
    return elapsed_s, responses


def _stream(lab: Lab, channel: grpc.Channel, path: str, request: bytes = b"") -> tuple[float, Sequence[bytes]]:
    """Seconds until the whole stream is here, and its messages, which are looked at after the clock has stopped."""
    begin = time.perf_counter()
    responses: list[bytes] = list(channel.unary_stream(path, None, None)(request, timeout=_TIMEOUT_S))
    elapsed_s = time.perf_counter() - begin
    lab.expect(digest(responses).rows, lab.rows, f"rows of {path}")
    return elapsed_s, responses


def _check_same_rows(lab: Lab, by_hand: grpc.Channel) -> None:
    """The three ways give the same bytes: rebuilt from typed columns that psql loaded, streamed, and copied."""
    expected: Digest = digest(_stream(lab, by_hand, handwritten_server.METHOD)[1])
    lab.expect(digest(_stream_ours(lab)[1]), expected, "SHA-256 of Stream")
    copied = lab.directory / "copied.bin"
    lab.psql.copy_out(copied)
    lab.expect(copy_digest(copied), expected, "SHA-256 of psql's COPY")
    copied.unlink()


def _check_masked(lab: Lab, responses: Sequence[bytes]) -> None:
    """Every row has the wanted fields and no other: it is what is left of the row when it is made anew from those."""
    message_class = lab.answer_class(MethodKind.STREAM)
    position = 0
    for response in responses:
        orders = message_class.FromString(response).orders
        wanted = message_class(orders=[{name: getattr(order, name) for name in MASK} for order in orders]).orders
        lab.expect(list(orders) == list(wanted), True, "a message holds nothing but the fields of its read_mask")
        numbers = range(position, position + len(orders))
        lab.expect([order.id for order in orders], list(map(files.order_id, numbers)), "the orders of a message")
        position = numbers.stop


def _at_once(readers: Sequence[Reader], requests: Sequence[bytes]) -> float:
    """Seconds until as many readers as there are requests, begun together, have all messages."""
    begun = list(zip(readers, requests, strict=False))

    def act() -> None:
        for reader, request in begun:
            reader.begin(request)
        for reader, _ in begun:
            reader.await_end()

    return timed(act)


def _check_parts(lab: Lab, readers: Sequence[Reader], parts: Sequence[bytes], whole: Sequence[bytes]) -> None:
    """The parts one behind the other are the whole, byte for byte: so each row is in exactly one of them."""

    def received(requests: Sequence[bytes]) -> Sequence[Sequence[bytes]]:
        _at_once(readers, requests)
        return [reader.received() for reader, _ in zip(readers, requests, strict=False)]

    status_of = lab.answer_class(MethodKind.STREAM).FromString
    found, (expected,) = received(parts), received(whole)
    for responses in (*found, expected):
        lab.expect(status_of(responses[-1]).status.end_reason, COMPLETE, "how a part ended")
    joined = digest([response for responses in found for response in responses])
    lab.expect(joined.rows, lab.rows, "rows of all parts")
    lab.expect(joined, digest(expected), "SHA-256 of the parts, one behind the other")


@contextmanager
def _handwritten(lab: Lab) -> Iterator[grpc.Channel]:
    module = "tests.bench.handwritten_server"
    with (
        baseline_server.running(module, lab.server_environment(), lab.directory) as address,
        open_channel(address, ClientTls.from_environment(lab.settings)) as channel,
    ):
        yield channel
