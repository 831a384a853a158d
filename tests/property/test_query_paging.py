"""Whatever the rows, filters, page sizes and resume points: pages and streams put together equal one full scan."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from query_service import rows as row_reading
from query_service.conditions import query
from query_service.plan import Planner
from query_service.positions import positions
from query_service.rows import Page, read_page
from shared.local.postgres import EmbeddedPostgres
from shared.postgres.times import exact_times
from tests.conftest import new_database
from tests.integration.query.lab import COMPLETE, Client, Lab, migrated_lab, serving

SETTINGS = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

SITES = st.sampled_from(
    ["", "a", "A", "aa", "a\u0001", "é", "z\uffff", "z\U00010000", "\x7f", " ", "%_'\"\\"]
) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
GRADES = st.sampled_from([-(2**31), -1, 0, 1, 2, 2**31 - 1])
LABELS = st.sampled_from(["", "x", "y", "é"])
DAYS = st.sampled_from([dt.date.min, dt.date(2024, 2, 29), dt.date.max]) | st.dates()
SERIALS = st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1])
KEYS = st.tuples(SITES, DAYS, GRADES, st.booleans(), SERIALS)


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Any]]:
    keys = draw(st.lists(KEYS, max_size=25, unique=True))
    names = ("site", "day", "grade", "manual", "serial")
    rows = [dict(zip(names, key, strict=True)) for key in keys]
    for row in rows:
        row["label"] = draw(LABELS)
        row["payload"] = b"p" * draw(st.sampled_from([0, 1, 60, 130, 300]))
    return sorted(rows, key=lambda row: (row["site"].encode(), *(row[name] for name in names[1:])))


@st.composite
def filters(draw: st.DrawFn) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    if draw(st.booleans()):
        chosen["label"] = draw(st.lists(LABELS, min_size=1, max_size=4))
    if draw(st.booleans()):
        chosen["grade"] = draw(st.lists(GRADES, min_size=1, max_size=4))
    return chosen


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A running service over one table that every example fills anew."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    client: Client
    session: asyncpg.Connection[asyncpg.Record]

    @property
    def lab(self) -> Lab:
        return self.client.lab

    def fill(self, rows: list[dict[str, Any]]) -> list[Any]:
        """Replaces the table's rows; the records that a full scan gives."""
        records = [self.lab.reading(**{**row, "day": row["day"].isoformat()}) for row in rows]
        self.run(self.session.execute("DELETE FROM data.readings"))
        self.run(self.lab.insert(list(reversed(records)), version=1))
        return records


@pytest.fixture(scope="module")
def bench(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with (
        migrated_lab(postgres, tmp_path_factory.mktemp("paging")) as template,
        new_database(postgres, template.database) as url,
        asyncio.Runner() as runner,
    ):
        lab = Lab(url=url, contracts=template.contracts)
        service = serving(lab)
        client = runner.run(service.__aenter__())
        session = runner.run(asyncpg.connect(url))
        runner.run(exact_times(session))  # as the service's own connections have it
        try:
            yield Bench(run=runner.run, client=client, session=session)
        finally:
            runner.run(session.close())
            runner.run(service.__aexit__(None, None, None))


def matching(records: list[Any], chosen: dict[str, Any]) -> list[Any]:
    return [record for record in records if all(getattr(record, name) in values for name, values in chosen.items())]


@SETTINGS
@given(rows=tables(), chosen=filters(), page_size=st.integers(1, 9))
def test_pages_equal_a_full_scan(
    bench: Bench, rows: list[dict[str, Any]], chosen: dict[str, Any], page_size: int
) -> None:
    records = bench.fill(rows)
    assert bench.run(bench.client.list_all(page_size=page_size, **chosen)) == matching(records, chosen)


@SETTINGS
@given(
    rows=tables(),
    label=st.sampled_from(["", "x"]),
    grades=st.lists(GRADES, max_size=2),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=5),
)
def test_a_stream_cut_and_resumed_anywhere_equals_a_full_scan(
    bench: Bench, rows: list[dict[str, Any]], label: str, grades: list[int], cuts: list[int]
) -> None:
    records = bench.fill(rows)
    chosen = {name: values for name, values in (("label", [label] * bool(label)), ("grade", grades)) if values}
    asked = {"label": label, "grade": grades, "require_same_version": True}
    got: list[Any] = []
    token = b""
    for cut in [*cuts, 0]:
        messages = bench.run(bench.client.stream(resume_token=token, max_rows=cut, **asked))
        got += [record for message in messages for record in message.readings]
        token = messages[-1].resume_token
    assert messages[-1].status.end_reason == COMPLETE
    assert got == matching(records, chosen)


@SETTINGS
@given(
    rows=tables(),
    max_rows=st.integers(1, 9),
    max_bytes=st.integers(1, 600),
    largest=st.integers(1, 400),
    beyond=st.booleans(),
)
def test_pages_bounded_in_bytes_equal_a_full_scan(
    bench: Bench, rows: list[dict[str, Any]], max_rows: int, max_bytes: int, largest: int, beyond: bool
) -> None:
    records = bench.fill(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_reading, "SMALL_ROW_BYTES", largest)
        patch.setattr(row_reading, "READ_BYTES", largest)
        pages = bench.run(read_all(bench, max_rows, max_bytes, beyond=beyond))
    assert all(page.rows <= max_rows and (len(page.data) <= max_bytes or page.rows == 1) for page in pages)
    assert all(page.rows > 0 for page in pages if page.more)
    whole = bench.lab.response_class("ListReadings").FromString(b"".join(page.data for page in pages))
    assert list(whole.readings) == records


async def read_all(bench: Bench, max_rows: int, max_bytes: int, *, beyond: bool) -> list[Page]:
    dataset, planner = bench.lab.dataset, Planner(bench.lab.dataset)

    async def fetch(sql: str, bound: Any) -> Any:
        return await bench.session.fetchrow(sql, *bound)

    asked = query()
    found = positions(dataset, planner.position(asked))
    pages: list[Page] = []
    after: tuple[Any, ...] = ()
    while not pages or pages[-1].more:
        plan = planner.plan(asked, after)
        bound = plan.arguments(asked, after)
        page = await read_page(fetch, dataset, plan, bound, max_rows=max_rows, max_bytes=max_bytes, beyond=beyond)
        pages.append(page)
        if pages[-1].last is not None:
            after = found.values(found.of(pages[-1].last))
    return pages
