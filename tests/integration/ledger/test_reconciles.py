"""Who may reconcile a dataset, and when: one process at a time, and none while another epoch is to be looked into."""

from __future__ import annotations

import asyncio

import pytest

from ingest_service.ledger import reconciles
from tests.integration.merge.lab import Lab

THINGS = ["things", "unknown"]


async def _execute(lab: Lab, statement: str) -> None:
    async with lab.connect("penstock") as owner:
        await owner.execute(statement)


async def test_dataset_is_claimed_by_one_and_again_only_when_it_is_due(lab: Lab) -> None:
    async with lab.connect() as connection:
        await reconciles.register(connection, THINGS)
        claimed = await reconciles.claim(connection, THINGS, "a", ended_before_s=3600)
        assert list(claimed) == ["things"]
        assert await reconciles.claim(connection, THINGS, "b", ended_before_s=3600) == {}
        assert await reconciles.heartbeat(connection, claimed, "a")
        assert not await reconciles.heartbeat(connection, claimed, "b")
        gaps = {"MISSING": 1, "OUTDATED": 2, "GONE": 3, "FAILED": 4}
        assert await reconciles.gaps(connection, THINGS) == {}
        await reconciles.record(connection, "things", gaps)
        await reconciles.release(connection, claimed, "a")
        assert await reconciles.gaps(connection, THINGS) == {"things": gaps}
        assert await reconciles.claim(connection, THINGS, "b", ended_before_s=3600) == {}
        assert await reconciles.claim(connection, THINGS, "b", ended_before_s=0) == claimed


async def test_claim_of_a_vanished_process_goes_stale(lab: Lab) -> None:
    async with lab.connect() as connection:
        await reconciles.register(connection, THINGS)
        claimed = await reconciles.claim(connection, THINGS, "gone", ended_before_s=0)
        await _execute(lab, "UPDATE penstock.reconciles SET heartbeat_at = now() - interval '2 minutes'")
        assert await reconciles.claim(connection, THINGS, "here", ended_before_s=0) == claimed
        assert not await reconciles.heartbeat(connection, claimed, "gone")
        await reconciles.release(connection, claimed, "gone")
        assert await reconciles.heartbeat(connection, claimed, "here"), "and its late farewell takes nothing away"


@pytest.mark.parametrize("ended_before_s", [3600, None])
async def test_of_many_that_claim_at_once_one_has_it(lab: Lab, ended_before_s: float | None) -> None:
    async with lab.connect() as connection:
        await reconciles.register(connection, THINGS)
    if ended_before_s is None:
        await _execute(lab, "UPDATE penstock.datasets SET epoch = gen_random_uuid()")

    async def claim(number: int) -> int:
        async with lab.connect() as connection:
            return len(await reconciles.claim(connection, THINGS, f"{number}", ended_before_s=ended_before_s))

    assert sum(await asyncio.gather(*map(claim, range(8)))) == 1


async def test_other_epoch_is_looked_into_before_anything_else(lab: Lab) -> None:
    async with lab.connect() as connection:
        await reconciles.register(connection, THINGS)
        assert await reconciles.pending(connection, THINGS) == []
        assert await reconciles.claim(connection, THINGS, "a") == {}
        running = await reconciles.claim(connection, THINGS, "a", ended_before_s=0)
        await _execute(lab, "UPDATE penstock.datasets SET epoch = gen_random_uuid()")
        assert await reconciles.pending(connection, THINGS) == ["things"]
        assert not await reconciles.heartbeat(connection, running, "a"), "what runs by the old epoch ends"
        await reconciles.release(connection, running, "a")
        assert await reconciles.claim(connection, THINGS, "b", ended_before_s=0) == {}
        claimed = await reconciles.claim(connection, THINGS, "b")
        assert await reconciles.heartbeat(connection, claimed, "b")
        await _execute(lab, "UPDATE penstock.datasets SET epoch = gen_random_uuid()")
        await reconciles.rechecked(connection, claimed)
        assert await reconciles.pending(connection, THINGS) == ["things"], "it changed again meanwhile"
        await reconciles.release(connection, claimed, "b")
        await reconciles.rechecked(connection, await reconciles.claim(connection, THINGS, "b"))
        assert await reconciles.pending(connection, THINGS) == []
