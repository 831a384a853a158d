"""Ranked search: the best first, the whole of it or an error, whatever the text."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from query_service.conditions import query
from query_service.database import PLANNER_SETTINGS
from query_service.filter.check import compile_filter
from query_service.order import parse_order
from query_service.plan import Planner
from query_service.ranking import MOST_RANKED
from shared.local.postgres import EmbeddedPostgres
from tests.conftest import new_database
from tests.integration.query import books
from tests.integration.query.books import ranked, shelved
from tests.integration.query.lab import Client, Lab, details, migrated_lab, reasons, refused, serving
from tests.integration.query.test_query_bounded import nodes

RUNNING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()
"""


FILL = """
INSERT INTO data.books
SELECT 'A', n, 'Pine ' || n, CASE WHEN n % 500 = 0 THEN 'rare' ELSE 'common' END, 'x', '\\x0a00', 1, 1
FROM generate_series(1, 30000) AS n
"""


@pytest.fixture(scope="module")
def template(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with migrated_lab(postgres, tmp_path_factory.mktemp("books"), books.CONTRACT, "books") as found:
        yield found


@pytest.fixture
def lab(postgres: EmbeddedPostgres, template: Lab) -> Iterator[Lab]:
    with new_database(postgres, template.database) as url:
        yield Lab(url=url, contracts=template.contracts, name="books")


@pytest.fixture
async def client(lab: Lab) -> AsyncIterator[Client]:
    async with serving(lab) as running:
        yield running


def titles(found: list[Any]) -> list[str]:
    return [book.title for book in found]


async def test_whole_words_come_first_and_short_fields_before_long_ones(lab: Lab, client: Client) -> None:
    await lab.insert(shelved(lab, ["Soaked", "The old oak tree of the hill", "plain", "Oak", "Oak tree", "Cloaks"]))
    assert titles(await ranked(client, "title:oak")) == [
        "Oak",
        "Oak tree",
        "The old oak tree of the hill",
        "Soaked",
        "Cloaks",
    ]


@pytest.mark.parametrize("sizes", [(1,), (2, 3), (50,)])
async def test_books_that_are_alike_come_in_the_order_of_the_key(lab: Lab, client: Client, sizes: tuple[int]) -> None:
    made = [lab.dataset.message_class(shelf=shelf, number=n, title="Oak") for shelf in "Ba" for n in (3, -1, 2)]
    await lab.insert(made)
    found = await ranked(client, "title:oak", sizes)
    assert [(book.shelf, book.number) for book in found] == [(shelf, n) for shelf in "Ba" for n in (-1, 2, 3)]


async def test_several_searches_add_up_and_of_a_choice_the_best_counts(lab: Lab, client: Client) -> None:
    made = [
        lab.dataset.message_class(shelf="A", number=1, title="Oak", blurb="a forest of pines and more"),
        lab.dataset.message_class(shelf="A", number=2, title="Oaks of old", blurb="pine"),
        lab.dataset.message_class(shelf="A", number=3, title="Oak"),
        lab.dataset.message_class(shelf="A", number=4, title="none", blurb="oak"),
    ]
    await lab.insert(made)

    async def numbers(text: str) -> list[int]:
        return [book.number for book in await ranked(client, text)]

    assert await numbers("title:oak AND blurb:pine") == [2, 1]
    assert await numbers("title:oak OR blurb:pine") == [1, 2, 3]
    assert await numbers("oak") == [1, 3, 4, 2]
    assert await numbers("title:oak AND (genre = x OR blurb:pine)") == [1, 2]
    assert await numbers("title:oak AND NOT blurb:pine") == [3]


async def test_other_conditions_and_typed_filters_narrow_what_was_found(lab: Lab, client: Client) -> None:
    await lab.insert(shelved(lab, ["Oak", "Oaks"], genre="g"))
    await lab.insert([lab.dataset.message_class(shelf="B", number=1, title="Oak", genre="h")])
    assert [book.shelf for book in await ranked(client, "title:oak AND genre = h")] == ["B"]
    assert titles(await ranked(client, "title:oak", genre=["g"])) == ["Oak", "Oaks"]
    assert await ranked(client, "title:oak AND genre = nowhere") == []


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("100%", "was 100% wool"),
        ("_abc_", "x_abc_y"),
        (r"a\\bcd", r"a\bcd"),
        (r"abc\*", "abc*"),
        ("élan", "un élan vital"),
        ("漢字漢", "漢字漢字"),
        ("\U0001f600 ok now", "\U0001f600 ok now"),
        (r"say \"hey\"", 'say "hey"'),
        ("a - b - cde", "a - b - cde"),
        ("x" * 8000, "x" * 8001),
    ],
)
async def test_a_text_is_taken_as_it_is(lab: Lab, client: Client, text: str, title: str) -> None:
    await lab.insert(shelved(lab, ["other", title, "1000 wool", "xxabcxy", "abcd", "elan", ""]))
    found = titles(await ranked(client, f'title:"{text}"'))
    assert found[0] == title
    assert set(found) <= {title, "abcd"}


