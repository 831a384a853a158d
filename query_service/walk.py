"""Which B-tree a query walks, and where each step of the walk starts and ends. Pure: names and places, no SQL.

Only conditions that bound the walk go into it; the rest is tried on the rows it yields, of which a page examines a
limited number. A condition that an index merely checks would make it pass over any number of entries unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from query_service.conditions import AnyOf, Compare, Condition, Leaf, Not, Present, Query, slots
from query_service.predicate import is_missing_when_null, is_nullable
from shared.contract.ddl import ordered_indexes
from shared.contract.model import Dataset, IndexField, Kind

# How well equality with one value narrows a walk, where nothing is known but the type.
_NARROWS = {Kind.BOOL: 2, Kind.ENUM: 4}
_NARROWS_MOST = 8
_RANGE_NARROWS = 3
# Under an order of the request's own, which may have several stretches of each.
_MOST_MERGED = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """A walk along one B-tree. Numbers are places of tests in the query's leaves, so that it serves all of a shape.

    `fixed` are leading columns with one value, `missing` leading columns that are NULL; `merged` is a leading column
    with several values, whose walks are merged. `position` are the columns, and directions, that order the rest: what
    tells one row of the walk from the next. Where `spread` is set, the first of them takes its values one after the
    other. `bounds` are tests that limit the first. `residual` are the places of the conditions that the walk alone does
    not meet.
    """

    fixed: tuple[tuple[str, int], ...]
    missing: tuple[IndexField, ...]
    merged: int | None
    spread: int | None
    bounds: tuple[int, ...]
    position: tuple[IndexField, ...]
    residual: tuple[int, ...]


def choose_walk(dataset: Dataset, query: Query) -> Walk | None:
    """The walk that yields the query's order and is narrowed most; None where no index has that order."""
    tests = _Tests(dataset, query)
    found: list[tuple[int, int, Walk]] = []
    for index in ordered_indexes(dataset):
        fitted = _Fit(dataset, query, tests).walk(index)
        if fitted is not None:
            found.append((tests.narrowing(fitted), -len(index), fitted))
    return max(found, key=lambda item: item[:2])[2] if found else None


def narrowest_walk(dataset: Dataset, query: Query) -> Walk:
    """The walk that leaves out most, in whatever order; for a query without one of its own."""
    walks = (choose_walk(dataset, replace(query, order=index)) for index in ordered_indexes(dataset))
    tests = _Tests(dataset, query)
    return max((walk for walk in walks if walk is not None), key=tests.narrowing)


class _Tests:
    """The conditions that an index can meet, by column; each is a conjunct of its own."""

    def __init__(self, dataset: Dataset, query: Query) -> None:
        places = {id(leaf): place for place, leaf in enumerate(query.leaves)}
        self._query = query
        self.equal: dict[str, int] = {}
        self.any_of: dict[str, int] = {}
        self.missing: dict[str, Condition] = {}
        self.bounds: dict[str, list[int]] = {}
        for condition in query.conditions:
            match condition:
                case AnyOf(column=column, values=values):
                    group = self.equal if len(values) == 1 else self.any_of
                    group.setdefault(column.name, places[id(condition)])
                case Not(part=Present(column=column)) if is_missing_when_null(dataset, column):
                    self.missing.setdefault(column.name, condition)
                case Compare(column=column):
                    self.bounds.setdefault(column.name, []).append(places[id(condition)])
                case Present(column=column) if is_missing_when_null(dataset, column):
                    self.bounds.setdefault(column.name, []).append(places[id(condition)])

    def leaf(self, place: int) -> Leaf:
        return self._query.leaves[place]

    def narrowing(self, walk: Walk) -> int:
        """How much of the index the walk leaves out, by rule of thumb."""
        one = [self.leaf(place) for _, place in walk.fixed]
        some = [self.leaf(place) for place in (walk.merged, walk.spread) if place is not None]
        return (
            sum(_NARROWS.get(leaf.column.kind, _NARROWS_MOST) for leaf in one)
            + sum(_NARROWS.get(leaf.column.kind, _NARROWS_MOST) - 1 for leaf in some)
            + _NARROWS_MOST * len(walk.missing)
            + _RANGE_NARROWS * len(walk.bounds)
        )


