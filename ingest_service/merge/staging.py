"""An object's rows in a temporary table of one session, outside every transaction and lock.

Staging may take as long as the download does; it must never hold anything that others wait for.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace

import asyncpg

from ingest_service.copy_format import TRAILER, header
from ingest_service.ledger import datasets
from ingest_service.ledger.connection import Connection
from ingest_service.merge import plan
from shared.contract.model import Dataset
from shared.errors import PenstockError, Unavailable
from shared.postgres.errors import translated

# For the hash of all keys; twice that by hash_mem_multiplier.
_MEMORY_MIB = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """What lies in the stage: `rows` of distinct keys; `duplicates` earlier rows of the same keys were dropped.

    Not `distinct`: nobody has looked for duplicates yet. Only the bulk path writes such rows; its primary key tells.
    `in_key_order`: the rows lie there in the order of their keys, each key once. `analyzed`: the planner knows the
    stage; the bulk path has nothing to plan.
    """

    rows: int
    duplicates: int = 0
    distinct: bool = True
    in_key_order: bool = False
    analyzed: bool = True


@asynccontextmanager
async def stage(
    connection: Connection,
    dataset: Dataset,
    source: AsyncIterable[bytes],
    *,
    bulk_rows: int | None = None,
    in_key_order: Callable[[], bool] = lambda: False,
) -> AsyncIterator[Staged]:
    """The rows of `source` (binary COPY of `plan.stage_columns`) in the session's stage, ready to be merged.

    With `bulk_rows`, a first load of that many is taken for one without duplicates: to look takes a tenth of its time.
    `in_key_order` is asked when `source` has ended; rows in the order of their keys are distinct without a look.
    `connection` must not be in a transaction and stays the caller's for the whole block; the stage is gone after it.
    Raises whatever `source` raises.
    """
    with translated():
        await connection.execute(plan.create_stage(dataset))
    try:
        copied = await copy_rows(connection, dataset, source)
        with translated():
            ordered = in_key_order()
            distinct = ordered or copied <= 1
            staged = Staged(rows=copied, distinct=distinct, in_key_order=ordered, analyzed=False)
            if bulk_rows is None or copied < bulk_rows or not await datasets.never_loaded(connection, dataset.name):
                staged = await ready_to_compare(connection, dataset, staged)
        yield staged
    finally:
        await _drop(connection)


async def stage_rejected(connection: Connection, dataset: Dataset, keys: Iterable[bytes]) -> bool:
    """Stages the keys of rejected rows (binary COPY tuples of the key columns) beside the stage; False: there are none.

    Only within `stage`, which drops them too.
    """
    tuples = list(keys)
    if not tuples:
        return False
    with translated():
        await connection.execute(plan.create_rejected(dataset))
        await connection.copy_to_table(
            plan.REJECTED_NAME,
            schema_name="pg_temp",
            columns=dataset.key,
            source=io.BytesIO(b"".join((header(), *tuples, TRAILER))),
            format="binary",
        )
    return True


async def _drop(connection: Connection) -> None:
    """A lost connection took its temporary table with it; that must not make a failure of a committed load."""
    if not connection.is_closed():
        with suppress(Unavailable), translated():
            await connection.execute(plan.DROP_STAGE)


async def ready_to_compare(connection: Connection, dataset: Dataset, staged: Staged) -> Staged:
    """The stage as the delta merge needs it: each key once, and known to the planner."""
    staged = await make_distinct(connection, dataset, staged)
    if not staged.analyzed:
        await connection.execute(plan.analyze_stage(dataset))
    return replace(staged, analyzed=True)


async def make_distinct(connection: Connection, dataset: Dataset, staged: Staged) -> Staged:
    """Drops every staged row whose key comes again on a later line, unless that was done already."""
    if staged.distinct:
        return staged
    async with connection.transaction():
        await connection.execute(f"SET LOCAL work_mem = '{_MEMORY_MIB}MB'")
        duplicates = affected(await connection.execute(plan.drop_duplicates(dataset)))
    return replace(staged, rows=staged.rows - duplicates, duplicates=duplicates, distinct=True)


async def drop_passed_over(connection: Connection, dataset: Dataset, staged: Staged, *, wanted: int) -> Staged:
    """The stage without the rows that were staged for their key only, of which each took the place of an earlier one.
    `wanted`: how many others were staged. Only after `make_distinct`."""
    assert staged.distinct
    rows = staged.rows - affected(await connection.execute(plan.DROP_PASSED_OVER))
    # Of a big stage little may be left: the planner must know.
    await connection.execute(plan.analyze_stage(dataset))
    return replace(staged, rows=rows, duplicates=wanted - rows, analyzed=True)


async def copy_rows(
    connection: Connection, dataset: Dataset, source: AsyncIterable[bytes], *, table: str = plan.STAGE_NAME
) -> int:
    """COPY into a stage, ended at once when the connection is lost; the rows. What `source` raises is raised as it is.

    asyncpg (0.32) would go on reading `source`, and wait for ever where the server died while the socket's buffer was
    full: nobody resumes the writer.
    """
    failures: list[Exception] = []
    noted = _noting(source, failures)
    copying = asyncio.ensure_future(
        connection.copy_to_table(
            table,
            schema_name="pg_temp",
            columns=plan.stage_columns(dataset),
            source=noted,
            format="binary",
        )
    )
    try:
        with _on_loss(connection, copying.cancel), translated():
            return affected(await _unless_lost(connection, copying))
    except PenstockError:
        if failures:
            raise failures[0] from None
        raise
    finally:
        await noted.aclose()


async def _unless_lost(connection: Connection, copying: asyncio.Future[str]) -> str:
    """The command tag; ConnectionDoesNotExistError where the loss of the connection cancelled the COPY."""
    try:
        return await copying
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if connection.is_closed() and not (task and task.cancelling()):
            raise asyncpg.ConnectionDoesNotExistError("the connection was lost during COPY") from exc
        raise


async def _noting(source: AsyncIterable[bytes], failures: list[Exception]) -> AsyncGenerator[bytes, None]:
    """`source`, with what it raises noted, so that its network errors are not taken for the database's."""
    try:
        async for chunk in source:
            yield chunk
            # A source that never has to wait would keep the loop from seeing that the connection is lost.
            await asyncio.sleep(0)
    except Exception as exc:
        failures.append(exc)
        raise


@contextmanager
def _on_loss(connection: Connection, act: Callable[[], object]) -> Iterator[None]:
    """Calls `act` when the connection is lost within the block."""

    def listener(_: object) -> None:
        act()

    connection.add_termination_listener(listener)
    try:
        yield
    finally:
        if not connection.is_closed():
            connection.remove_termination_listener(listener)


def affected(status: str) -> int:
    """The row count of a command tag, such as `COPY 17`."""
    return int(status.rsplit(" ", 1)[-1])
