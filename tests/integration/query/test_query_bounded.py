"""Whatever a contract allows to ask for: a page examines at most 20 times its rows and 1,000 more.

100,000 rows, most of them alike, the rest at the far end of every index. What EXPLAIN counts is held against the limit.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import psycopg
import pytest
from psycopg import sql

from query_service.conditions import Query, query
from query_service.database import PLANNER_SETTINGS
from query_service.filter.check import compile_filter
from query_service.order import parse_order
from query_service.plan import Planner
from query_service.ranking import MOST_RANKED
from shared.contract.model import Dataset
from shared.errors import InvalidRequest
from shared.local.postgres import EmbeddedPostgres
from tests.conftest import new_database
from tests.integration.query import wares
from tests.integration.query.lab import Lab, migrated_lab

ROWS = 100_000
PAGES = [1, 50]

# In nine of ten rows every field has its commonest value; NULLs are common too, and `hot` rows are red ones never.
FILL = f"""
INSERT INTO data.wares
SELECT CASE WHEN n % 10 < 9 THEN 'A' ELSE 'B' || n % 7 END, n, color, CASE WHEN n % 2 = 0 THEN NULL ELSE n % 5 END,
    CASE WHEN n % 10 < 9 THEN 'acme' WHEN n % 10 = 9 AND n % 3 = 0 THEN NULL ELSE 'b' || n % 11 END,
    CASE WHEN n % 1000 = 0 THEN 2 ELSE 1 END, color <> 'red' AND n % 1000 = 7,
    CASE WHEN n % 3 = 0 THEN NULL ELSE '2024-05-01T00:00:00Z'::timestamptz + (n % 100) * interval '1 hour' END,
    CASE WHEN n % 20 = 0 THEN '2024-05-01'::date + n % 9 END, (n % 50) * interval '1 second',
    CASE WHEN n % 97 = 0 THEN 'NaN'::real ELSE n % 3 END, n % 4,
    CASE WHEN n % 500 = 0 THEN '{{x,y}}' ELSE '{{z}}' END::text[], '{{1.5}}',
    CASE WHEN n % 700 = 0 THEN 'Old oak table' ELSE 'plain pine chair' END,
    CASE WHEN n % 2 = 0 THEN n % 6 END, NULL, '',
    CASE WHEN n % 20 < 18 THEN 'Ulm' WHEN n % 20 = 18 THEN '' WHEN n % 3 > 0 THEN 't' || n % 11 END,
    n % 3, '{{}}', CASE WHEN n % 400 = 0 THEN 'q' || n % 3 END, NULL, decode(repeat('00', 100), 'hex'), 1, 1
FROM (
    SELECT n, CASE WHEN n % 100 < 95 THEN 'red' ELSE 'c' || n % 9 END AS color FROM generate_series(1, {ROWS}) AS n
) AS s
"""
TESTS = [
    "color = red",
    "color = c3",
    "color = nowhere",
    "color = c1 OR color = c3 OR color = c5",
    'color = "c*"',
    "color != red",
    "price > 3",
    "price <= 0",
    "NOT price:*",
    "price:*",
    "brand = b4",
    "brand:*",
    "NOT brand:*",
    "rank = RANK_HIGH",
    "rank = RANK_LOW OR rank = RANK_HIGH",
    "hot = true",
    "made > 2024-05-04T00:00:00Z",
    "best = 2024-05-03 OR best = 2024-05-04",
    "lead >= 49s",
    "weight = NaN",
    "units = 3",
    "tags:x",
    "title:oak",
    "batch = 5",
    "shelf = B3",
    "shelf = B3 OR shelf = B4 OR shelf = nowhere",
    "number > 99990",
    "color = c3 OR hot = true",
    "maker.town = t4",
    "NOT maker.town:*",
    "maker.site.code:* AND maker.grade = 2",
    " OR ".join(f"number = {n * 17}" for n in range(60)),
    " OR ".join(f"units = {n}" for n in range(60)),
]


@dataclass(frozen=True, kw_only=True)
class Shop:
    """The filled table, and a session that plans as the service does."""

    dataset: Dataset
    planner: Planner
    session: psycopg.Connection[Any]

    def asked(self, text: str, order: str) -> Query:
        condition = compile_filter(self.dataset, text)
        return query([] if condition is None else [condition], parse_order(self.dataset, order))

    def positions(self, asked: Query) -> list[tuple[Any, ...]]:
        """The beginning, and rows of the table where the walk may go on: the first, some from the middle, the last."""
        order = self.planner.position(asked)
        names = ", ".join(f'"{field.name}"' for field in order)
        rows = self.session.execute(
            f"SELECT {names} FROM data.wares WHERE number IN (1, 500, 1000, 47880, 60013, 99990, 99999)".encode()
        )
        return [(), *rows.fetchall()]

    def examined(self, asked: Query, after: tuple[Any, ...], rows: int) -> tuple[int, dict[str, Any]]:
        """How many rows and index entries the page's statement touched, and its plan."""
        plan = self.planner.plan(asked, after)
        bound = [self.dataset.name, rows + 1, 10**6, *plan.arguments(asked, after)]
        # Prepared and with the service's settings this is the generic plan, which serves all values.
        self.session.execute(f"PREPARE page AS {plan.page}".encode())
        values = ", ".join(sql.Literal(value).as_string(self.session) for value in bound)
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE page({values})"
        found = self.session.execute(explain.encode()).fetchone()
        self.session.execute(b"DEALLOCATE page")
        assert found is not None
        top = found[0][0]["Plan"]
        return sum(touched(node) for node in nodes(top)), top


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for inner in node.get("Plans", ()):
        yield from nodes(inner)


