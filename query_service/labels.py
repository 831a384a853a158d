"""Which states of a dataset the statements of one call were answered from, told by their own rows.

For the cache, which keeps an answer only under a state that every statement of the call says it saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from query_service.versions import Standing

_SEEN: ContextVar[set[Standing] | None] = ContextVar("penstock_seen", default=None)


@contextmanager
def labels_seen() -> Iterator[set[Standing]]:
    """What the statements inside the block say, which run in this task."""
    seen: set[Standing] = set()
    token = _SEEN.set(seen)
    try:
        yield seen
    finally:
        _SEEN.reset(token)


def note_label(row: Any) -> None:
    """Of a row with epoch and version, where somebody wants to know."""
    seen = _SEEN.get()
    if seen is not None and row is not None and "epoch" in row:
        seen.add(Standing(epoch=row["epoch"], version=row["version"]))
