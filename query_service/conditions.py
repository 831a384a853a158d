"""What a query asks for: a tree of tests of columns, and an order. Pure values; plan.py makes SQL of them.

Two-valued: a test of a missing value is false, and NOT turns that round.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from shared.contract.model import Column, IndexField


class Operator(enum.Enum):
    """How a value is compared; the value is the word of SQL and of the filter language."""

    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyOf:
    """Equality with any of `values`, which are distinct SQL parameters in ascending order, NaN last."""

    column: Column
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """Less or greater than one value."""

    column: Column
    operator: Operator
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Contains:
    """A searchable text that holds `text` somewhere; ASCII letters of either case are alike."""

    column: Column
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Holds:
    """A repeated field that has any of `values` among its elements."""

    column: Column
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """A value that is there: not missing, or for a field that always has a value, not its default."""

    column: Column


@dataclass(frozen=True, slots=True, kw_only=True)
class Not:
    """The opposite."""

    part: Condition


@dataclass(frozen=True, slots=True, kw_only=True)
class All:
    """Every part."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Either:
    """At least one part."""

    parts: tuple[Condition, ...]


Leaf: TypeAlias = AnyOf | Compare | Contains | Holds | Present
Condition: TypeAlias = Leaf | Not | All | Either
# An order of its own: how well a row meets the query's searches, the best first. No field can have this name.
RELEVANCE = IndexField(name="~relevance", descending=True)
# What of a query its SQL depends on: everything but the values.
Shape: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Query:
    """Rows that meet all `conditions`, in `order` (empty: the key's). `leaves` are the tests in reading order."""

    conditions: tuple[Condition, ...]
    order: tuple[IndexField, ...]
    leaves: tuple[Leaf, ...]
    shape: Shape

    @property
    def ranked(self) -> bool:
        """Whether rows come in the order of their relevance."""
        return self.order == (RELEVANCE,)

    @property
    def searches(self) -> tuple[Condition, ...]:
        """The searches that every row meets: those for one text, and choices of nothing but such."""
        return tuple(part for part in self.conditions if _is_search(part))

    @property
    def identity(self) -> tuple[str, ...]:
        """Texts that tell this query from every other one over the same dataset, the same in every process."""
        # repr of str, bytes, int, float, Decimal, date, datetime and timedelta is the same in every supported Python.
        order = [f"order by {field.name} {field.descending}" for field in self.order]
        return (*map(_text, self.conditions), *order)


def query(conditions: Iterable[Condition] = (), order: Iterable[IndexField] = ()) -> Query:
    """The query for these conditions; nested conjunctions are taken apart."""
    conjuncts = tuple(part for condition in conditions for part in _conjuncts(condition))
    fields = tuple(order)
    shape = (tuple(_shape(part) for part in conjuncts), tuple((field.name, field.descending) for field in fields))
    leaves = tuple(leaf for part in conjuncts for leaf in leaves_of(part))
    return Query(conditions=conjuncts, order=fields, leaves=leaves, shape=shape)


def leaves_of(condition: Condition) -> Iterator[Leaf]:
    """The tests of a tree in reading order."""
    match condition:
        case Not(part=part):
            yield from leaves_of(part)
        case All(parts=parts) | Either(parts=parts):
            for part in parts:
                yield from leaves_of(part)
        case _:
            yield condition


def texts_of(search: Condition) -> tuple[Contains, ...]:
    """The tests of a search; a row meets one of them at least."""
    return tuple(leaf for leaf in leaves_of(search) if isinstance(leaf, Contains))


def slots(count: int) -> int:
    """How many values a shape takes: a power of two, so that few shapes serve every count."""
    return 1 << (count - 1).bit_length()


def sort_key(value: Any) -> tuple[bool, Any]:
    """Orders the values of one column as Postgres does: NaN after every number, text by code point."""
    return (True, 0) if value != value else (False, value)


def distinct(values: Iterable[Any]) -> tuple[Any, ...]:
    """Each value once, as SQL tells them apart, ascending: a repeated one would be scanned, and served, twice."""
    found = list(values)
    numbers = {value for value in found if value == value}
    not_a_number = [value for value in found if value != value][:1]
    return (*sorted(numbers), *not_a_number)


def _conjuncts(condition: Condition) -> Iterator[Condition]:
    if isinstance(condition, All):
        for part in condition.parts:
            yield from _conjuncts(part)
    else:
        yield condition


def _is_search(condition: Condition) -> bool:
    parts = condition.parts if isinstance(condition, Either) else (condition,)
    return all(isinstance(part, Contains) for part in parts)


def _shape(condition: Condition) -> Shape:
    match condition:
        case AnyOf(column=column, values=values):
            return (column.name, slots(len(values)))
        case Compare(column=column, operator=operator):
            return (column.name, operator)
        case Not(part=part):
            return (Not, _shape(part))
        case All(parts=parts) | Either(parts=parts):
            return (type(condition), *map(_shape, parts))
        case _:
            return (condition.column.name, type(condition))


def _text(condition: Condition) -> str:
    match condition:
        case AnyOf(column=column, values=values):
            return f"{column.name}={values!r}"
        case Compare(column=column, operator=operator, value=value):
            return f"{column.name}{operator.value}{value!r}"
        case Contains(column=column, text=text):
            return f"{column.name}~{text!r}"
        case Holds(column=column, values=values):
            return f"{column.name}:{values!r}"
        case Present(column=column):
            return f"{column.name}:*"
        case Not(part=part):
            return f"not({_text(part)})"
        case All(parts=parts):
            return f"all({','.join(map(_text, parts))})"
        case Either(parts=parts):
            return f"either({','.join(map(_text, parts))})"
