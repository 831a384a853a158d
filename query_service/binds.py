"""Placeholders of a statement and what each stands for. Pure; keeps values out of the text of every statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from query_service.conditions import AnyOf, Compare, Contains, Holds, Leaf, Query, sort_key
from shared.contract.model import PG_TYPES, Column

# ILIKE's own signs, taken literally.
_LITERAL = str.maketrans({"\\": r"\\", "%": r"\%", "_": r"\_"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A value of a test, by the test's place in the query; NULL, which equals nothing, where it has fewer."""

    leaf: int
    item: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """All values of a test, as one array."""

    leaf: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """The text of a search as it was written, no pattern."""

    leaf: int


@dataclass(frozen=True, slots=True, kw_only=True)
class After:
    """A value of the row to go on after, by its place in the walk's position."""

    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """A value of a test if it comes after the position's first, in the walk's direction; else NULL."""

    leaf: int
    item: int
    descending: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A value of the key that a partition begins after or (`upper`) ends with, by its place in the key."""

    upper: bool
    place: int


Slot: TypeAlias = Value | Values | Text | After | Later | Bound

# The keys that a partition begins after and ends with; empty where it has no such end.
Bounds: TypeAlias = tuple[tuple[Any, ...], tuple[Any, ...]]
UNBOUNDED: Bounds = ((), ())


class Binds:
    """The placeholders of one statement from `$first` on; the same slot is bound once."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._numbers: dict[Slot, int] = {}

    @property
    def slots(self) -> tuple[Slot, ...]:
        """What is bound, in the order of the placeholders."""
        return tuple(self._numbers)

    def bind(self, slot: Slot, column: Column) -> str:
        """The placeholder of one value of the column's type."""
        return self.bind_as(slot, PG_TYPES[column.kind])

    def bind_as(self, slot: Slot, pg_type: str) -> str:
        """The placeholder of one value of a type that Postgres names so."""
        return f"{self._place(slot)}::{pg_type}"

    def bind_array(self, slot: Slot, column: Column) -> str:
        """The placeholder of an array of the column's type."""
        return array_place(self._place(slot), column)

    def _place(self, slot: Slot) -> str:
        return f"${self._numbers.setdefault(slot, self._first + len(self._numbers))}"


def array_place(place: str, column: Column) -> str:
    """A placeholder as an array of the column's type."""
    name, *collation = PG_TYPES[column.kind].split(" COLLATE ")
    return " COLLATE ".join([f"{place}::{name}[]", *collation])


def resolve(slots: Sequence[Slot], query: Query, after: Sequence[Any], bounds: Bounds = UNBOUNDED) -> list[Any]:
    """The values of a statement's slots, in the order of its placeholders."""
    return [_resolved(slot, query, after, bounds) for slot in slots]


def _resolved(slot: Slot, query: Query, after: Sequence[Any], bounds: Bounds) -> Any:
    match slot:
        case Bound(upper=upper, place=place):
            return bounds[upper][place]
        case After(place=place):
            return after[place]
        case Value(leaf=leaf, item=item):
            values = _values(query.leaves[leaf])
            return values[item] if item < len(values) else None
        case Values(leaf=leaf):
            return list(_values(query.leaves[leaf]))
        case Text(leaf=leaf):
            test = query.leaves[leaf]
            assert isinstance(test, Contains)
            return test.text
        case Later(leaf=leaf, item=item, descending=descending):
            return _later(_values(query.leaves[leaf]), item, after, descending=descending)


def _later(values: tuple[Any, ...], item: int, after: Sequence[Any], *, descending: bool) -> Any:
    if item >= len(values):
        return None
    value = values[len(values) - 1 - item] if descending else values[item]
    if not after:
        return value
    mine, reached = sort_key(value), sort_key(after[0])
    return value if (mine < reached if descending else mine > reached) else None


def _values(leaf: Leaf) -> tuple[Any, ...]:
    match leaf:
        case AnyOf(values=values) | Holds(values=values):
            return values
        case Compare(value=value):
            return (value,)
        case Contains(text=text):
            return (f"%{text.translate(_LITERAL)}%",)
        case _:
            return ()
