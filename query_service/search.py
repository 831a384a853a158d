"""Statements for pages asked for by a text: by the trigram index where it is rare, along the walk where it is not.

The trigram index knows no order, so what it finds is sorted, and it reads every entry of the text's trigrams. Of a
rare text those are few; rows with a frequent one come soon along any walk. The planner's statistics tell them apart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from query_service.binds import Binds, Slot, resolve
from query_service.candidates import found_sql
from query_service.conditions import Query, Shape
from query_service.plan import MOST_PLANS, Plan, Planner, WalkSql, page_sql, sizes_sql
from query_service.predicate import Predicate
from query_service.rows import Fetch
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


class Searches:
    """The searches of one dataset, one per shape of query and of the row to go on after."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._searches: dict[tuple[Shape, tuple[bool, ...] | None], Search | None] = {}

    def of(self, query: Query, after: Sequence[Any]) -> Search | None:
        """The search; None where the query asks for no text, or for one among other things, or for ranks."""
        nulls = tuple(value is None for value in after) if after else None
        shape = (query.shape, nulls)
        if shape not in self._searches:
            if len(self._searches) >= MOST_PLANS:
                self._searches.clear()
            self._searches[shape] = _search(self._planner, query, nulls)
        return self._searches[shape]


async def is_rare(fetch: Fetch, search: Search, query: Query) -> bool:
    """Whether the planner expects few rows to hold the text."""
    explained = await fetch(search.expected, resolve(search.expected_slots, query, ()))
    return bool(json.loads(explained[0])[0]["Plan"]["Plan Rows"] <= MOST_EXPECTED)


def _search(planner: Planner, query: Query, after: tuple[bool, ...] | None) -> Search | None:
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
