"""The benchmark's table: what a row holds, and how rows become Markdown. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_HEAD = ("figure", "Penstock", "baseline", "ratio", "target", "met")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a figure should reach. `at_least` and `at_most` bound it; with neither it is only reported."""

    at_least: float | None = None
    at_most: float | None = None
    aim: str = ""
    unit: str = ""

    def met(self, value: float) -> bool | None:
        """Whether `value` does; None where there is nothing to reach."""
        if self.at_least is not None:
            return value >= self.at_least
        return value <= self.at_most if self.at_most is not None else None

    def __str__(self) -> str:
        bound = ">= " if self.at_least is not None else "<= "
        limit = self.at_least if self.at_least is not None else self.at_most
        words = f"{bound}{limit:g}{self.unit}" if limit is not None else "reported"
        return f"{words}; aim {self.aim}" if self.aim else words


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row of the table. `value` is held against the target; where there is a baseline it is the ratio to it."""

    name: str
    ours: str
    baseline: str = ""
    value: float
    target: Target

    @property
    def cells(self) -> tuple[str, ...]:
        """The row's cells in the order of the head."""
        ratio = f"{self.value:.3g}" if self.baseline else ""
        met = {True: "yes", False: "**no**", None: ""}[self.target.met(self.value)]
        return (self.name, self.ours, self.baseline, ratio, str(self.target), met)


def markdown(figures: Sequence[Figure]) -> str:
    """The table."""
    rows = [_HEAD, tuple("---" for _ in _HEAD), *(figure.cells for figure in figures)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def seconds(samples: Sequence[float]) -> str:
    """A median in words."""
    median = statistics.median(samples)
    if median >= 1:
        return f"{median:.2f} s"
    return f"{median * 1000:.{0 if median >= 0.01 else 1}f} ms"


def rate(count: int, samples: Sequence[float], unit: str) -> str:
    """`count` things in the median time, in words: `1.25 M rows/s`."""
    value = count / statistics.median(samples)
    for size, letter in ((1e6, "M "), (1e3, "k ")):
        if value >= size:
            return f"{value / size:.3g} {letter}{unit}"
    return f"{value:.3g} {unit}"


def time_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Our median time in theirs: below 1 we are faster."""
    return statistics.median(ours) / statistics.median(theirs)


def rate_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Our rate in theirs, from times for the same work: above 1 we are faster."""
    return 1 / time_ratio(ours, theirs)
