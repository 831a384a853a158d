"""Whether rows come in the order of their keys, told a batch at a time: such rows need no sort, and no key comes twice.
Of a few rows in another order it is told too whether a key comes twice.

Pure. Never guesses: one pair that is equal or the wrong way round, and the answer is no for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shared.contract.model import Dataset

# To look for equal keys in so many rows takes a thread 0.3 ms. With more of them the database does.
FEW_ROWS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRun:
    """The first and the last key of one row or more. `rising`: every key is greater than the one before it. `distinct`:
    no key comes twice, as far as that is known.

    Keys are compared as Postgres compares them: text byte by byte, which for UTF-8 is how Python compares `str`.
    """

    first: tuple[Any, ...]
    last: tuple[Any, ...]
    rising: bool
    distinct: bool


def key_run(dataset: Dataset, batch: pa.RecordBatch) -> KeyRun | None:
    """The run of a batch that holds the typed key columns by name, without nulls; None of a batch without rows."""
    if not batch.num_rows:
        return None
    keys = [batch.column(name) for name in dataset.key]
    rising = _rising(keys)
    distinct = rising or (batch.num_rows <= FEW_ROWS and _distinct(keys))
    return KeyRun(first=_key(keys, 0), last=_key(keys, -1), rising=rising, distinct=distinct)


def joined(before: KeyRun | None, after: KeyRun | None) -> KeyRun | None:
    """The run of both, one behind the other."""
    if before is None or after is None:
        return before or after
    rising = before.rising and after.rising and before.last < after.first
    return KeyRun(first=before.first, last=after.last, rising=rising, distinct=rising)


def _key(keys: list[pa.Array], row: int) -> tuple[Any, ...]:
    return tuple(column[row].as_py() for column in keys)


def _rising(keys: list[pa.Array]) -> bool:
    """Lexicographic: the last column decides where those before it are equal."""
    rising: Any = None
    for column in reversed(keys):
        before, after = column[:-1], column[1:]
        less = pc.less(before, after)
        rising = less if rising is None else pc.or_(less, pc.and_(pc.equal(before, after), rising))
    return bool(pc.all(rising, min_count=0).as_py())


def _distinct(keys: list[pa.Array]) -> bool:
    names = [str(place) for place in range(len(keys))]
    groups = pa.Table.from_arrays(keys, names=names).group_by(names, use_threads=False).aggregate([])
    return bool(groups.num_rows == len(keys[0]))
