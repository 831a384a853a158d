"""What the trigram index (gin) finds of a query's searches, for whoever puts it in order. Pure.

The index knows no order and cannot be walked: what it finds is limited in number, and sorted by who asks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from query_service.binds import Binds
from query_service.conditions import RELEVANCE, Condition, Query, texts_of
from query_service.predicate import Predicate
from shared.contract.ddl import column_names, table
from shared.contract.model import Dataset

# Trigrams are made of letters and digits. A text without three in a row may have none, and Postgres then reads the
# whole index, and every row.
_TRIGRAM = re.compile(r"[^\W_]{3}")


def are_indexed(searches: Sequence[Condition]) -> bool:
    """Whether the index narrows each of the searches down, by any text that it may be met with."""
    return all(_TRIGRAM.search(test.text) for search in searches for test in texts_of(search))


def found_sql(dataset: Dataset, query: Query, searches: Sequence[Condition], binds: Binds, *, most: int) -> str:
    """The relation `found`, for a WITH clause: at most so many rows that meet the searches, with every column that the
    query names. The session's settings leave the planner nothing but the trigram index."""
    names = dict.fromkeys(["_wire", *dataset.key, *(leaf.column.name for leaf in query.leaves)])
    names |= dict.fromkeys(field.name for field in query.order if field != RELEVANCE)
    predicate = Predicate(dataset, query, binds)
    holding = " AND ".join(predicate.sql(search) for search in searches)
    return f"""found AS MATERIALIZED (
    SELECT {column_names(list(names))} FROM {table(dataset)} WHERE {holding} LIMIT {most}
)"""  # noqa: S608  identifiers are the contract's, quoted
