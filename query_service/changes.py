"""Where a Watch stands among the changes of a dataset, and the statements that read on from there. Pure.

Changes are read in windows of whole versions: first the keys that were deleted in one, then the rows that changed in
it. So a key that was deleted and came back within a window ends as a row. A row that changes again while a window is
read moves behind its end, where it is met later; what lies before a position never changes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from query_service.plan import Plan, page_sql, sizes_sql
from shared.contract.ddl import column_names, deleted_table, quote_ident, table
from shared.contract.model import PG_TYPES, Dataset

_LAYOUT = struct.Struct(">Q?Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The versions after `base` up to `end`, and how far they are told: behind the key of version `at`, of the deleted
    keys or (`rows`) of the rows. Without a key: to the end of version `at`."""

    base: int
    end: int
    rows: bool
    at: int
    key: bytes | None = None

    @property
    def floor(self) -> int:
        """Deletions after this version are still to be told."""
        return self.at - 1 if self.key is not None else self.at


def pack(window: Window | None) -> bytes | None:
    """The window as a token carries it beside its base; None between windows."""
    if window is None:
        return None
    tail = b"" if window.key is None else b"\1" + window.key
    return _LAYOUT.pack(window.end, window.rows, window.at) + tail


def unpack(base: int, packed: bytes) -> Window:
    """The reverse; ValueError for what `pack` has not made."""
    try:
        end, rows, at = _LAYOUT.unpack_from(packed)
    except struct.error as exc:
        raise ValueError("is no position of a Watch") from exc
    tail = packed[_LAYOUT.size :]
    return Window(base=base, end=end, rows=rows, at=at, key=tail[1:] if tail else None)


def deletions_sql(dataset: Dataset, *, after_key: bool) -> str:
    """Keys deleted after a place, oldest first, as one array per column, with the dataset's version and horizon:
    (dataset name, most keys, last version, version[, *key]). Index: the primary key, (_version, key)."""
    arrays = ", ".join(
        f"array_agg({quote_ident(name)}) AS {quote_ident(f'k{n}')}" for n, name in enumerate(dataset.key)
    )
    columns = column_names(["_version", *dataset.key])
    return f"""
SELECT d.epoch, d.version, d.deleted_horizon, x.*
FROM penstock.datasets AS d, LATERAL (
    SELECT array_agg("_version") AS versions, {arrays}
    FROM (
        SELECT {columns} FROM {deleted_table(dataset)}
        WHERE {_after(dataset, 4, after_key=after_key)} AND "_version" <= least($3::bigint, d.version)
        ORDER BY {columns} LIMIT $2::bigint
    ) AS r
) AS x
WHERE d.name = $1"""  # noqa: S608  identifiers are the contract's, quoted


def rows_plan(dataset: Dataset, *, after_key: bool) -> Plan:
    """A page of the rows that changed after a place: (..., last version, version[, *key]) after the plan's own
    arguments; `last_version` is that of the page's last row. Index: (_version, key)."""
    page = page_sql(_changed(dataset, 4, "$2", after_key=after_key), ',\n        max("_version") AS last_version')
    sizes = sizes_sql(_changed(dataset, 2, "$1", after_key=after_key))
    return Plan(page=page, sizes=sizes, slots=(), windowed=False)


def _changed(dataset: Dataset, first: int, limit: str, *, after_key: bool) -> str:
    columns = column_names(["_version", *dataset.key])
    return (
        f'SELECT _wire, {columns} FROM {table(dataset)} WHERE "_version" <= ${first}::bigint '  # noqa: S608  as above
        f"AND {_after(dataset, first + 1, after_key=after_key)} ORDER BY {columns} LIMIT {limit}"
    )


def _after(dataset: Dataset, first: int, *, after_key: bool) -> str:
    if not after_key:
        return f'"_version" > ${first}::bigint'
    bound = (f"${n}::{PG_TYPES[column.kind]}" for n, column in enumerate(dataset.key_columns, first + 1))
    return f"({column_names(['_version', *dataset.key])}) > (${first}::bigint, {', '.join(bound)})"


def whole_versions(versions: Sequence[int], most: int, newest: int) -> tuple[int, int]:
    """How many of the deletions that were read belong to the next window, and where it ends.

    Where there may be more than were read, it ends before the last version of them, which may be read in part; a single
    version that has more is a window of its own.
    """
    if len(versions) < most:
        return len(versions), newest
    last = versions[-1]
    if versions[0] == last:
        return len(versions), last
    return sum(version < last for version in versions), last - 1


def key_rows(dataset: Dataset, found: Any, count: int) -> list[tuple[Any, ...]]:
    """The first keys of a result of `deletions_sql`, in keyset order of their columns."""
    columns = [(found[f"k{n}"] or [])[:count] for n in range(len(dataset.key))]
    return list(zip(*columns, strict=True))