def touched(node: dict[str, Any]) -> int:
    if "Relation Name" not in node or node["Relation Name"] != "wares":
        return 0
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return int((node["Actual Rows"] + removed) * node["Actual Loops"])


@pytest.fixture(scope="module")
def shop(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    options = " ".join(f"-c {name}={value}" for name, value in PLANNER_SETTINGS.items())
    with (
        migrated_lab(postgres, tmp_path_factory.mktemp("bounded"), wares.CONTRACT, "wares") as template,
        new_database(postgres, template.database) as url,
        psycopg.connect(url, options=options, cursor_factory=psycopg.RawCursor, autocommit=True) as session,
    ):
        session.execute(FILL.encode())
        session.execute(b"VACUUM ANALYZE data.wares")
        lab = Lab(url=url, contracts=template.contracts, name="wares")
        yield Shop(dataset=lab.dataset, planner=Planner(lab.dataset), session=session)


def check(shop: Shop, text: str, order: str, rows: int, *, most: int = 8) -> None:
    asked = shop.asked(text, order)
    for after in shop.positions(asked)[:most]:
        if any(value is None for value in after) and not nullable(shop, asked, after):
            continue
        examined, top = shop.examined(asked, after, rows)
        limit = 20 * rows + 1000
        told = (text, order, after, examined, top)
        assert examined <= limit, told
        assert not {node["Node Type"] for node in nodes(top)} & {"Seq Scan", "Bitmap Heap Scan"}, told
        assert not [node for node in nodes(top) if node["Node Type"] == "Sort" and "Relation Name" in str(node)], told
        # An index may pass over entries that EXPLAIN does not count, but not without touching pages.
        assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] <= 2 * limit + 2000, told


def nullable(shop: Shop, asked: Query, after: tuple[Any, ...]) -> bool:
    return all(
        value is not None or shop.dataset.column(field.name).nullable
        for field, value in zip(shop.planner.position(asked), after, strict=True)
    )


@pytest.mark.parametrize("order", wares.ORDERS)
def test_every_order_is_bounded(shop: Shop, order: str) -> None:
    for rows in PAGES:
        check(shop, "", order, rows)


@pytest.mark.parametrize("text", TESTS)
def test_every_test_is_bounded_in_every_order(shop: Shop, text: str) -> None:
    for order in random.Random(text).sample(wares.ORDERS[1:], 3):
        check(shop, text, order, 50, most=4)
    check(shop, text, "", 50)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("order", wares.ORDERS)
def test_every_pair_of_tests_is_bounded(shop: Shop, order: str) -> None:
    for first, second in combinations(TESTS, 2):
        check(shop, f"({first}) AND ({second})", order, 50, most=3)


def test_a_sample_of_pairs_is_bounded(shop: Shop) -> None:
    pairs = list(product(combinations(TESTS, 2), wares.ORDERS))
    for (first, second), order in random.Random(7).sample(pairs, 60):
        check(shop, f"({first}) AND ({second})", order, 20, most=3)


@pytest.mark.parametrize("order", ["price, color", "color, weight", "brand, made desc", "color desc, price desc"])
def test_an_order_without_index_is_refused_with_the_index_it_needs(shop: Shop, order: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        shop.planner.plan(shop.asked("", order))
    assert caught.value.reason == "SHAPE_NOT_INDEXED"
    fields = ", ".join(f'"{part.strip()}"' for part in order.split(","))
    assert f"`indexes: {{ fields: [{fields}] }}`" in str(caught.value)


def test_equality_lets_a_shorter_index_serve(shop: Shop) -> None:
    """With one color, rows of the index (color, price desc) are in the order of price."""
    for text in ("color = c3", "color = c3 OR color = c5"):
        plan = shop.planner.plan(shop.asked(text, "price desc"))
        assert not plan.windowed


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("title:oak", ROWS // 700),
        ("title:oak AND color = red", ROWS // 700),
        ("title:oak AND title:table AND NOT brand:*", ROWS // 700),
        ("title:oak OR title:table", ROWS // 700),
        ("title:pine", MOST_RANKED + 1),
        ("title:pine AND color = c3", MOST_RANKED + 1),
        ("title:pine OR title:oak", MOST_RANKED + 1),
        ("title:nowhere", 0),
    ],
)
@pytest.mark.parametrize("after", [(), (1.0, "A", 700)])
def test_a_ranked_search_is_bounded_by_the_trigram_index(
    shop: Shop, text: str, found: int, after: tuple[Any, ...]
) -> None:
    asked = shop.asked(text, "relevance desc")
    examined, top = shop.examined(asked, after, 1)
    assert examined == found <= 20 + 1000
    read = {node["Node Type"] for node in nodes(top) if node.get("Relation Name") == "wares"}
    assert read == {"Bitmap Heap Scan"}, top
    used = {node["Index Name"] for node in nodes(top) if "Index Name" in node} - {"datasets_pkey"}
    assert all(name.startswith("wares__title_search") for name in used), used
