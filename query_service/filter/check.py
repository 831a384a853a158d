"""A filter's syntax tree -> conditions on the columns that a dataset allows, each value of its column's type."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, TypeVar

from query_service.conditions import (
    All,
    AnyOf,
    Compare,
    Condition,
    Contains,
    Either,
    Holds,
    Leaf,
    Not,
    Operator,
    Present,
    distinct,
)
from query_service.filter.grammar import parse
from query_service.filter.literals import text_of, value_of
from query_service.filter.syntax import Bare, Conjunction, Disjunction, Negation, Restriction, Tree, Word, refused
from shared.contract.model import Column, Dataset, Kind
from shared.errors import InvalidRequest

T = TypeVar("T")

MOST_TESTS = 128
DEEPEST = 16
# Trigrams, which a search goes by, have three characters.
SHORTEST_SEARCH = 3
_UNORDERED = frozenset({Kind.BOOL, Kind.ENUM, Kind.BYTES})
_LAST_CHARACTER = "\U0010ffff"


@lru_cache(maxsize=1024)
def compile_filter(dataset: Dataset, text: str) -> Condition | None:
    """The condition that a filter states, None for a blank one.

    Raises InvalidRequest whose violation is of the field `filter` and names place, token and what is allowed:
    FILTER_SYNTAX, FILTER_FIELD, FILTER_OPERATOR, FILTER_VALUE or FILTER_TOO_COMPLEX.
    """
    if not text.strip():
        return None
    return _Checker(dataset).condition(parse(text), 0)


def filterable_columns(dataset: Dataset) -> dict[str, Column]:
    """The columns a filter may name, by name: flagged ones, the key's, and those of declared indexes."""
    indexed = {field.name for index in dataset.indexes for field in index} | set(dataset.key)
    return {column.name: column for column in dataset.columns if column.filterable or column.name in indexed}


