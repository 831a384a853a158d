"""Reads pages asked for by a text: by the trigram index where the text is rare, along the walk where it is not.

The trigram index knows no order, so what it finds is sorted, and it reads every entry of the text's trigrams. Of a
rare text those are few; rows with a frequent one come soon along any walk. The planner's statistics tell them apart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from query_service.binds import UNBOUNDED, Binds, Bounds, Slot, resolve
from query_service.candidates import are_indexed, found_sql
from query_service.conditions import Query, Shape
from query_service.plan import MOST_PLANS, Plan, Planner, WalkSql, page_sql, sizes_sql
from query_service.predicate import Predicate
from query_service.ranking import MOST_RANKED, too_broad
from query_service.rows import Fetch, Page, read_page
from shared.contract.ddl import table

# More are not sorted: such a text is not rare, whatever the statistics say.
MOST_FOUND = 400
# Up to here the trigram index is asked; statistics are rough, and its answer says when it has found too many.
MOST_EXPECTED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The statements of a search: how many rows the planner expects to hold the text, and the page of them."""

    expected: str
    expected_slots: tuple[Slot, ...]
    plan: Plan


class PageReader:
    """Reads pages of one dataset."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._searches: dict[tuple[Shape, tuple[bool, ...] | None], Search | None] = {}

    async def read(
        self,
        fetch: Fetch,
        query: Query,
        after: Sequence[Any],
        *,
        max_rows: int,
        max_bytes: int,
        beyond: bool,
        bounds: Bounds = UNBOUNDED,
    ) -> Page:
        """A page of the query's rows after a row, as `read_page` gives it. A partition is walked, whatever its text.

        Raises FailedPrecondition (SEARCH_TOO_BROAD) where more rows are to be ranked than may be.
        """
        dataset = self._planner.dataset
        search = self._search(query, after) if query.conditions and bounds == UNBOUNDED else None
        if search is not None and are_indexed(query.searches[:1]) and await _is_rare(fetch, search, query):
            bound = search.plan.arguments(query, after)
            few = _at_most(MOST_FOUND, fetch, _TooManyError())
            try:
                return await read_page(
                    few, dataset, search.plan, bound, max_rows=max_rows, max_bytes=max_bytes, beyond=beyond
                )
            except _TooManyError:
                pass  # then they are found soon along the walk
        plan = self._planner.plan(query, after, bounds)
        bound = plan.arguments(query, after, bounds)
        if query.ranked:
            fetch = _at_most(MOST_RANKED, fetch, too_broad(dataset))
        return await read_page(fetch, dataset, plan, bound, max_rows=max_rows, max_bytes=max_bytes, beyond=beyond)

    def _search(self, query: Query, after: Sequence[Any]) -> Search | None:
        nulls = tuple(value is None for value in after) if after else None
        shape = (query.shape, nulls)
        if shape not in self._searches:
            if len(self._searches) >= MOST_PLANS:
                self._searches.clear()
            self._searches[shape] = _search(self._planner, query, nulls)
        return self._searches[shape]


class _TooManyError(Exception):
    """The text is not rare."""


def _at_most(most: int, fetch: Fetch, error: Exception) -> Fetch:
    """Raises the error where the trigram index has found more."""

    async def checked(sql: str, bound: Sequence[Any]) -> Any:
        record = await fetch(sql, bound)
        if record is not None and record.get("found", 0) > most:
            raise error
        return record

    return checked


async def _is_rare(fetch: Fetch, search: Search, query: Query) -> bool:
    explained = await fetch(search.expected, resolve(search.expected_slots, query, ()))
    return bool(json.loads(explained[0])[0]["Plan"]["Plan Rows"] <= MOST_EXPECTED)


def _search(planner: Planner, query: Query, after: tuple[bool, ...] | None) -> Search | None:
    """The search of a query's shape; None where it asks for no text, or for one among other things, or for ranks."""
    if not query.searches or query.ranked:
        return None
    dataset, first = planner.dataset, query.searches[:1]
    binds, sized, explained = Binds(first=4), Binds(first=2), Binds(first=1)
    page = page_sql(_rows(planner, query, after, binds, "$2"), ",\n        (SELECT count(*) FROM found) AS found")
    found = found_sql(dataset, query, first, binds, most=MOST_FOUND + 1)
    sizes = sizes_sql(_rows(planner, query, after, sized, "$1"))
    holding = Predicate(dataset, query, explained).sql(first[0])
    return Search(
        expected=f"EXPLAIN (FORMAT JSON) SELECT FROM {table(dataset)} WHERE {holding}",
        expected_slots=explained.slots,
        plan=Plan(
            page=f"WITH {found}{page}",
            sizes=f"WITH {found_sql(dataset, query, first, sized, most=MOST_FOUND + 1)}{sizes}",
            slots=binds.slots,
            windowed=False,
        ),
    )


def _rows(planner: Planner, query: Query, after: tuple[bool, ...] | None, binds: Binds, rows: str) -> str:
    return WalkSql(planner.dataset, query, planner.walk(query), after, binds).sorted(rows, "found")
