"""Runs a page's plan: framed rows joined by Postgres, cut to a size that a message may have.

Never splits the joined bytes into rows: the sizes of the last two say where the page ends and which row is its last.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple
from uuid import UUID

from query_service.plan import Plan
from shared.contract.model import Dataset
from shared.errors import FailedPrecondition, Unavailable

Fetch = Callable[[str, Sequence[Any]], Awaitable[Any]]

# What Postgres joins for one page, about: a row larger than its share sends the page through `sizes` first.
READ_BYTES = 32 * 1024 * 1024
SMALL_ROW_BYTES = 16 * 1024
_ANY_SIZE = 2**31 - 1


class Page(NamedTuple):
    """Rows of one snapshot: joined frames, how many, the row to go on after, and whether more rows match after it (may
    match, where the page was read without looking beyond its end or has examined as many rows as it may).

    `last` is the page's last row or, behind it, the last one that was examined; `relevance` is that of the last row
    where rows come by it. A tuple, as a page is made for each call: a frozen dataclass takes three times as long.
    """

    epoch: UUID
    version: int
    data: bytes
    rows: int
    last: bytes | None
    more: bool
    relevance: float | None = None


async def read_page(
    fetch: Fetch, dataset: Dataset, plan: Plan, bound: Sequence[Any], *, max_rows: int, max_bytes: int, beyond: bool
) -> Page:
    """At most `max_rows` rows in at most `max_bytes`, but at least one row where one is left within the plan's bounds.

    `beyond`: one row after the page is read too, to know whether there are more; cutting it off copies the page.
    """
    largest_row = max(SMALL_ROW_BYTES, READ_BYTES // max_rows)
    while True:
        record = await fetch(plan.page, (dataset.name, max_rows + beyond, largest_row, *bound))
        if record is None:
            raise missing_dataset(dataset)
        page = _page(record, plan, max_rows, beyond=beyond)
        if page is not None and (len(page.data) <= max_bytes or page.rows == 1):
            return page
        sizes = (await fetch(plan.sizes, (max_rows, *bound)))["sizes"]
        # Strictly fewer each time round, also where rows changed between the statements.
        max_rows = max(1, min(_fitting(sizes or [], max_bytes), max_rows - 1))
        largest_row = _ANY_SIZE


def _page(record: Any, plan: Plan, max_rows: int, *, beyond: bool) -> Page | None:
    """The page of a result row; None where Postgres left rows out for their size."""
    data: bytes = record["data"] or b""
    if len(data) != (record["size"] or 0):
        return None
    rows: int = record["row_count"]
    last_size: int = record["last_size"] or 0
    relevances: list[float] = record.get("relevances") or []
    more = rows >= max_rows + beyond
    if more and beyond:
        data, rows, last_size = data[: len(data) - last_size], max_rows, record["size_before"] or 0
        relevances = relevances[:-1]
    last = data[len(data) - last_size :] if last_size else None
    if plan.windowed and record["reached"] is not None:
        last, more = record["reached"], True
    return Page(
        epoch=record["epoch"],
        version=record["version"],
        data=data,
        rows=rows,
        last=last,
        more=more,
        relevance=relevances[-1] if relevances else None,
    )


def unframe(framed: bytes) -> bytes:
    """The record of a stored row, without the frame (0x0A, varint length) that makes it field 1 of a response."""
    start = 1
    while framed[start] & 0x80:
        start += 1
    return framed[start + 1 :]


def _fitting(sizes: Sequence[int], max_bytes: int) -> int:
    return sum(1 for total in accumulate(sizes) if total <= max_bytes)


def missing_dataset(dataset: Dataset) -> FailedPrecondition:
    """The error for a dataset that the database does not know (any more)."""
    return FailedPrecondition(
        f"dataset {dataset.name!r} is not in the database: run penstock migrate for this contract",
        reason="DATASET_NOT_APPLIED",
        metadata={"dataset": dataset.name},
    )


def version_not_reached(dataset: Dataset, wanted: int, version: int) -> Unavailable:
    """The error for a version that a caller demands and that does not come in time."""
    return Unavailable(
        f"{dataset.name} is at version {version} and did not reach {wanted} in time",
        reason="VERSION_NOT_REACHED",
        metadata={"dataset": dataset.name, "dataset_version": str(version)},
        retry_after_s=1.0,
    )
