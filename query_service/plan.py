"""A query's shape -> SQL text. Pure: identifiers come from the contract, values are always bound.

Every plan walks one index in the query's order. One statement gives epoch, version and rows, so that rows are never
labelled with a version they do not belong to. Conditions that do not bound the walk are tried on a limited number of
its rows: a page may end before it is full, after the last row that was examined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from query_service.binds import UNBOUNDED, After, Binds, Bound, Bounds, Later, Slot, Value, array_place, resolve
from query_service.conditions import AnyOf, Query, Shape, leaves_of, slots
from query_service.order import order_text, unordered
from query_service.predicate import Predicate
from query_service.ranking import RankedSql
from query_service.walk import Step, Walk, choose_walk, narrowest_walk, steps
from shared.contract.ddl import column_names, quote_ident, table
from shared.contract.model import PG_TYPES, Column, Dataset, IndexField


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The statements of one query shape.

    `page` takes (dataset name, rows, largest row, *arguments) and `sizes` (rows, *arguments), where rows limits the
    rows read and the arguments are those of `arguments`. `windowed`: `page` examines a limited number of rows, and says
    in `reached` which was the last one where there are more.
    """

    page: str
    sizes: str
    slots: tuple[Slot, ...]
    windowed: bool

    def arguments(self, query: Query, after: Sequence[Any] = (), bounds: Bounds = UNBOUNDED) -> list[Any]:
        """The bound values, for a query of this shape, the row to go on after, and the ends of a partition."""
        return resolve(self.slots, query, after, bounds)


# Which ends of a partition a statement tests: the lower and the upper one.
Ends: TypeAlias = tuple[bool, bool]
WHOLE: Ends = (False, False)

# Callers choose the shapes, so their number has to have a limit.
MOST_PLANS = 1000
# A page examines at most 20 times as many rows as it may have and 1,000 more, which is what the API promises: half of
# them in the walk for rows that match, half in the one for the last row examined, which runs where those were few.
EXAMINED_PER_ROW = 10
EXAMINED_AT_LEAST = 490  # a page reads one row more than it may have


@dataclass(frozen=True, slots=True, kw_only=True)
class CountPlan:
    """The statements that count: `exact` takes (dataset name, most rows, *arguments), `estimate` (*arguments)."""

    exact: str
    estimate: str
    exact_slots: tuple[Slot, ...]
    estimate_slots: tuple[Slot, ...]


class Planner:
    """Plans of one dataset, one per shape: a generic plan over optional filters would flip to full scans."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._walks: dict[Shape, Walk] = {}
        self._plans: dict[tuple[Shape, tuple[bool, ...] | None, Ends], Plan] = {}
        self._counts: dict[Shape, CountPlan] = {}
        self.get = get_sql(dataset)

    def position(self, query: Query) -> tuple[IndexField, ...]:
        """The columns, in order, that say where a row stands (behind its relevance, where ranked).

        Raises InvalidRequest for an order without index.
        """
        if query.ranked:
            return tuple(IndexField(name=name) for name in self.dataset.key)
        return self.walk(query).position

    def plan(self, query: Query, after: Sequence[Any] = (), bounds: Bounds = UNBOUNDED) -> Plan:
        """The plan for queries of this shape, from the beginning or after a row, given by its position's values.

        `bounds` are the ends of a partition. A row to go on after lies behind the lower one, which may then not be
        tested: Postgres would begin the scan at the one or the other.
        """
        nulls = tuple(value is None for value in after) if after else None
        ends = (bool(bounds[0]) and not after, bool(bounds[1]))
        shape = (query.shape, nulls, ends)
        plan = self._plans.get(shape)
        if plan is None:
            if len(self._plans) >= MOST_PLANS:
                self._plans.clear()
            plan = self._plans[shape] = self._plan(query, nulls, ends)
        return plan

    def _plan(self, query: Query, after: tuple[bool, ...] | None, ends: Ends) -> Plan:
        if query.ranked:
            return ranked_plan(self.dataset, query, resumed=after is not None)
        return plan_for(self.dataset, query, self.walk(query), after, ends)

    def count(self, query: Query) -> CountPlan:
        """The plan to count queries of this shape, which have conditions and no order."""
        plan = self._counts.get(query.shape)
        if plan is None:
            if len(self._counts) >= MOST_PLANS:
                self._counts.clear()
            plan = self._counts[query.shape] = count_plan(self.dataset, query)
        return plan

    def walk(self, query: Query) -> Walk:
        """The walk of queries of this shape; raises InvalidRequest for an order that no index has."""
        walk = self._walks.get(query.shape)
        if walk is None:
            walk = choose_walk(self.dataset, query)
            if walk is None:
                raise unordered(self.dataset, query)
            if len(self._walks) >= MOST_PLANS:
                self._walks.clear()
            self._walks[query.shape] = walk
        return walk


def get_sql(dataset: Dataset) -> str:
    """One row by its primary key, with the dataset's version: (dataset name, *key)."""
    columns = enumerate(dataset.key_columns, 2)
    matches = [f"{quote_ident(column.name)} = ${n}::{PG_TYPES[column.kind]}" for n, column in columns]
    return f"""
SELECT d.epoch, d.version, (SELECT _wire FROM {table(dataset)} WHERE {" AND ".join(matches)}) AS wire
FROM penstock.datasets AS d WHERE d.name = $1"""  # noqa: S608  identifiers are the contract's, quoted


