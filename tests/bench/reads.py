"""The figures of the query service: Stream against a hand-written server and psql, List and Get against an echo."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc

from shared.client.channel import ClientTls, open_async_channel, open_channel
from shared.contract.model import MethodKind
from tests.bench import baseline_server, echo_server, files, handwritten_server
from tests.bench.frames import Digest, copy_digest, digest
from tests.bench.lab import Lab
from tests.bench.table import Figure, Target, rate, rate_ratio
from tests.bench.timing import alternate, timed

PAGE_ROWS = 50
CONCURRENCY = 32
_PAGES = 200
_STREAM_TIMEOUT_S = 600.0
_CALL_TIMEOUT_S = 30.0
_COMPLETE = 1


def stream_handwritten(lab: Lab) -> Figure:
    """Rows a second of StreamOrders, and of the same done by hand."""
    lab.need_baseline()
    lab.need_orders()
    with _baseline_channel(lab, "tests.bench.handwritten_server", {}) as by_hand:
        ours, theirs = alternate(
            lambda: _stream_ours(lab),
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
    ours, theirs = alternate(lambda: _stream_ours(lab), lambda: timed(lab.psql.copy_out))
    return Figure(
        name="Stream all : psql COPY (SELECT _wire ... ORDER BY key) TO STDOUT (FORMAT binary)",
        ours=rate(lab.rows, ours, "rows/s"),
        baseline=rate(lab.rows, theirs, "rows/s"),
        value=rate_ratio(ours, theirs),
        target=Target(at_least=0.5, aim="0.8"),
    )


def list_pages(lab: Lab) -> Figure:
    """Pages a second, against an echo of the same bytes."""
    lab.need_orders()
    requests, answers = _walk(lab)
    return _against_echo(
        lab,
        f"List, {PAGE_ROWS} rows, {CONCURRENCY} concurrent : grpc.aio echo of the same bytes",
        MethodKind.LIST,
        requests,
        answers,
        Target(at_least=0.5, aim="0.65"),
    )


def list_cached(lab: Lab) -> Figure:
    """The same pages from a process that keeps them."""
    lab.need_orders()
    requests, answers = _walk(lab)
    with lab.another_query_service({"PENSTOCK_CACHE_BYTES": str(64 * 1024 * 1024)}) as address:
        return _against_echo(
            lab,
            f"List cached, {PAGE_ROWS} rows, {CONCURRENCY} concurrent : the same echo",
            MethodKind.LIST,
            requests,
            answers,
            Target(at_least=0.9),
            address,
        )


def get(lab: Lab) -> Figure:
    """Single rows a second, against an echo of the same bytes."""
    lab.need_orders()
    method = lab.method(MethodKind.GET)
    chosen = range(0, lab.rows, max(1, lab.rows // _PAGES))
    requests = [method.input_class(id=files.order_id(number)).SerializeToString() for number in chosen]
    call = lab.raw_call(MethodKind.GET)
    answers = [call(request, timeout=_CALL_TIMEOUT_S) for request in requests]
    record = lab.answer_class(MethodKind.GET)
    for number, answer in zip(chosen, answers, strict=True):
        lab.expect(record.FromString(answer).id, files.order_id(number), "the order that Get returned")
    name = f"Get, {CONCURRENCY} concurrent : the same echo"
    return _against_echo(lab, name, MethodKind.GET, requests, answers, Target())


def _stream_ours(lab: Lab) -> float:
    elapsed_s, responses = _stream(lab, lab.query, lab.path(MethodKind.STREAM))
    status = lab.answer_class(MethodKind.STREAM).FromString(responses[-1]).status
    lab.expect((status.end_reason, status.rows), (_COMPLETE, lab.rows), "how the stream ended")
    return elapsed_s


def _stream(lab: Lab, channel: grpc.Channel, path: str) -> tuple[float, Sequence[bytes]]:
    """Seconds until the whole stream is here, and its messages, which are looked at after the clock has stopped."""
    begin = time.perf_counter()
    responses: list[bytes] = list(channel.unary_stream(path, None, None)(b"", timeout=_STREAM_TIMEOUT_S))
    elapsed_s = time.perf_counter() - begin
    lab.expect(digest(responses).rows, lab.rows, f"rows of {path}")
    return elapsed_s, responses


def _check_same_rows(lab: Lab, by_hand: grpc.Channel) -> None:
    """The three ways give the same bytes: rebuilt from typed columns that psql loaded, streamed, and copied."""
    expected: Digest = digest(_stream(lab, by_hand, handwritten_server.METHOD)[1])
    lab.expect(digest(_stream(lab, lab.query, lab.path(MethodKind.STREAM))[1]), expected, "SHA-256 of Stream")
    copied = lab.directory / "copied.bin"
    lab.psql.copy_out(copied)
    lab.expect(copy_digest(copied), expected, "SHA-256 of psql's COPY")
    copied.unlink()


def _walk(lab: Lab) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """The requests for the first pages, and their answers; each page is checked against the rows it must hold."""
    method = lab.method(MethodKind.LIST)
    call = lab.raw_call(MethodKind.LIST)
    page_class = lab.answer_class(MethodKind.LIST)
    requests: list[bytes] = []
    answers: list[bytes] = []
    token = ""
    for first in range(0, min(lab.rows, _PAGES * PAGE_ROWS), PAGE_ROWS):
        requests.append(method.input_class(page_size=PAGE_ROWS, page_token=token).SerializeToString())
        answers.append(call(requests[-1], timeout=_CALL_TIMEOUT_S))
        page = page_class.FromString(answers[-1])
        ids = [order.id for order in page.orders]
        expected = [files.order_id(number) for number in range(first, min(first + PAGE_ROWS, lab.rows))]
        lab.expect(ids, expected, "the orders of a page")
        token = page.next_page_token
    return requests, answers


def _against_echo(
    lab: Lab,
    name: str,
    kind: MethodKind,
    requests: Sequence[bytes],
    answers: Sequence[bytes],
    target: Target,
    address: str = "",
) -> Figure:
    address = address or lab.settings["PENSTOCK_QUERY_ADDRESS"]
    payload = lab.directory / "payload.bin"
    payload.write_bytes(answers[0])
    calls = 200 if lab.rows < 100_000 else 4000
    chosen = [number % len(requests) for number in range(calls)]
    path = lab.path(kind)
    with _baseline_address(lab, "tests.bench.echo_server", {echo_server.PAYLOAD: str(payload)}) as echo:

        def one(address: str, method: str, expected: Callable[[int], bytes]) -> float:
            elapsed_s, got = asyncio.run(_storm(lab, address, method, [requests[number] for number in chosen]))
            wrong = sum(answer != expected(number) for number, answer in zip(chosen, got, strict=True))
            lab.expect(wrong, 0, f"wrong answers of {method}")
            return elapsed_s

        ours, theirs = alternate(
            lambda: one(address, path, lambda number: answers[number]),
            lambda: one(echo, echo_server.METHOD, lambda _: answers[0]),
        )
    return Figure(
        name=name,
        ours=rate(calls, ours, "rps"),
        baseline=rate(calls, theirs, "rps"),
        value=rate_ratio(ours, theirs),
        target=target,
    )


async def _storm(lab: Lab, address: str, path: str, requests: Sequence[bytes]) -> tuple[float, Sequence[bytes]]:
    """Seconds for all requests, CONCURRENCY of them at any time over one channel, and the answers in order."""
    answers = [b""] * len(requests)
    waiting = iter(range(len(requests)))
    async with open_async_channel(address, ClientTls.from_environment(lab.settings)) as channel:
        call: Any = channel.unary_unary(path, None, None)
        await call(requests[0], timeout=_CALL_TIMEOUT_S)

        async def worker() -> None:
            for number in waiting:
                answers[number] = await call(requests[number], timeout=_CALL_TIMEOUT_S)

        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENCY):
                group.create_task(worker())
        return time.perf_counter() - begin, answers


@contextmanager
def _baseline_address(lab: Lab, module: str, environment: dict[str, str]) -> Iterator[str]:
    with baseline_server.running(module, {**lab.server_environment(), **environment}, lab.directory) as address:
        yield address


@contextmanager
def _baseline_channel(lab: Lab, module: str, environment: dict[str, str]) -> Iterator[grpc.Channel]:
    with (
        _baseline_address(lab, module, environment) as address,
        open_channel(address, ClientTls.from_environment(lab.settings)) as channel,
    ):
        yield channel
