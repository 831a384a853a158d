"""Connections that Postgres ends at any moment: transient for whoever used them, and never the end of the process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from shared.errors import Unavailable
from shared.postgres.errors import translated
from shared.postgres.readiness import Readiness
from tests.integration.ingest.rig import Rig

ROUNDS = 120


async def test_readiness_survives_whatever_a_lost_connection_is_reported_as(rig: Rig) -> None:
    """Its task runs for as long as the service does: one error that escapes ends both."""
    readiness = Readiness(rig.pool)
    await _while_connections_are_ended(rig, readiness.check)
    assert await readiness.check()


async def test_statement_on_a_lost_connection_is_always_unavailable(rig: Rig) -> None:
    async def use() -> bool:
        try:
            with translated():
                async with rig.pool.acquire() as connection:
                    await connection.execute("SELECT 1")
                    await asyncio.sleep(0)
                    await connection.execute("SELECT 1")
        except Unavailable:
            return False
        return True

    assert False in await _while_connections_are_ended(rig, use)


async def _while_connections_are_ended(rig: Rig, use: Callable[[], Awaitable[bool]]) -> list[bool]:
    """Answers of `use`, begun at many moments around the end of the connections that it may get."""
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'rig-%'"
    answers = []
    async with rig.lab.connect("penstock") as connection:
        for number in range(ROUNDS):
            with suppress(Unavailable), translated():  # so that there is one to be ended
                await rig.pool.execute("SELECT 1")
            ending = asyncio.create_task(connection.execute(end))
            await asyncio.sleep(0.0001 * (number % 30))
            answers.append(await use())
            await ending
    return answers
