"""A filter as it is written: what its words are and where they stand. Knows no contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from shared.errors import FieldViolation, InvalidRequest

_MOST_SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A name, a value or a comparator as it is written, quotes included; `place` counts characters from 1."""

    text: str
    place: int

    @property
    def quoted(self) -> bool:
        """Whether it is a string in quotes."""
        return self.text[:1] in {'"', "'"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Restriction:
    """`name comparator value`."""

    name: Word
    comparator: Word
    value: Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Bare:
    """A value without a name: a text to search for."""

    value: Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Negation:
    """`NOT part` or `-part`."""

    part: Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Conjunction:
    """`part AND part`, or parts side by side."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Disjunction:
    """`part OR part`, which binds tighter than AND."""

    parts: tuple[Tree, ...]


Tree: TypeAlias = Restriction | Bare | Negation | Conjunction | Disjunction


def shortened(text: str) -> str:
    """A caller's text as an error may repeat it."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def refused(reason: str, description: str, word: Word | None = None) -> InvalidRequest:
    """The error of a filter, which names the word and its place."""
    if word is not None:
        description = f"column {word.place}, at {shortened(word.text)}: {description}"
    return InvalidRequest([FieldViolation(field="filter", description=description)], reason=reason)
