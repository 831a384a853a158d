"""The order of rows: as text of a request, as SQL, and what index an order needs. Pure.

NULL sorts as the greatest value and NaN just below it: last where ascending, first where descending, as the B-trees
of Postgres have it.
"""

from __future__ import annotations

from collections.abc import Sequence

from query_service.conditions import Query
from shared.contract.ddl import quote_ident
from shared.contract.model import Dataset, IndexField
from shared.errors import FieldViolation, InvalidRequest


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