async def test_an_order_by_relevance_without_a_search_is_refused_by_name(client: Client) -> None:
    call = client.call("ListBooks", filter="genre = x", order_by="relevance desc")
    error = await refused(call, grpc.StatusCode.INVALID_ARGUMENT)
    assert reasons(error) == ["ORDER_INVALID"]
    assert [violation.field for violation in details(error, "BadRequest")[0].field_violations] == ["order_by"]


@pytest.mark.parametrize("asked", [{}, {"partition": {"count": 2}}])
async def test_a_stream_has_no_ranks(lab: Lab, client: Client, asked: dict[str, Any]) -> None:
    rpc: Any = client.channel.unary_stream("/books.v1.BookService/StreamBooks", None, None)
    request = lab.request("StreamBooks", filter="title:oak", order_by="relevance desc", **asked)
    error = await refused(anext(aiter(rpc(request.SerializeToString(), timeout=20))), grpc.StatusCode.INVALID_ARGUMENT)
    assert [violation.field for violation in details(error, "BadRequest")[0].field_violations] == ["order_by"]


@pytest.mark.parametrize("order", ["relevance desc, shelf", " relevance  desc ,shelf asc, number"])
async def test_the_key_may_be_said_to_break_ties(lab: Lab, client: Client, order: str) -> None:
    await lab.insert(shelved(lab, ["Oaks", "Oak", "Oak"]))
    assert [book.number for book in await ranked(client, "title:oak", (1,), order_by=order)] == [1, 2, 0]


async def test_more_rows_than_are_ranked_are_refused_and_not_one_sooner(lab: Lab, client: Client) -> None:
    await lab.insert(shelved(lab, ["Oak"] * MOST_RANKED))
    assert len(await ranked(client, "title:oak", (999, 1))) == MOST_RANKED
    first = await client.call("ListBooks", filter="title:oak", order_by="relevance desc", page_size=5)
    await lab.insert([lab.dataset.message_class(shelf="B", number=0, title="Oak", genre="rare")])
    for asked in ({}, {"page_token": first.next_page_token}, {"genre": ["rare"]}):
        call = client.call("ListBooks", filter="title:oak", order_by="relevance desc", **asked)
        error = await refused(call, grpc.StatusCode.FAILED_PRECONDITION)
        assert reasons(error) == ["SEARCH_TOO_BROAD"]
        assert f"more than {MOST_RANKED} rows of books" in str(error.details())
        assert "a longer text" in str(error.details())
    assert len((await client.call("ListBooks", filter="title:oak", page_size=5)).books) == 5


async def test_a_token_is_of_its_order_and_its_search(lab: Lab, client: Client) -> None:
    await lab.insert(shelved(lab, ["Oak", "Oaks", "Oak tree"]))
    asked = {"filter": "title:oak", "order_by": "relevance desc", "page_size": 1}
    token = (await client.call("ListBooks", **asked)).next_page_token
    for other in ({"order_by": ""}, {"order_by": "genre"}, {"filter": 'title:"oaks"'}):
        call = client.call("ListBooks", page_token=token, **(asked | other))
        assert reasons(await refused(call, grpc.StatusCode.INVALID_ARGUMENT)) == ["PAGE_TOKEN_INVALID"]
    assert titles([*(await client.call("ListBooks", page_token=token, **asked)).books]) == ["Oak tree"]


