"""What callers may demand of versions: at least one that they know, or the same one on every page."""

from __future__ import annotations

import asyncio
from typing import Any

from query_service.database import Database
from query_service.rows import Page, missing_dataset, version_not_reached
from query_service.tokens import Position
from shared.contract.model import Dataset
from shared.errors import Aborted

VERSION_SQL = "SELECT version FROM penstock.datasets WHERE name = $1"
# How long a caller's version is waited for before the database is asked again, in case nothing is heard.
_ASK_AGAIN_S = 1.0


def remaining_s(context: Any, limit_s: float) -> float:
    """How long a call may still take: the caller's deadline, at most `limit_s`."""
    left: float | None = context.time_remaining()
    return limit_s if left is None else min(left, limit_s)


async def wait_for_version(database: Database, dataset: Dataset, at_least: int, timeout_s: float) -> None:
    """Returns once the dataset has reached the version, which the read after it then sees too; raises Unavailable."""
    if at_least == 0:
        return
    standing = database.versions.current(dataset.name)
    if standing is not None and standing.version >= at_least:
        return
    loop = asyncio.get_running_loop()
    until = loop.time() + min(timeout_s, database.limits.version_wait_s)
    while True:
        row = await database.fetch_row(dataset, VERSION_SQL, (dataset.name,), timeout_s)
        if row is None:
            raise missing_dataset(dataset)
        if row["version"] >= at_least:
            return
        left_s = until - loop.time()
        if left_s <= 0:
            raise version_not_reached(dataset, at_least, row["version"])
        await database.versions.changed(dataset.name, beyond=at_least - 1, timeout_s=min(left_s, _ASK_AGAIN_S))


def newest_known(at_least: int, position: Position | None) -> int:
    """The version below which a call must not be answered: what it demands, and what its token has seen."""
    return at_least if position is None else max(at_least, position.version)


def same_version(position: Position, page: Page) -> bool:
    """Whether the page belongs to the version that the token was made at."""
    return (position.epoch, position.version) == (page.epoch, page.version)


def check_same_version(position: Position, page: Page) -> None:
    """Raises Aborted where the rows belong to another version than those before the token."""
    if not same_version(position, page):
        raise Aborted(
            f"the rows now belong to version {page.version}, those before the token to {position.version}: "
            "start again without the token, or without require_same_version",
            reason="VERSION_CHANGED",
            metadata={"token_version": str(position.version), "dataset_version": str(page.version)},
        )