class _Fit:
    """Tries one index against the query's order."""

    def __init__(self, dataset: Dataset, query: Query, tests: _Tests) -> None:
        self._dataset = dataset
        self._query = query
        self._tests = tests
        explicit = query.order or tuple(IndexField(name=name) for name in dataset.key)
        known = {*tests.equal, *tests.missing}
        self._wanted = [field for field in explicit if field.name not in known]
        self._names = {field.name for field in explicit}
        self._backward: bool | None = None
        self._fixed: list[tuple[str, int]] = []
        self._missing: list[IndexField] = []
        self._merged: int | None = None
        self._position: list[IndexField] = []

    def walk(self, index: Sequence[IndexField]) -> Walk | None:
        """The walk along this index; None where its order is another one."""
        if not all(self._takes(field) for field in index) or self._wanted:
            return None
        # With every column fixed there is one row at most, which its own key tells from what comes after it.
        if not self._position:
            self._position = [IndexField(name=name) for name in self._dataset.key]
        return self._finish()

    def _takes(self, field: IndexField) -> bool:
        """Whether the index may have this column next; notes what it is good for."""
        name, tests = field.name, self._tests
        if not self._position:
            if name in tests.equal:
                self._fixed.append((name, tests.equal[name]))
                return True
            if name in tests.missing:
                self._missing.append(field)
                return True
            if self._merged is None and name in tests.any_of and name not in self._names and self._few(name):
                self._merged = tests.any_of[name]
                return True
        if self._wanted and self._wanted[0].name == name:
            return self._ordered(field, self._wanted.pop(0))
        # A column with one value has no say in the order; after the order the key tells rows apart, either way.
        if name in tests.equal or name in tests.missing or (not self._wanted and name in self._dataset.key):
            self._position.append(field)
            return True
        return False

    def _few(self, name: str) -> bool:
        """Whether merging walks costs few rows read ahead, also where each has several stretches."""
        test = self._tests.leaf(self._tests.any_of[name])
        return not self._query.order or (isinstance(test, AnyOf) and len(test.values) <= _MOST_MERGED)

    def _ordered(self, field: IndexField, wanted: IndexField) -> bool:
        backward = field.descending != wanted.descending
        if self._backward is None:
            self._backward = backward
        self._position.append(field)
        return self._backward == backward

    def _finish(self) -> Walk:
        position = tuple(self._directed(field) for field in self._position)
        first, tests = position[0].name, self._tests
        spread = tests.any_of.get(first) if self._merged is None else None
        bounds = tuple(tests.bounds.get(first, ())) if spread is None else ()
        met = {place for _, place in self._fixed} | {self._merged, spread} | set(bounds)
        missing = {id(tests.missing[field.name]) for field in self._missing}
        met_ids = {id(tests.leaf(place)) for place in met if place is not None} | missing
        return Walk(
            fixed=tuple(self._fixed),
            missing=tuple(self._directed(field) for field in self._missing),
            merged=self._merged,
            spread=spread,
            bounds=bounds,
            position=position,
            residual=tuple(place for place, part in enumerate(self._query.conditions) if id(part) not in met_ids),
        )

    def _directed(self, field: IndexField) -> IndexField:
        return IndexField(name=field.name, descending=field.descending != bool(self._backward))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A stretch of a walk. Numbers are places in the walk's position.

    Its rows are `equal` to the row to go on after, NULL in `nulls`, not NULL in `given`, and come after it in `beyond`,
    compared as one row. `item` is the place of the spread test's value that the first column has.
    """

    equal: tuple[int, ...] = ()
    nulls: tuple[int, ...] = ()
    given: tuple[int, ...] = ()
    beyond: tuple[int, ...] = ()
    item: int | None = None


def steps(dataset: Dataset, walk: Walk, query: Query, after: Sequence[bool] | None) -> list[Step]:
    """The stretches that make up the walk after a row, in order. `after` says which of its values are NULL; None: all.

    NULL sorts as the greatest value: ascending columns end with it, descending ones begin with it.
    """
    if walk.spread is not None:
        test = query.leaves[walk.spread]
        assert isinstance(test, AnyOf)
        rest = _Steps(dataset, walk, after).rest(1, Step(equal=(0,))) if after else iter(())
        return [*rest, *(Step(item=item) for item in range(slots(len(test.values))))]
    if after is None:
        return [Step()]
    found = _Steps(dataset, walk, after).rest(0, Step())
    # What bounds the first column compares it, which no NULL meets.
    return [step for step in found if not (walk.bounds and 0 in step.nulls)]


class _Steps:
    """The stretches after a row: first those that share most of its values."""

    def __init__(self, dataset: Dataset, walk: Walk, after: Sequence[bool]) -> None:
        self._descending = [field.descending for field in walk.position]
        self._nullable = [is_nullable(dataset, dataset.column(field.name)) for field in walk.position]
        self._after = after

    def rest(self, start: int, shared: Step) -> Iterator[Step]:
        """The stretches whose columns before `start` are as `shared` says."""
        if start == len(self._after):
            return
        if self._after[start]:
            yield from self.rest(start + 1, replace(shared, nulls=(*shared.nulls, start)))
            if self._descending[start]:
                yield replace(shared, given=(start,))
            return
        end = self._run(start)
        run = tuple(range(start, end))
        yield from self.rest(end, replace(shared, equal=(*shared.equal, *run)))
        yield replace(shared, beyond=run)
        if self._nullable[start] and not self._descending[start]:
            yield replace(shared, nulls=(*shared.nulls, start))

    def _run(self, start: int) -> int:
        """Where the columns end that one comparison of rows can cover: of one direction, their values known.

        NULLs of a later, ascending column come in between, where no comparison finds them.
        """
        end = start + 1
        while (
            end < len(self._after)
            and self._descending[end] == self._descending[start]
            and not self._after[end]
            and (self._descending[end] or not self._nullable[end])
        ):
            end += 1
        return end
