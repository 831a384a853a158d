"""Rows by relevance: how like the texts of a search their fields are, as pg_trgm measures it. Pure; makes SQL text.

A rank is known of no row before all that are found are measured. So their number has a limit, and where it is passed
the answer is an error: never the best of some.
"""

from __future__ import annotations

import struct

from query_service.binds import After, Binds, Text
from query_service.candidates import are_indexed, found_sql
from query_service.conditions import Condition, Contains, Query, texts_of
from query_service.order import invalid_order
from query_service.predicate import Predicate
from shared.contract.ddl import column_names, quote_ident
from shared.contract.model import PG_TYPES, Dataset, Kind, MethodKind
from shared.errors import FailedPrecondition

# With one more, which tells that there are too many, within what a page of one row may examine: 20 and 1,000.
MOST_RANKED = 1000

# Postgres' real, all bits of it: rounded in a token, the rows beside a page's end would be left out or come twice.
_RELEVANCE = struct.Struct(">f")
_COUNT = "(SELECT count(*) FROM found)"


def check_ranked(query: Query, kind: MethodKind) -> None:
    """Raises InvalidRequest (ORDER_INVALID) where the query's rows have no relevance, or the method has no ranks."""
    if kind is not MethodKind.LIST:
        raise invalid_order(f"'relevance desc' is an order of List: at most {MOST_RANKED} rows have one")
    if not query.searches:
        raise invalid_order(
            "'relevance desc' needs a search in `filter` that every row meets, such as name:\"part\": one below NOT is "
            "none, nor one that OR joins to something else"
        )
    if not are_indexed(query.searches):
        raise invalid_order("'relevance desc' needs texts with at least three letters or digits in a row")


def too_broad(dataset: Dataset) -> FailedPrecondition:
    """The error for a search that finds more rows than are ranked."""
    return FailedPrecondition(
        f"order_by: more than {MOST_RANKED} rows of {dataset.name} meet the search, which is too many to rank: search "
        "for a longer text, or for another one besides, or leave out 'relevance desc'",
        reason="SEARCH_TOO_BROAD",
        metadata={"dataset": dataset.name, "most_ranked": str(MOST_RANKED)},
    )


def pack(relevance: float, key: bytes) -> bytes:
    """Where a row stands, as tokens carry it."""
    return _RELEVANCE.pack(relevance) + key


def unpack(position: bytes) -> tuple[float, bytes]:
    """The reverse; ValueError for what `pack` has not made."""
    if len(position) < _RELEVANCE.size:
        raise ValueError("is no position of a ranked search")
    (relevance,) = _RELEVANCE.unpack_from(position)
    return relevance, position[_RELEVANCE.size :]


class RankedSql:
    """The rows of a ranked query as SQL; `resumed`: those after a row, given by its relevance and its key."""

    def __init__(self, dataset: Dataset, query: Query, binds: Binds, *, resumed: bool) -> None:
        self._dataset = dataset
        self._query = query
        self._binds = binds
        self._resumed = resumed
        self._places = {id(leaf): place for place, leaf in enumerate(query.leaves)}

    def relations(self) -> str:
        """The WITH clause: `found` by the trigram indexes and, unless those are too many, `ranked`, which are measured.

        The query's other conditions are tried on what was found: in the index's place they would make the number of
        rows that are examined anyone's guess.
        """
        dataset, query = self._dataset, self._query
        found = found_sql(dataset, query, query.searches, self._binds, most=MOST_RANKED + 1)
        predicate = Predicate(dataset, query, self._binds)
        conditions = [predicate.sql(part) for part in query.conditions if part not in query.searches]
        where = " AND ".join([f"{_COUNT} <= {MOST_RANKED}", *conditions])
        measures = " + ".join(self._measure(search) for search in query.searches)
        return f"""
WITH {found}, ranked AS MATERIALIZED (
    SELECT _wire, {column_names(dataset.key)}, {measures} AS _relevance FROM found WHERE {where}
)"""  # noqa: S608  identifiers are the contract's, quoted

    def rows(self, rows: str) -> str:
        """At most so many rows (a placeholder), the best first, in the order of the key where they are alike."""
        key = column_names(self._dataset.key)
        after = f" WHERE {self._after()}" if self._resumed else ""
        return f"SELECT _wire, _relevance FROM ranked{after} ORDER BY _relevance DESC, {key} LIMIT {rows}"  # noqa: S608

    def also(self) -> str:
        """What a page has besides: the relevance of its last two rows, and how many rows were found."""
        last = "(array_agg(_relevance))[greatest(count(*)::integer - 1, 1):]"
        return f",\n        {last} AS relevances,\n        {_COUNT} AS found"

    def _after(self) -> str:
        dataset, relevance = self._dataset, self._binds.bind_as(After(place=0), PG_TYPES[Kind.FLOAT])
        places = (self._binds.bind(After(place=n), column) for n, column in enumerate(dataset.key_columns, 1))
        beyond = f"({column_names(dataset.key)}) > ({', '.join(places)})"
        return f"(_relevance < {relevance} OR (_relevance = {relevance} AND {beyond}))"

    def _measure(self, search: Condition) -> str:
        """Of a choice's texts the one that is met best; for a field that is missing Postgres leaves it out."""
        measures = [self._likeness(test) for test in texts_of(search)]
        return measures[0] if len(measures) == 1 else f"greatest({', '.join(measures)})"

    def _likeness(self, test: Contains) -> str:
        """Up to 1 for a text that is there in whole words, and up to 1 for being all there is."""
        text = self._binds.bind(Text(leaf=self._places[id(test)]), test.column)
        name = quote_ident(test.column.name)
        return f"(word_similarity({text}, {name}) + similarity({text}, {name}))"
