"""The figures of List and Get: calls a second, against an echo of the same bytes, and against plain List."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from shared.client.channel import ClientTls, open_async_channel
from shared.contract.model import MethodKind
from tests.bench import baseline_server, echo_server, files
from tests.bench.lab import Lab
from tests.bench.table import Figure, Target, rate, rate_ratio
from tests.bench.timing import alternate

PAGE_ROWS = 50
CONCURRENCY = 32
CACHE = {"PENSTOCK_CACHE_BYTES": str(64 * 1024 * 1024)}
CALL_TIMEOUT_S = 30.0
_PAGES = 200
# Storms of calls differ by a third, with the cores that the threads of client and server happen to run on, and so do
# processes of one program, by a tenth. So there are many, by servers started anew, and their times are added up: a
# median of few says which kind of storm there was more often.
_STORM_CALLS, _STORMS = 1000, 10
_STARTS, _STARTS_REPORTED = 6, 2
_SHAPE = f"{PAGE_ROWS} rows, {CONCURRENCY} concurrent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Serialised requests of one method, and for each the answer that it has to have."""

    path: str
    requests: Sequence[bytes]
    answers: Sequence[bytes]


def list_pages(lab: Lab) -> Figure:
    """Pages a second, against an echo of the same bytes."""
    lab.need_orders()
    name = f"List, {_SHAPE} : grpc.aio echo of the same bytes"
    return _against_echo(lab, name, first_pages(lab), Target(at_least=0.5, aim="0.65"))


def list_cached(lab: Lab) -> Figure:
    """The same pages from a process that keeps them."""
    lab.need_orders()
    name = f"List cached, {_SHAPE} : the same echo"
    return _against_echo(lab, name, first_pages(lab), Target(at_least=0.9), settings=CACHE)


def list_filtered(lab: Lab) -> Figure:
    """Pages of one customer's orders, which lie apart in the table, by the index of the field."""
    lab.need_orders()
    pages = [_pages(lab, *_orders_of(number, lab.rows)) for number in range(min(lab.rows, _PAGES))]
    calls = Calls(
        path=lab.path(MethodKind.LIST),
        requests=[request for page in pages for request in page.requests],
        answers=[answer for page in pages for answer in page.answers],
    )
    name = f"List filter='customer = \"...\"', {_SHAPE} : the same echo"
    return _against_echo(lab, name, calls, Target(), beside=first_pages(lab))


def list_ordered(lab: Lab) -> Figure:
    """The newest orders first, page by page."""
    lab.need_orders()
    newest = heapq.nlargest(_PAGES * PAGE_ROWS, range(lab.rows), key=files.update_second)
    calls = _pages(lab, newest, order_by="update_time desc")
    name = f"List order_by='update_time desc', {_SHAPE} : the same echo"
    return _against_echo(lab, name, calls, Target(), beside=first_pages(lab))