async def test_pages_cut_by_their_bytes_lose_no_row(lab: Lab, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    await lab.insert(shelved(lab, [f"Oak {'x' * n}" for n in range(40)]))
    monkeypatch.setattr("query_service.pages.PAGE_BYTES", 100)
    found: list[Any] = []
    token = ""
    while True:
        asked = {"filter": "title:oak", "order_by": "relevance desc", "page_token": token}
        page = await client.call("ListBooks", **asked)
        found, token = [*found, *page.books], page.next_page_token
        if not token:
            break
        assert len(page.books) <= 6
    assert sorted(book.number for book in found) == list(range(40))


async def test_a_field_that_is_called_relevance_is_meant(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    contract = books.CONTRACT.replace("string genre", "string relevance")
    with migrated_lab(postgres, tmp_path_factory.mktemp("own"), contract, "books") as lab:
        async with serving(lab) as client:
            made = [lab.dataset.message_class(shelf="A", number=n, title="Oak", relevance=str(n)) for n in range(3)]
            await lab.insert(made)
            for text, order, numbers in (("", "relevance", [0, 1, 2]), ("title:oak", "relevance desc", [2, 1, 0])):
                page = await client.call("ListBooks", filter=text, order_by=order)
                assert [book.number for book in page.books] == numbers


async def test_the_deadline_ends_the_measuring(lab: Lab, client: Client) -> None:
    await lab.insert(shelved(lab, ["pine " * 20_000 + "oak"] * 300))
    started = time.monotonic()
    rpc: Any = client.channel.unary_unary("/books.v1.BookService/ListBooks", None, None)
    request = lab.request("ListBooks", filter='title:"pine oak"', order_by="relevance desc")
    await refused(rpc(request.SerializeToString(), timeout=0.5), grpc.StatusCode.DEADLINE_EXCEEDED)
    async with asyncio.timeout(5), lab.session() as session:
        while await session.fetchval(RUNNING):  # noqa: ASYNC110 - polled, with a deadline: nothing signals this
            await asyncio.sleep(0.02)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("title:pine AND blurb:rare", 60),
        ("blurb:rare AND title:pine", 60),
        ("title:pine AND (blurb:rare OR blurb:seldom)", 60),
        ("title:pine AND title:oak", 0),
        ("pine AND rare", 60),
        ("title:pine OR blurb:rare", MOST_RANKED + 1),
    ],
)
async def test_of_several_searches_each_one_is_looked_up(lab: Lab, text: str, found: int) -> None:
    """One alone would yield any number of rows, for the others to be tried on."""
    await lab.execute(FILL)
    await lab.execute("VACUUM ANALYZE data.books")
    condition = compile_filter(lab.dataset, text)
    assert condition is not None
    asked = query([condition], parse_order(lab.dataset, "relevance desc"))
    plan = Planner(lab.dataset).plan(asked)
    bound = [lab.dataset.name, 51, 10**6, *plan.arguments(asked)]
    async with lab.session() as session:
        await session.execute("; ".join(f"SET {name} = {value}" for name, value in PLANNER_SETTINGS.items()))
        explained = await session.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {plan.page}", *bound)
    scans = [node for node in nodes(json.loads(explained)[0]["Plan"]) if node.get("Relation Name") == "books"]
    assert [scan["Node Type"] for scan in scans] == ["Bitmap Heap Scan"]
    assert sum(map(examined, scans)) == found, scans


def examined(scan: dict[str, Any]) -> int:
    removed = scan.get("Rows Removed by Filter", 0) + scan.get("Rows Removed by Index Recheck", 0)
    return int(scan["Actual Rows"] + removed)
