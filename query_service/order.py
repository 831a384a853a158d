"""The order of rows: as text of a request, as SQL, and what index an order needs. Pure.

NULL sorts as the greatest value and NaN just below it: last where ascending, first where descending, as the B-trees
of Postgres have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from query_service.conditions import RELEVANCE, Query
from query_service.filter.syntax import shortened
from shared.contract.ddl import quote_ident
from shared.contract.model import Dataset, IndexField
from shared.errors import FieldViolation, InvalidRequest

MOST_FIELDS = 8
# In the place of a field, as in Google's APIs; a field of this name is meant where there is one.
_RELEVANCE_WORD = "relevance"


@lru_cache(maxsize=1024)
def parse_order(dataset: Dataset, text: str) -> tuple[IndexField, ...]:
    """The order that an `order_by` of AIP-132 asks for, such as `country, elevation_ft desc`; empty for a blank one,
    RELEVANCE alone for `relevance desc`.

    Raises InvalidRequest (ORDER_INVALID) naming the field and what is allowed.
    """
    if not text.strip():
        return ()
    parts = text.split(",")
    if len(parts) > MOST_FIELDS:
        raise invalid_order(f"names {len(parts)} fields; at most {MOST_FIELDS} are accepted")
    sortable, ranks = sortable_names(dataset), _ranks(dataset)
    fields = tuple(_field(part, sortable, ranks=ranks) for part in parts)
    if len({field.name for field in fields}) < len(fields):
        raise invalid_order("names a field twice")
    return _by_relevance(dataset, fields) if RELEVANCE in fields else fields


def sortable_names(dataset: Dataset) -> list[str]:
    """The fields an order may name: flagged ones, the key's, and those of declared indexes."""
    indexed = {field.name for index in dataset.indexes for field in index} | set(dataset.key)
    return sorted(column.name for column in dataset.columns if column.sortable or column.name in indexed)


def _ranks(dataset: Dataset) -> bool:
    """Whether there is a relevance: something to search, and no field that has its name."""
    searchable = any(column.searchable for column in dataset.columns)
    return searchable and _RELEVANCE_WORD not in dataset.message.fields_by_name


def _field(part: str, sortable: Sequence[str], *, ranks: bool) -> IndexField:
    name, *direction = part.split() or [""]
    if direction not in ([], ["asc"], ["desc"]):
        raise invalid_order(f"{shortened(part.strip())} is not of the form 'field' or 'field desc'")
    if ranks and name == _RELEVANCE_WORD:
        if direction != ["desc"]:
            raise invalid_order("relevance begins with the best: write 'relevance desc'")
        return RELEVANCE
    if name not in sortable:
        also = " and, for a search, 'relevance desc'" if ranks else ""
        raise invalid_order(f"{shortened(name)!r} is not sortable; allowed are {', '.join(sortable)}{also}")
    return IndexField(name=name, descending=direction == ["desc"])


def _by_relevance(dataset: Dataset, fields: Sequence[IndexField]) -> tuple[IndexField, ...]:
    """The key breaks its ties, and may be said to."""
    ties = [IndexField(name=name) for name in dataset.key]
    if fields[0] != RELEVANCE or list(fields[1:]) != ties[: len(fields) - 1]:
        key = ", ".join(dataset.key)
        raise invalid_order(f"'relevance desc' stands first, and nothing but the key after it: 'relevance desc, {key}'")
    return (RELEVANCE,)


def invalid_order(description: str) -> InvalidRequest:
    """The error for an order that cannot be."""
    return InvalidRequest([FieldViolation(field="order_by", description=description)], reason="ORDER_INVALID")


def order_text(fields: Sequence[IndexField]) -> str:
    """An ORDER BY clause."""
    return "ORDER BY " + ", ".join(quote_ident(field.name) + (" DESC" if field.descending else "") for field in fields)


def unordered(dataset: Dataset, query: Query) -> InvalidRequest:
    """The error for an order that no index of the dataset has; it says which would."""
    names = [f'"{field.name} desc"' if field.descending else f'"{field.name}"' for field in query.order]
    description = (
        f"{dataset.name} has no index in this order; its contract would allow it with "
        f"`indexes: {{ fields: [{', '.join(names)}] }}`"
    )
    return InvalidRequest([FieldViolation(field="order_by", description=description)], reason="SHAPE_NOT_INDEXED")
