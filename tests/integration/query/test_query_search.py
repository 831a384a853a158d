"""Search by a text: a rare one by the trigram index, a frequent one along the walk, with the same pages either way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from query_service import search
from query_service.conditions import query
from query_service.database import PLANNER_SETTINGS
from query_service.filter.check import compile_filter
from query_service.order import parse_order
from query_service.paging import Paging
from query_service.plan import Planner
from query_service.positions import positions
from query_service.search import MOST_FOUND, Searches
from shared.local.postgres import EmbeddedPostgres
from tests.conftest import new_database
from tests.integration.query import wares
from tests.integration.query.lab import Lab, migrated_lab

ROWS = 3_000


@pytest.fixture(scope="module")
def template(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with migrated_lab(postgres, tmp_path_factory.mktemp("search"), wares.CONTRACT, "wares") as found:
        yield found


@pytest.fixture
async def lab(postgres: EmbeddedPostgres, template: Lab) -> Any:
    with new_database(postgres, template.database) as url:
        lab = Lab(url=url, contracts=template.contracts, name="wares")
        await lab.insert([ware(lab, number) for number in range(ROWS)], version=1)
        await lab.execute("ANALYZE data.wares")
        yield lab


def ware(lab: Lab, number: int) -> Any:
    row = {name: values[number % len(values)] for name, values in wares.VALUES.items()}
    title = "Old oak table" if number % 100 == 0 else "plain pine chair"
    return wares.record(lab, row | {"number": number, "title": title})


async def read(lab: Lab, text: str, order: str = "") -> tuple[list[Any], list[str]]:
    """All records, 7 a page, and the statements that were run."""
    condition = compile_filter(lab.dataset, text)
    assert condition is not None
    asked, planner = query([condition], parse_order(lab.dataset, order)), Planner(lab.dataset)
    paging, after = Paging(planner, Searches(planner), asked), ()
    statements, records = list[str](), list[Any]()
    settings = "; ".join(f"SET {name} = {value}" for name, value in PLANNER_SETTINGS.items())
    async with lab.session() as session:
        await session.execute(settings)

        async def fetch(sql: str, bound: Any) -> Any:
            statements.append(sql)
            return await session.fetchrow(sql, *bound)

        while True:
            page = await paging.read(fetch, after, max_rows=7, max_bytes=10**6, beyond=True)
            records += lab.response_class("ListWares").FromString(page.data).wares
            if not page.more:
                return records, statements
            after = where(lab, planner, asked, page)


def where(lab: Lab, planner: Planner, asked: Any, page: Any) -> Any:
    found = positions(lab.dataset, planner.position(asked))
    return found.values(found.of(page.last))


@pytest.mark.parametrize("order", ["", "price desc", "brand desc, weight", "color, price desc"])
@pytest.mark.parametrize(
    "also", ["", " AND price:* AND color != red", " AND color = red", " AND hot = false OR rank = 2"]
)
async def test_both_ways_give_the_same_pages(lab: Lab, order: str, also: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_index, statements = await read(lab, f"title:oak{also}", order)
    assert any("found AS MATERIALIZED" in sql for sql in statements)
    assert not any("reached" in sql for sql in statements)
    monkeypatch.setattr(search, "MOST_EXPECTED", -1)
    along_the_walk, statements = await read(lab, f"title:oak{also}", order)
    assert not any("found AS MATERIALIZED" in sql for sql in statements)
    assert by_index == along_the_walk
    assert by_index


async def test_a_frequent_text_is_read_along_the_walk(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MOST_EXPECTED", ROWS // 2)
    _, statements = await read(lab, "title:pine AND number < 30")
    assert not any("found AS MATERIALIZED" in sql for sql in statements)


async def test_a_text_without_trigrams_is_read_along_the_walk(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the trigram index it would be every entry, and every row."""
    monkeypatch.setattr(search, "MOST_EXPECTED", ROWS)
    for text in ('title:"- -"', 'title:"k t"'):
        records, statements = await read(lab, text)
        assert not any("found AS MATERIALIZED" in sql for sql in statements)
    assert len(records) == ROWS // 100


async def test_where_statistics_are_wrong_the_index_gives_up_and_the_walk_goes_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MOST_EXPECTED", 10**9)
    records, statements = await read(lab, "title:pine AND number < 30")
    assert [record.number for record in records if record.shelf == ""]
    assert len(records) == 29
    assert any("found AS MATERIALIZED" in sql for sql in statements)
    assert any("reached" in sql for sql in statements)


@pytest.mark.parametrize("text", ["title:oak", 'title:"100% oak_tree"', "oak"])
async def test_a_search_uses_the_trigram_index(lab: Lab, text: str) -> None:
    condition = compile_filter(lab.dataset, text)
    assert condition is not None
    found = Searches(Planner(lab.dataset)).of(query([condition]), ())
    assert found is not None
    options = " ".join(f"-c {name}={value}" for name, value in PLANNER_SETTINGS.items())
    with psycopg.connect(lab.url, options=options, cursor_factory=psycopg.RawCursor) as session:
        explain = session.execute(f"EXPLAIN (GENERIC_PLAN, COSTS off) {found.plan.page}".encode()).fetchall()
    plan = "\n".join(row[0] for row in explain)
    assert "Bitmap Index Scan on wares__title_search" in plan
    assert "Seq Scan" not in plan
    assert f"LIMIT {MOST_FOUND + 1}" in found.plan.page