def batch_sql(dataset: Dataset) -> str:
    """Rows by their primary keys, in the order of the keys: (dataset name, most bytes, an array per key column).

    `data` holds the first rows of `size` bytes that fit, `fitting` says of how many keys; `missing` are the places of
    keys without row, from 1. The size of a row is known without fetching what lies out of line.
    """
    columns = dataset.key_columns
    arrays = ", ".join(f"{array_place(f'${n}', column)}" for n, column in enumerate(columns, 3))
    same = " AND ".join(f"t.{quote_ident(column.name)} = k.{quote_ident(column.name)}" for column in columns)
    return f"""
SELECT d.epoch, d.version, b.data, b.size, b.fitting, b.missing
FROM penstock.datasets AS d, LATERAL (
    SELECT coalesce(string_agg(r._wire, ''::bytea ORDER BY r.place) FILTER (WHERE r.total <= $2::bigint), '') AS data,
        coalesce(max(r.total), 0)::bigint AS size,
        count(*) FILTER (WHERE coalesce(r.total, 0) <= $2::bigint) AS fitting,
        coalesce(array_agg(r.place ORDER BY r.place) FILTER (WHERE r._wire IS NULL), '{{}}') AS missing
    FROM (
        SELECT k.place, t._wire, sum(octet_length(t._wire)) OVER (ORDER BY k.place) AS total
        FROM unnest({arrays}) WITH ORDINALITY AS k({column_names(dataset.key)}, place)
        LEFT JOIN {table(dataset)} AS t ON {same}
    ) AS r
) AS b
WHERE d.name = $1"""  # noqa: S608  identifiers are the contract's, quoted


def plan_for(dataset: Dataset, query: Query, walk: Walk, after: tuple[bool, ...] | None, ends: Ends = WHOLE) -> Plan:
    """The statements of a query's shape: `after` says which values of the row to go on after are NULL, None: no row;
    `ends`, which ends of a partition are tested."""
    binds, sized = Binds(first=4), Binds(first=2)
    paged = WalkSql(dataset, query, walk, after, binds, ends=ends)
    rows, reached = paged.sql("$2"), paged.reached("$2")
    return Plan(
        page=page_sql(rows, reached),
        sizes=sizes_sql(WalkSql(dataset, query, walk, after, sized, ends=ends).sql("$1")),
        slots=binds.slots,
        windowed=bool(reached),
    )


def ranked_plan(dataset: Dataset, query: Query, *, resumed: bool) -> Plan:
    """The statements of a query whose rows come by relevance; `resumed`: after a row, given by that and its key."""
    binds, sized = Binds(first=4), Binds(first=2)
    ranked = RankedSql(dataset, query, binds, resumed=resumed)
    page = f"{ranked.relations()}{page_sql(ranked.rows('$2'), ranked.also())}"
    of_sizes = RankedSql(dataset, query, sized, resumed=resumed)
    sizes = f"{of_sizes.relations()}{sizes_sql(of_sizes.rows('$1'))}"
    return Plan(page=page, sizes=sizes, slots=binds.slots, windowed=False)


def page_sql(rows: str, also: str = "") -> str:
    """The statement that joins the rows of a page: (dataset name, rows, largest row, ...)."""
    # The sizes of the last two rows find the one beyond the page, and the last one of it, in the joined bytes.
    return f"""
SELECT d.epoch, d.version, p.*
FROM penstock.datasets AS d, LATERAL (
    SELECT string_agg(_wire, ''::bytea) FILTER (WHERE octet_length(_wire) <= $3::integer) AS data,
        sum(octet_length(_wire)) AS size,
        count(*)::integer AS row_count,
        (array_agg(octet_length(_wire)))[count(*)::integer] AS last_size,
        (array_agg(octet_length(_wire)))[count(*)::integer - 1] AS size_before{also}
    FROM ({rows}) AS r
) AS p
WHERE d.name = $1"""  # noqa: S608  identifiers are the contract's, quoted


