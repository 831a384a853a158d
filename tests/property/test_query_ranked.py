"""Whatever the rows, the searches and the pages: a ranked search is a full scan, measured row by row and sorted."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from shared.local.postgres import EmbeddedPostgres
from tests.conftest import new_database
from tests.integration.query import books, wares
from tests.integration.query.lab import Client, Lab, migrated_lab, serving

WORDS = st.sampled_from(["oak", "Oak", "oaks", "soaked", "pine", "PINES", "a", "-", "100%", "_x_", "élan", "漢字漢字"])
PHRASES = st.lists(WORDS, max_size=5).map(" ".join)
TEXTS = ["oak", "OAKS", "pin", "soa", "oak pine", "100%", "élan", "漢字漢"]
FIELDS = ["title", "blurb"]

Book = dict[str, Any]
# A search is met by any of its (field, text).
Search = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A running service over one table that every example fills anew."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    client: Client

    def __repr__(self) -> str:
        return "shop"

    def fill(self, found: Sequence[Book]) -> None:
        lab = self.client.lab
        self.run(lab.execute("DELETE FROM data.books"))
        self.run(lab.insert([record(lab, book) for book in found], version=1))

    def likeness(self, text: str, field: str) -> float:
        """As Postgres measures it: single precision."""
        return float(self.run(self._likeness(text, field)))

    async def _likeness(self, text: str, field: str) -> Any:
        async with self.client.lab.session() as session:
            return await session.fetchval("SELECT word_similarity($1, $2) + similarity($1, $2)", text, field)


@pytest.fixture(scope="module")
def shop(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with (
        migrated_lab(postgres, tmp_path_factory.mktemp("ranked"), books.CONTRACT, "books") as template,
        new_database(postgres, template.database) as url,
        asyncio.Runner() as runner,
    ):
        service = serving(Lab(url=url, contracts=template.contracts, name="books"))
        client = runner.run(service.__aenter__())
        try:
            yield Shop(run=runner.run, client=client)
        finally:
            runner.run(service.__aexit__(None, None, None))


def record(lab: Lab, book: Book) -> Any:
    return lab.dataset.message_class(**{name: value for name, value in book.items() if value is not None})


@st.composite
def shelves(draw: st.DrawFn) -> list[Book]:
    keys = draw(st.lists(st.tuples(st.sampled_from("aBé"), st.integers(-2, 20)), max_size=25, unique=True))
    return [
        {"shelf": shelf, "number": number, "title": draw(PHRASES), "blurb": draw(st.none() | PHRASES), "genre": genre}
        for shelf, number in keys
        for genre in [draw(st.sampled_from("xy"))]
    ]


@st.composite
def searches(draw: st.DrawFn) -> list[Search]:
    one = st.tuples(st.sampled_from(FIELDS), st.sampled_from(TEXTS))
    everywhere = st.sampled_from(TEXTS).map(lambda text: tuple((field, text) for field in FIELDS))
    choice = st.lists(one, min_size=1, max_size=3).map(tuple)
    return draw(st.lists(choice | everywhere, min_size=1, max_size=3))


def written(found: Sequence[Search]) -> str:
    choices = [" OR ".join(f'{field}:"{text}"' for field, text in search) for search in found]
    return " AND ".join(f"({choice})" for choice in choices)


def holds(book: Book, field: str, text: str) -> bool:
    return wares.folded(text) in wares.folded(book[field] or "")


def expected(shop: Shop, found: Sequence[Book], wanted: Sequence[Search]) -> list[Book]:
    """Each search counts by the best of its choice, in the order in which they were written."""
    known: dict[tuple[str, str], float] = {}

    def likeness(text: str, field: str | None) -> float:
        if field is None:
            return 0.0
        if (text, field) not in known:
            known[text, field] = shop.likeness(text, field)
        return known[text, field]

    def relevance(book: Book) -> float:
        total = 0.0
        for search in wanted:
            total = single(total + max(likeness(text, book[field]) for field, text in search))
        return total

    met = [book for book in found if all(any(holds(book, *test) for test in search) for search in wanted)]
    return sorted(met, key=lambda book: (-relevance(book), book["shelf"].encode(), book["number"]))


def single(number: float) -> float:
    (rounded,) = struct.unpack("<f", struct.pack("<f", number))
    return float(rounded)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    found=shelves(),
    wanted=searches(),
    genre=st.sampled_from([None, "x"]),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
)
def test_ranked_pages_equal_a_full_scan(
    shop: Shop, found: list[Book], wanted: list[Search], genre: str | None, sizes: list[int]
) -> None:
    text = written(wanted) + (f" AND genre = {genre}" if genre else "")
    note(text)
    shop.fill(found)
    got = shop.run(books.ranked(shop.client, text, sizes))
    met = expected(shop, [book for book in found if genre in {None, book["genre"]}], wanted)
    assert got == [record(shop.client.lab, book) for book in met]
