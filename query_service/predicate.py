"""Conditions -> the SQL text that tests one row. Pure: identifiers come from the contract, values are always bound."""

from __future__ import annotations

from query_service.binds import Binds, Value, Values
from query_service.conditions import All, AnyOf, Compare, Condition, Contains, Either, Holds, Leaf, Not, Query
from shared.contract.ddl import default_value, quote_ident
from shared.contract.model import Column, Dataset


def is_nullable(dataset: Dataset, column: Column) -> bool:
    """Whether the column can hold NULL; that of a key never does, though its field may have presence."""
    return column.nullable and column.name not in dataset.key


def is_missing_when_null(dataset: Dataset, column: Column) -> bool:
    """Whether NULL is all there is to its absence: a field without presence is absent with its default too."""
    return is_nullable(dataset, column) and not column.implicit


class Predicate:
    """Renders the conditions of one query into one statement."""

    def __init__(self, dataset: Dataset, query: Query, binds: Binds) -> None:
        self._dataset = dataset
        self._binds = binds
        self._places = {id(leaf): place for place, leaf in enumerate(query.leaves)}

    def sql(self, condition: Condition, *, negated: bool = False) -> str:
        """The condition's text, true or false for each row. Negation goes down to the tests, where NULL is known."""
        match condition:
            case Not(part=part):
                return self.sql(part, negated=not negated)
            case All(parts=parts):
                return self._joined(parts, "OR" if negated else "AND", negated=negated)
            case Either(parts=parts):
                return self._joined(parts, "AND" if negated else "OR", negated=negated)
            case _:
                return self._test(condition, negated=negated)

    def _joined(self, parts: tuple[Condition, ...], word: str, *, negated: bool) -> str:
        return "(" + f" {word} ".join(self.sql(part, negated=negated) for part in parts) + ")"

    def _test(self, leaf: Leaf, *, negated: bool) -> str:
        text = self.leaf(leaf)
        if not negated:
            return text
        nullable = is_nullable(self._dataset, leaf.column)
        return f"({text}) IS NOT TRUE" if nullable else f"NOT ({text})"

    def leaf(self, leaf: Leaf) -> str:
        """The text of one test, which is NULL where a value that it compares is missing."""
        column, name = leaf.column, quote_ident(leaf.column.name)
        place = self._places[id(leaf)]
        match leaf:
            case AnyOf(values=values) if len(values) == 1:
                return f"{name} = {self._binds.bind(Value(leaf=place), column)}"
            case AnyOf():
                return f"{name} = ANY({self._binds.bind_array(Values(leaf=place), column)})"
            case Compare(operator=operator):
                return f"{name} {operator.value} {self._binds.bind(Value(leaf=place), column)}"
            case Contains():
                return f"{name} ILIKE {self._binds.bind(Value(leaf=place), column)}"
            case Holds():
                return f"{name} && {self._binds.bind_array(Values(leaf=place), column)}"
            case _:
                return self._present(column)

    def _present(self, column: Column) -> str:
        name = quote_ident(column.name)
        if is_missing_when_null(self._dataset, column):
            return f"{name} IS NOT NULL"
        if column.name in self._dataset.key and column.nullable:
            return "true"  # a date of the key is always there
        return f"{name} <> {default_value(column)}"