class _Checker:
    """Checks one filter; counts its tests."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._filterable = filterable_columns(dataset)
        self._searchable = {column.name: column for column in dataset.columns if column.searchable}
        self._tests = 0

    def condition(self, tree: Tree, depth: int) -> Condition:
        """The condition of a tree that lies `depth` levels deep."""
        if depth > DEEPEST:
            raise refused("FILTER_TOO_COMPLEX", f"is nested more than {DEEPEST} levels deep")
        match tree:
            case Negation(part=part):
                return Not(part=self.condition(part, depth + 1))
            case Conjunction(parts=parts):
                return All(parts=tuple(self.condition(part, depth + 1) for part in parts))
            case Disjunction(parts=parts):
                return _either(self.condition(part, depth + 1) for part in parts)
            case Bare(value=value):
                return self._search(value)
            case Restriction():
                return self._restriction(tree)

    def _count(self) -> None:
        self._tests += 1
        if self._tests > MOST_TESTS:
            raise refused("FILTER_TOO_COMPLEX", f"has more than {MOST_TESTS} tests")

    def _search(self, value: Word) -> Condition:
        self._count()
        if not self._searchable:
            raise refused("FILTER_FIELD", "a value needs a field before it, for no field is searchable", value)
        text = self._search_text(value)
        return _either(Contains(column=column, text=text) for column in self._searchable.values())

    def _restriction(self, tree: Restriction) -> Condition:
        self._count()
        column, comparator, value = self._column(tree), tree.comparator, tree.value
        if comparator.text == ":":
            return self._has(column, tree)
        if column.repeated:
            raise refused("FILTER_OPERATOR", f"the repeated field {column.name} takes ':' only", comparator)
        if column.kind is Kind.STRING:
            return self._text(column, comparator, value)
        if comparator.text in {"=", "!="}:
            return _equal(column, comparator, self._value(column, value))
        if column.kind in _UNORDERED:
            allowed = "= and !=" + (" and ':*'" if column.nullable else "")
            raise refused(
                "FILTER_OPERATOR", f"{column.name} is of type {column.kind.value}, which takes {allowed}", comparator
            )
        return Compare(column=column, operator=Operator(comparator.text), value=self._value(column, value))

    def _column(self, tree: Restriction) -> Column:
        name = tree.name.text
        column = self._filterable.get(name)
        if column is not None:
            return column
        if name in self._searchable:
            if tree.comparator.text == ":":
                return self._searchable[name]
            raise refused("FILTER_OPERATOR", f"{name} is searchable only and takes ':'", tree.comparator)
        raise self._unknown(tree.name)

    def _unknown(self, word: Word) -> InvalidRequest:
        head, dot, _ = word.text.partition(".")
        if word.text in self._dataset.message.fields_by_name:
            problem = f"field {word.text} is not filterable"
        elif dot and head in self._dataset.message.fields_by_name:
            problem = f"{word.text} is nested, and its contract does not name it in filterable_paths"
        else:
            problem = f"{self._dataset.message.full_name} has no such field"
        allowed = ", ".join(sorted({*self._filterable, *self._searchable}))
        return refused("FILTER_FIELD", f"{problem}; allowed are {allowed}", word)

    def _has(self, column: Column, tree: Restriction) -> Condition:
        value = tree.value
        if value.text == "*":
            return Present(column=column)
        if column.repeated:
            return Holds(column=column, values=(self._element(column, value),))
        if column.searchable:
            return Contains(column=column, text=self._search_text(value))
        hint = f"{column.name} is neither repeated nor searchable: use =, or {column.name}:* for its presence"
        raise refused("FILTER_OPERATOR", hint, tree.comparator)

    def _text(self, column: Column, comparator: Word, value: Word) -> Condition:
        text, begins = self._converted(value, text_of)
        if not begins:
            if comparator.text in {"=", "!="}:
                return _equal(column, comparator, text)
            return Compare(column=column, operator=Operator(comparator.text), value=text)
        if comparator.text not in {"=", "!="} or not text:
            hint = r"'*' goes with = and != after at least one character; write \* for the character itself"
            raise refused("FILTER_VALUE", hint, value)
        prefix = _begins_with(column, text)
        return prefix if comparator.text == "=" else Not(part=prefix)

    def _search_text(self, value: Word) -> str:
        text, begins = self._converted(value, text_of)
        if begins or len(text) < SHORTEST_SEARCH:
            hint = f"a text to search for has at least {SHORTEST_SEARCH} characters, and '*' only as \\*"
            raise refused("FILTER_VALUE", hint, value)
        return text

    def _element(self, column: Column, value: Word) -> Any:
        if column.kind is not Kind.STRING:
            return self._value(column, value)
        text, begins = self._converted(value, text_of)
        if begins:
            raise refused("FILTER_VALUE", r"an element is compared as a whole; write \* for the character", value)
        return text

    def _value(self, column: Column, value: Word) -> Any:
        field = self._dataset.way(column.name)[-1]
        return self._converted(value, lambda word: value_of(column, field, word))

    def _converted(self, value: Word, convert: Callable[[Word], T]) -> T:
        try:
            return convert(value)
        except ValueError as exc:
            raise refused("FILTER_VALUE", str(exc), value) from exc


def _equal(column: Column, comparator: Word, value: Any) -> Condition:
    test = AnyOf(column=column, values=(value,))
    return test if comparator.text == "=" else Not(part=test)


def _begins_with(column: Column, text: str) -> Condition:
    """A range, which an index walks: from the text up to the first text after all that begin with it."""
    least = Compare(column=column, operator=Operator.GE, value=text)
    head = text.rstrip(_LAST_CHARACTER)
    if not head:
        return least  # whatever is not less begins with it
    last = ord(head[-1]) + 1
    following = chr(0xE000 if last == 0xD800 else last)  # no text holds a surrogate
    return All(parts=(least, Compare(column=column, operator=Operator.LT, value=head[:-1] + following)))


def _either(parts: Iterable[Condition]) -> Condition:
    """A choice whose tests of equality are folded, one test of several values for each column."""
    folded: dict[tuple[type, str], Leaf] = {}
    others: list[Condition] = []
    for part in (inner for outer in parts for inner in (outer.parts if isinstance(outer, Either) else (outer,))):
        if isinstance(part, AnyOf | Holds):
            key = (type(part), part.column.name)
            values = (*folded[key].values, *part.values) if key in folded else part.values  # type: ignore[union-attr]
            folded[key] = type(part)(column=part.column, values=distinct(values))
        else:
            others.append(part)
    found = (*folded.values(), *others)
    return found[0] if len(found) == 1 else Either(parts=found)
