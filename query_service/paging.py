"""One query as its pages are read: which statement reads the next one, and where its rows stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from query_service.binds import UNBOUNDED, Bounds
from query_service.candidates import are_indexed
from query_service.conditions import Query
from query_service.plan import Plan, Planner
from query_service.positions import positions
from query_service.ranking import MOST_RANKED, pack, too_broad, unpack
from query_service.rows import Fetch, Page, read_page
from query_service.search import MOST_FOUND, Searches, is_rare
from query_service.tokens import Position, TokenScope, invalid_token


class Paging:
    """Reads pages of a query over one dataset. Holds nothing of a call, so that many calls may share it: what follows
    from the query alone is then found out once."""

    def __init__(self, planner: Planner, searches: Searches, query: Query) -> None:
        """Raises InvalidRequest for an order that no index has."""
        self.query = query
        self._planner = planner
        self._searches = searches
        self._ranked = query.ranked
        self._searched = bool(query.searches) and are_indexed(query.searches[:1])
        self._positions = positions(planner.dataset, planner.position(query))
        # From the beginning, and after a row without NULL.
        self._plans: dict[bool, Plan] = {}

    def after(self, scope: TokenScope, position: Position | None) -> tuple[Any, ...]:
        """Where the row to go on after stands, as SQL parameters; empty for the beginning. Raises InvalidRequest."""
        if position is None or position.key is None:
            return ()
        try:
            if self._ranked:
                relevance, key = unpack(position.key)
                return (relevance, *self._positions.values(key))
            return self._positions.values(position.key)
        except ValueError as exc:
            raise invalid_token(scope, str(exc)) from exc

    def position_after(self, page: Page, start: Position | None) -> Position:
        """Where the page's last row stands; a page that has examined none stands where it started."""
        key = None if start is None else start.key
        if page.last is not None:
            key = self._positions.of(page.last)
            if page.relevance is not None:
                key = pack(page.relevance, key)
        return Position(epoch=page.epoch, version=page.version, key=key)

    def plan(self, after: Sequence[Any], bounds: Bounds = UNBOUNDED) -> Plan:
        """The plan of the page after a row, or of the first one."""
        if bounds is not UNBOUNDED or None in after:
            return self._planner.plan(self.query, after, bounds)
        resumed = bool(after)
        plan = self._plans.get(resumed)
        if plan is None:
            plan = self._plans[resumed] = self._planner.plan(self.query, after)
        return plan

    async def read(
        self,
        fetch: Fetch,
        after: Sequence[Any],
        *,
        max_rows: int,
        max_bytes: int,
        beyond: bool,
        bounds: Bounds = UNBOUNDED,
    ) -> Page:
        """The page after a row, as `read_page` gives it. A partition is walked, whatever text it is asked for.

        Raises FailedPrecondition (SEARCH_TOO_BROAD) where more rows are to be ranked than may be.
        """
        dataset, query = self._planner.dataset, self.query
        search = self._searches.of(query, after) if self._searched and bounds == UNBOUNDED else None
        if search is not None and await is_rare(fetch, search, query):
            bound = search.plan.arguments(query, after)
            few = _at_most(MOST_FOUND, fetch, _TooManyError())
            try:
                return await read_page(
                    few, dataset, search.plan, bound, max_rows=max_rows, max_bytes=max_bytes, beyond=beyond
                )
            except _TooManyError:
                pass  # then they are found soon along the walk
        plan = self.plan(after, bounds)
        bound = plan.arguments(query, after, bounds)
        if self._ranked:
            fetch = _at_most(MOST_RANKED, fetch, too_broad(dataset))
        return await read_page(fetch, dataset, plan, bound, max_rows=max_rows, max_bytes=max_bytes, beyond=beyond)


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