def sizes_sql(rows: str) -> str:
    """The statement that gives the sizes of a page's rows: (rows, ...)."""
    return f"""
SELECT array_agg(octet_length(_wire)) AS sizes
FROM ({rows}) AS r"""  # noqa: S608  identifiers are the contract's, quoted


def count_plan(dataset: Dataset, query: Query) -> CountPlan:
    """Counts along the index that is narrowed most, whatever its order; the estimate is the planner's, of all rows."""
    binds = Binds(first=3)
    counted = WalkSql(dataset, query, narrowest_walk(dataset, query), None, binds, wire=False)
    exact = f"""
SELECT d.epoch, d.version, c.matched, c.examined
FROM penstock.datasets AS d, LATERAL ({counted.counts("$2")}) AS c
WHERE d.name = $1"""  # noqa: S608  identifiers are the contract's, quoted
    estimated = Binds(first=1)
    predicate = Predicate(dataset, query, estimated)
    conditions = " AND ".join(predicate.sql(condition) for condition in query.conditions)
    estimate = f"EXPLAIN (FORMAT JSON) SELECT FROM {table(dataset)} WHERE {conditions}"
    return CountPlan(exact=exact, estimate=estimate, exact_slots=binds.slots, estimate_slots=estimated.slots)


class WalkSql:
    """The rows of a walk as SQL. Every stretch has the order and the limit of the whole, so that it ends by itself."""

    def __init__(
        self,
        dataset: Dataset,
        query: Query,
        walk: Walk,
        after: tuple[bool, ...] | None,
        binds: Binds,
        *,
        wire: bool = True,
        ends: Ends = WHOLE,
    ) -> None:
        self._dataset = dataset
        self._query = query
        self._walk = walk
        self._binds = binds
        self._predicate = Predicate(dataset, query, binds)
        self._steps = steps(dataset, walk, query, after)
        self._ends = ends
        self._wire = wire  # without it, the walk may not need the table at all

    def sql(self, rows: str) -> str:
        """At most so many rows (a placeholder) that meet the query's conditions."""
        if not self._walk.residual:
            return self._stretches(rows)
        walked = self._stretches(self._window(rows))
        conditions = " AND ".join(self._predicate.sql(self._query.conditions[place]) for place in self._walk.residual)
        return f"SELECT _wire FROM ({walked}) AS w WHERE {conditions} LIMIT {rows}"  # noqa: S608  as above

    def counts(self, rows: str) -> str:
        """How many of the first so many rows (a placeholder) meet the query's conditions, and how many were there."""
        conditions = [self._predicate.sql(self._query.conditions[place]) for place in self._walk.residual]
        only = f" FILTER (WHERE {' AND '.join(conditions)})" if conditions else ""
        return f"SELECT count(*){only} AS matched, count(*) AS examined FROM ({self._stretches(rows)}) AS w"  # noqa: S608

    def reached(self, rows: str) -> str:
        """The last row examined, looked up only where the page is not full: NULL where the walk has ended too."""
        if not self._walk.residual:
            return ""
        window = self._window(rows)
        last = f"SELECT _wire FROM ({self._stretches(window)}) AS w OFFSET {window} - 1"  # noqa: S608  as above
        return f",\n        CASE WHEN count(*) < {rows} THEN ({last}) END AS reached"

    def sorted(self, rows: str, candidates: str) -> str:
        """At most so many rows (a placeholder) of a small relation that meet the conditions, in the query's order."""
        others = [self._predicate.sql(part) for part in self._query.conditions]
        stretches = [" AND ".join(self._conditions(step)) or "true" for step in self._steps]
        beyond = " OR ".join(f"({text})" for text in stretches) or "false"
        order = order_text([*self._walk.missing, *self._walk.position])
        return f"SELECT _wire FROM {candidates} WHERE {' AND '.join([*others, f'({beyond})'])} {order} LIMIT {rows}"  # noqa: S608

    def _stretches(self, limit: str) -> str:
        """The walk's stretches one after the other: Append takes its inputs in the order in which they are written."""
        found = [self._stretch(step, limit) for step in self._steps]
        if not found:  # nothing comes after the last NULL
            return f"SELECT {self._columns()} FROM {table(self._dataset)} WHERE false LIMIT {limit}"  # noqa: S608
        if len(found) == 1:
            return found[0]
        return "\n        UNION ALL ".join(f"({sql})" for sql in found) + f"\n        LIMIT {limit}"

    def _stretch(self, step: Step, limit: str) -> str:
        """One stretch in order. A test of several values becomes one ordered scan per value, merged without a sort."""
        conditions = [*self._leading(), *self._conditions(step), *self._partition()]
        order = f"{order_text([*self._walk.missing, *self._ordered(step)])} LIMIT {limit}"
        if self._walk.merged is None:
            return f"{self._select(conditions)} {order}"
        # Each branch needs the order too: the planner merges what is sorted and would sort what it appends.
        selects = (f"({self._select([*conditions, branch])} {order})" for branch in self._branches(self._walk.merged))
        return "\n        UNION ALL ".join(selects) + f"\n        {order}"

    def _ordered(self, step: Step) -> list[IndexField]:
        """The columns that order a stretch: one with a single value in it would not merge, its index leaves it out."""
        fixed = {*step.equal, *([0] if step.item is not None else [])}
        left = [field for place, field in enumerate(self._walk.position) if place not in fixed]
        return left or list(self._walk.position)

    def _window(self, rows: str) -> str:
        """How many rows are examined for so many; each walk that is merged has read one ahead."""
        merged = self._walk.merged
        ahead = 0 if merged is None else len(self._branches(merged)) * len(self._steps)
        return f"({EXAMINED_PER_ROW} * {rows}::bigint + {max(1, EXAMINED_AT_LEAST - ahead)})"

    def _leading(self) -> list[str]:
        walk, query = self._walk, self._query
        fixed = [self._equals(query.leaves[place].column, Value(leaf=place)) for _, place in walk.fixed]
        return [*(f"{quote_ident(field.name)} IS NULL" for field in walk.missing), *fixed]

    def _conditions(self, step: Step) -> list[str]:
        found = [self._equals(self._column(place), After(place=place)) for place in step.equal]
        found += [f"{self._name(place)} IS NULL" for place in step.nulls]
        found += [f"{self._name(place)} IS NOT NULL" for place in step.given]
        if step.beyond:
            names = ", ".join(self._name(place) for place in step.beyond)
            bound = ", ".join(self._bound(place) for place in step.beyond)
            found.append(f"({names}) {'<' if self._descending(step.beyond[0]) else '>'} ({bound})")
        if step.item is not None:
            assert self._walk.spread is not None
            later = Later(leaf=self._walk.spread, item=step.item, descending=self._descending(0))
            found.append(self._equals(self._column(0), later))
        elif 0 not in step.equal:
            found += [self._predicate.leaf(self._query.leaves[place]) for place in self._walk.bounds]
        return found

    def _partition(self) -> list[str]:
        """The ends of a partition, one comparison each of the whole key, which every index has behind its columns."""
        names = column_names(self._dataset.key)
        found = []
        for upper in (False, True):
            if self._ends[upper]:
                columns = enumerate(self._dataset.key_columns)
                bound = ", ".join(self._binds.bind(Bound(upper=upper, place=n), column) for n, column in columns)
                found.append(f"({names}) {'<=' if upper else '>'} ({bound})")
        return found

    def _equals(self, column: Column, slot: Slot) -> str:
        """Equality that the planner takes for rare, as it takes a range between two parameters.

        By the number of distinct values a frequent one makes it walk another index in key order and filter, over any
        number of rows. At run time the range is dropped, for the equality implies it.
        """
        name, bound = quote_ident(column.name), self._binds.bind(slot, column)
        return f"{name} = {bound} AND {name} >= {bound} AND {name} <= {bound}"

    def _branches(self, place: int) -> list[str]:
        leaf = self._query.leaves[place]
        assert isinstance(leaf, AnyOf)
        return [self._equals(leaf.column, Value(leaf=place, item=item)) for item in range(slots(len(leaf.values)))]

    def _name(self, place: int) -> str:
        return quote_ident(self._walk.position[place].name)

    def _column(self, place: int) -> Column:
        return self._dataset.column(self._walk.position[place].name)

    def _bound(self, place: int) -> str:
        return self._binds.bind(After(place=place), self._column(place))

    def _descending(self, place: int) -> bool:
        return self._walk.position[place].descending

    def _select(self, conditions: Sequence[str]) -> str:
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"SELECT {self._columns()} FROM {table(self._dataset)}{where}"  # noqa: S608  as above

    def _columns(self) -> str:
        walk = self._walk
        ordered = (field.name for field in (*walk.missing, *walk.position))
        conditions = (self._query.conditions[place] for place in walk.residual)
        tested = (leaf.column.name for condition in conditions for leaf in leaves_of(condition))
        return column_names(["_wire"] * self._wire + list(dict.fromkeys((*ordered, *tested))))