def get(lab: Lab) -> Figure:
    """Single rows a second, against an echo of the same bytes."""
    lab.need_orders()
    method = lab.method(MethodKind.GET)
    chosen = range(0, lab.rows, max(1, lab.rows // _PAGES))
    requests = [method.input_class(id=files.order_id(number)).SerializeToString() for number in chosen]
    call = lab.raw_call(MethodKind.GET)
    answers = [call(request, timeout=CALL_TIMEOUT_S) for request in requests]
    record = lab.answer_class(MethodKind.GET)
    for number, answer in zip(chosen, answers, strict=True):
        lab.expect(record.FromString(answer).id, files.order_id(number), "the order that Get returned")
    calls = Calls(path=lab.path(MethodKind.GET), requests=requests, answers=answers)
    return _against_echo(lab, f"Get, {CONCURRENCY} concurrent : the same echo", calls, Target())


def first_pages(lab: Lab) -> Calls:
    """List without filter and order."""
    return _pages(lab, range(min(lab.rows, _PAGES * PAGE_ROWS)))


def _orders_of(number: int, rows: int) -> tuple[Sequence[int], str]:
    """The rows of the customer of a row, and the filter for them."""
    wanted = files.customer(files.customer_number(number))
    return range(number % files.CUSTOMERS, rows, files.CUSTOMERS), f'customer = "{wanted}"'


def _pages(lab: Lab, numbers: Sequence[int], filter_text: str = "", order_by: str = "") -> Calls:
    """A walk from page to page; each page is checked against the rows, given by number, that it must hold."""
    method = lab.method(MethodKind.LIST)
    call = lab.raw_call(MethodKind.LIST)
    page_class = lab.answer_class(MethodKind.LIST)
    calls = Calls(path=lab.path(MethodKind.LIST), requests=(requests := []), answers=(answers := []))
    token = ""
    for first in range(0, len(numbers), PAGE_ROWS):
        asked = method.input_class(page_size=PAGE_ROWS, page_token=token, filter=filter_text, order_by=order_by)
        requests.append(asked.SerializeToString())
        answers.append(call(requests[-1], timeout=CALL_TIMEOUT_S))
        page = page_class.FromString(answers[-1])
        expected = [files.order_id(number) for number in numbers[first : first + PAGE_ROWS]]
        lab.expect([order.id for order in page.orders], expected, "the orders of a page")
        token = page.next_page_token
    return calls


def _against_echo(
    lab: Lab,
    name: str,
    calls: Calls,
    target: Target,
    *,
    settings: Mapping[str, str] = MappingProxyType({}),
    beside: Calls | None = None,
) -> Figure:
    """Rates of the calls and of the echo in turn, by servers of their own; those of `beside` too, to be told with ours.

    `settings` are the query service's.
    """
    starts, storms, count = (1, 1, 200) if lab.trial else (_STARTS, _STORMS, _STORM_CALLS)
    if target == Target():
        starts = min(starts, _STARTS_REPORTED)
    payload = lab.directory / "payload.bin"
    payload.write_bytes(calls.answers[0])
    said = Calls(path=echo_server.METHOD, requests=calls.requests, answers=[calls.answers[0]] * len(calls.answers))
    environment = {**lab.server_environment(), echo_server.PAYLOAD: str(payload)}
    rounds: list[Sequence[float]] = []
    for _ in range(starts):
        with (
            lab.another_query_service(settings) as service,
            baseline_server.running("tests.bench.echo_server", environment, lab.directory) as echo,
        ):
            places = [(service.address, calls), (echo, said), *([(service.address, beside)] if beside else [])]
            acts = [partial(_timed, lab, at, asked, count) for at, asked in places]
            alternate(*acts, repeats=1)  # statements are prepared, caches filled
            rounds += zip(*alternate(*acts, repeats=storms), strict=True)
    total, (ours, theirs, *others) = count * len(rounds), [[sum(times)] for times in zip(*rounds, strict=True)]
    words = [f"{rate_ratio(ours, other):.2f} of List's {rate(total, other, 'rps')}" for other in others]
    return Figure(
        name=name,
        ours=", ".join([rate(total, ours, "rps"), *words]),
        baseline=rate(total, theirs, "rps"),
        value=rate_ratio(ours, theirs),
        target=target,
    )


def _timed(lab: Lab, address: str, calls: Calls, count: int) -> float:
    """Seconds for so many calls, the given ones in turn, each answered as it has to be."""
    chosen = [number % len(calls.requests) for number in range(count)]
    elapsed_s, got = asyncio.run(_storm(lab, address, calls.path, [calls.requests[number] for number in chosen]))
    wrong = sum(answer != calls.answers[number] for number, answer in zip(chosen, got, strict=True))
    lab.expect(wrong, 0, f"wrong answers of {calls.path}")
    return elapsed_s


async def _storm(lab: Lab, address: str, path: str, requests: Sequence[bytes]) -> tuple[float, Sequence[bytes]]:
    """Seconds for all requests, CONCURRENCY of them at any time over one channel, and the answers in order."""
    answers = [b""] * len(requests)
    waiting = iter(range(len(requests)))
    async with open_async_channel(address, ClientTls.from_environment(lab.settings)) as channel:
        call: Any = channel.unary_unary(path, None, None)
        await call(requests[0], timeout=CALL_TIMEOUT_S)

        async def worker() -> None:
            for number in waiting:
                answers[number] = await call(requests[number], timeout=CALL_TIMEOUT_S)

        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENCY):
                group.create_task(worker())
        return time.perf_counter() - begin, answers
