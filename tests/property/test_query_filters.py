"""Whatever the rows, the filter and the order: pages and streams give what the same predicate gives in Python."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import grpc
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from ingest_service.merge.bounds import set_key_bounds
from query_service import plan, stream
from query_service.conditions import query
from query_service.filter.check import compile_filter
from query_service.order import parse_order
from query_service.plan import Planner
from shared.contract.model import IndexField
from shared.local.postgres import EmbeddedPostgres
from shared.postgres.times import exact_times
from tests.conftest import new_database
from tests.integration.query import wares
from tests.integration.query.lab import COMPLETE, Client, Lab, migrated_lab, serving

SETTINGS = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A running service over one table that every example fills anew."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    client: Client
    session: asyncpg.Connection[asyncpg.Record]

    def __repr__(self) -> str:
        return "bench"  # a failing example would show the whole contract

    @property
    def lab(self) -> Lab:
        return self.client.lab

    def fill(self, rows: list[dict[str, Any]]) -> None:
        self.run(self.session.execute("DELETE FROM data.wares"))
        self.run(self.lab.insert([wares.record(self.lab, row) for row in rows], version=1))

    def cut(self, percent: float) -> None:
        """What a load does when the dataset has grown: bounds between parts from a sample of the rows; 0: none."""
        dataset = self.lab.dataset
        self.run(self.session.execute("UPDATE penstock.datasets SET key_bounds = NULL"))
        if percent:
            self.run(self.session.execute(set_key_bounds(dataset), dataset.name, True, percent))

    def position(self, text: str, order: str) -> tuple[IndexField, ...]:
        """The order, with the columns that break its ties."""
        dataset = self.lab.dataset
        condition = compile_filter(dataset, text)
        asked = query([] if condition is None else [condition], parse_order(dataset, order))
        return (*asked.order, *Planner(dataset).position(asked))

    async def stream(self, **fields: Any) -> list[Any]:
        rpc = self.client.channel.unary_stream(
            "/wares.v1.WareService/StreamWares", None, self.lab.response_class("StreamWares").FromString
        )
        call = rpc(self.lab.request("StreamWares", **fields).SerializeToString(), timeout=20)
        return [message async for message in call]

    async def pages(self, sizes: list[int], **fields: Any) -> list[Any]:
        """All records, in pages of these sizes in turn."""
        records: list[Any] = []
        token, number = "", 0
        while True:
            size = sizes[number % len(sizes)]
            page = await self.client.call("ListWares", page_size=size, page_token=token, **fields)
            assert len(page.wares) <= size
            records += page.wares
            token, number = page.next_page_token, number + 1
            if not token:
                return records


@pytest.fixture(scope="module", params=[(1, 2), (10, 490)], ids=["short windows", "windows as served"])
def bench(
    request: pytest.FixtureRequest, postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("filters")
    with (
        pytest.MonkeyPatch.context() as patch,
        migrated_lab(postgres, folder, wares.CONTRACT, "wares") as template,
        new_database(postgres, template.database) as url,
        asyncio.Runner() as runner,
    ):
        patch.setattr(plan, "EXAMINED_PER_ROW", request.param[0])
        patch.setattr(plan, "EXAMINED_AT_LEAST", request.param[1])
        patch.setattr(stream, "FIRST_ROWS", 3)
        lab = Lab(url=url, contracts=template.contracts, name="wares")
        service = serving(lab)
        client = runner.run(service.__aenter__())
        session = runner.run(asyncpg.connect(url))
        runner.run(exact_times(session))  # as the service's own connections have it
        try:
            yield Bench(run=runner.run, client=client, session=session)
        finally:
            runner.run(session.close())
            runner.run(service.__aexit__(None, None, None))


def expected(bench: Bench, rows: list[dict[str, Any]], stated: wares.Stated, order: str) -> list[Any]:
    found = wares.in_order([row for row in rows if stated.meets(row)], bench.position(stated.text, order))
    return [wares.record(bench.lab, row).SerializeToString(deterministic=True) for row in found]


def encoded(records: list[Any]) -> list[bytes]:
    """Bytes, because NaN differs from itself."""
    return [record.SerializeToString(deterministic=True) for record in records]


@SETTINGS
@given(
    rows=wares.rows(),
    stated=wares.FILTERS,
    order=st.sampled_from(wares.ORDERS),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
)
def test_pages_equal_the_predicate(
    bench: Bench, rows: list[dict[str, Any]], stated: wares.Stated, order: str, sizes: list[int]
) -> None:
    note(f"{stated.text} ORDER BY {order}")
    bench.fill(rows)
    got = bench.run(bench.pages(sizes, filter=stated.text, order_by=order))
    assert encoded(got) == expected(bench, rows, stated, order)


@SETTINGS
@given(
    rows=wares.rows(),
    stated=wares.FILTERS,
    order=st.sampled_from(wares.ORDERS),
    cuts=st.lists(st.integers(1, 9), max_size=5),
)
def test_a_stream_resumed_anywhere_equals_the_predicate(
    bench: Bench, rows: list[dict[str, Any]], stated: wares.Stated, order: str, cuts: list[int]
) -> None:
    note(f"{stated.text} ORDER BY {order}")
    bench.fill(rows)
    got: list[Any] = []
    token = ""
    for cut in [*cuts, 0]:
        asked = {"filter": stated.text, "order_by": order, "resume_token": token, "max_rows": cut}
        messages = bench.run(bench.stream(**asked))
        got += [record for message in messages for record in message.wares]
        token = messages[-1].resume_token
    assert messages[-1].status.end_reason == COMPLETE
    assert encoded(got) == expected(bench, rows, stated, order)


PARTITIONED = given(
    rows=wares.rows(),
    stated=wares.FILTERS,
    count=st.integers(1, 8) | st.just(64),
    percents=st.tuples(st.sampled_from([0.0, 40.0, 100.0]), st.sampled_from([None, 0.0, 40.0, 100.0])),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=5),
)


def check_partitions(
    bench: Bench,
    rows: list[dict[str, Any]],
    stated: wares.Stated,
    count: int,
    percents: tuple[float, float | None],
    cuts: list[int],
) -> None:
    """All begin with one set of bounds; with others, or with none, those that were cut short keep their ranges."""
    note(f"{count} of {stated.text}")
    bench.fill(rows)
    began, later = percents
    bench.cut(began)
    readers = [PartitionReader(bench=bench, text=stated.text, count=count, index=index) for index in range(count)]
    sizes = itertools.cycle(cuts)
    for reader in readers:
        reader.go_on(next(sizes))
    if later is not None:
        bench.cut(later)
    while unfinished := [reader for reader in readers if not reader.done]:
        for reader in unfinished:
            reader.go_on(next(sizes))
    got = [record for reader in readers for record in reader.got]
    assert encoded(got) == expected(bench, rows, stated, "")


test_partitions_resumed_anywhere_hold_each_row_once = settings(SETTINGS, max_examples=30)(PARTITIONED(check_partitions))
test_partitions_resumed_anywhere_hold_each_row_once_at_length = pytest.mark.slow(
    pytest.mark.timeout(1200)(settings(SETTINGS, max_examples=500)(PARTITIONED(check_partitions)))
)


@dataclass(slots=True, kw_only=True)
class PartitionReader:
    """One reader's part of a stream, of which it takes some rows at a time."""

    bench: Bench
    text: str
    count: int
    index: int
    got: list[Any] = field(default_factory=list)
    token: str = ""
    done: bool = False

    def go_on(self, most: int) -> None:
        """Reads as many rows, from where it was cut."""
        part = {"count": self.count, "index": self.index}
        asked = {"filter": self.text, "partition": part, "resume_token": self.token, "max_rows": most}
        messages = self.bench.run(self.bench.stream(**asked))
        rows = [record for message in messages for record in message.wares]
        assert len(rows) <= most
        self.got += rows
        self.token, self.done = messages[-1].resume_token, messages[-1].status.end_reason == COMPLETE
        assert rows or self.done


@SETTINGS
@given(
    rows=wares.rows(),
    stated=wares.FILTERS,
    colors=st.lists(st.sampled_from(wares.VALUES["color"]), max_size=3),
    ranks=st.lists(st.sampled_from([1, 2]), max_size=2),
    order=st.sampled_from(wares.ORDERS),
)
def test_typed_filters_narrow_a_filter(
    bench: Bench, rows: list[dict[str, Any]], stated: wares.Stated, colors: list[str], ranks: list[int], order: str
) -> None:
    bench.fill(rows)
    asked = {"filter": stated.text, "order_by": order, "color": colors, "rank": ranks}
    try:
        got = bench.run(bench.pages([4], **asked))
    except grpc.aio.AioRpcError as exc:
        raise AssertionError(exc.details()) from exc
    typed = [row for row in rows if (not colors or row["color"] in colors) and (not ranks or row["rank"] in ranks)]
    assert sorted(encoded(got)) == sorted(expected(bench, typed, stated, order))
