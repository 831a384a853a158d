"""A query's shape -> SQL text. Pure: identifiers come from the contract, values are always bound.

Every plan walks one index in key order: the primary key, or (filtered column, key). One statement gives epoch, version
and rows, so that rows are never labelled with a version they do not belong to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from query_service.parameters import Filter
from shared.contract.ddl import column_names, quote_ident, table
from shared.contract.model import PG_TYPES, Dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The statements of one query shape.

    `page` takes (dataset name, rows, largest row, *arguments) and `sizes` (rows, *arguments), where rows limits the
    rows read and the arguments are those of `arguments`. `after` lists the positions of the key columns that are
    compared to go on after a key.
    """

    page: str
    sizes: str
    after: tuple[int, ...]

    def arguments(self, filters: Sequence[Filter], after: Sequence[Any] = ()) -> list[Any]:
        """The bound values: of the key to go on after, then each filter's."""
        bound = [after[position] for position in self.after]
        for item in filters:
            # NULL equals nothing: it fills the slots of a shape that serves several counts of values.
            bound += [*item.values, *[None] * (_slots(item) - len(item.values))]
        return bound


# Callers choose the shapes, so their number has to have a limit.
MOST_PLANS = 1000

Shape = tuple[bool, tuple[tuple[str, int], ...]]


class Planner:
    """Plans of one dataset, one per filter shape: a generic plan over optional filters would flip to full scans."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._plans: dict[Shape, Plan] = {}
        self.get = get_sql(dataset)

    def plan(self, filters: Sequence[Filter], *, after_key: bool) -> Plan:
        """The plan for filters of this shape, from the beginning or after a key."""
        shape = (after_key, tuple((item.column.name, _slots(item)) for item in filters))
        plan = self._plans.get(shape)
        if plan is None:
            if len(self._plans) >= MOST_PLANS:
                self._plans.clear()
            plan = self._plans[shape] = plan_for(self._dataset, shape)
        return plan


def get_sql(dataset: Dataset) -> str:
    """One row by its primary key, with the dataset's version: (dataset name, *key)."""
    columns = enumerate(dataset.key_columns, 2)
    matches = [f"{quote_ident(column.name)} = ${n}::{PG_TYPES[column.kind]}" for n, column in columns]
    return f"""
SELECT d.epoch, d.version, (SELECT _wire FROM {table(dataset)} WHERE {" AND ".join(matches)}) AS wire
FROM penstock.datasets AS d WHERE d.name = $1"""  # noqa: S608  identifiers are the contract's, quoted


def plan_for(dataset: Dataset, shape: Shape) -> Plan:
    """The statements of a shape: whether a key to go on after is bound, and how many values each filter takes."""
    after = _compared(dataset, shape)
    # The last two sizes find the row beyond the page and the last row of it in the joined bytes.
    page = f"""
SELECT d.epoch, d.version, p.data, p.size, p.row_count, p.tail
FROM penstock.datasets AS d, LATERAL (
    SELECT string_agg(_wire, ''::bytea) FILTER (WHERE octet_length(_wire) <= $3::integer) AS data,
        sum(octet_length(_wire)) AS size,
        count(*)::integer AS row_count,
        (array_agg(octet_length(_wire)))[greatest(count(*)::integer - 1, 1):] AS tail
    FROM ({_rows(dataset, shape, after, limit="$2", first=4)}) AS r
) AS p
WHERE d.name = $1"""  # noqa: S608  identifiers are the contract's, quoted
    sizes = f"""
SELECT array_agg(octet_length(_wire)) AS sizes
FROM ({_rows(dataset, shape, after, limit="$1", first=2)}) AS r"""  # noqa: S608  identifiers are the contract's, quoted
    return Plan(page=page, sizes=sizes, after=after)


def _compared(dataset: Dataset, shape: Shape) -> tuple[int, ...]:
    """Positions of the key columns to compare. One that a filter fixes to a single value is the same on both sides.

    It has to be left out: its index begins with it, and only a comparison of what follows it there can start the scan.
    """
    after_key, slots = shape
    if not after_key:
        return ()
    fixed = {name for name, count in slots if count == 1}
    free = tuple(position for position, name in enumerate(dataset.key) if name not in fixed)
    return free or tuple(range(len(dataset.key)))


def _rows(dataset: Dataset, shape: Shape, after: tuple[int, ...], *, limit: str, first: int) -> str:
    """Rows in key order. A filter of several values becomes one ordered index scan per value, merged without a sort.

    Not where it is on a key column: a constant one drops out of a branch's order, which then no longer merges. The
    primary key checks such values inside the index.
    """
    conditions = [_after(dataset, after, first)] if after else []
    number = first + len(after)
    branches: list[str] = []
    for name, count in shape[1]:
        column = dataset.column(name)
        bound = [f"${n}::{PG_TYPES[column.kind]}" for n in range(number, number + count)]
        number += count
        if count > 1 and not branches and name not in dataset.key:
            branches = [f"{quote_ident(name)} = {value}" for value in bound]
        elif count > 1:
            conditions.append(f"{quote_ident(name)} IN ({', '.join(bound)})")
        else:
            conditions.append(f"{quote_ident(name)} = {bound[0]}")
    order = f"ORDER BY {column_names(dataset.key)} LIMIT {limit}"
    if not branches:
        return f"{_select(dataset, conditions)} {order}"
    # Each branch needs the order too: the planner merges what is sorted and would sort what it appends.
    selects = (f"({_select(dataset, [*conditions, branch])} {order})" for branch in branches)
    union = "\n        UNION ALL ".join(selects)
    return f"{union}\n        {order}"


def _select(dataset: Dataset, conditions: Sequence[str]) -> str:
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT _wire, {column_names(dataset.key)} FROM {table(dataset)}{where}"  # noqa: S608  as above


def _after(dataset: Dataset, positions: tuple[int, ...], first: int) -> str:
    columns = [dataset.key_columns[position] for position in positions]
    bound = ", ".join(f"${n}::{PG_TYPES[column.kind]}" for n, column in enumerate(columns, first))
    return f"({column_names([column.name for column in columns])}) > ({bound})"


def _slots(item: Filter) -> int:
    """How many values the shape takes: a power of two, so that few shapes serve every count."""
    return 1 << (len(item.values) - 1).bit_length()
