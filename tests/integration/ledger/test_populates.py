"""One request_id is one piece of work: new, attached to, taken over or done, and never other work."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from ingest_service.ledger import populates
from ingest_service.ledger.populates import Claim, ClaimKind
from shared.errors import AlreadyExists
from tests.integration.merge.lab import Lab


async def test_first_caller_works_and_the_second_attaches(lab: Lab) -> None:
    request = uuid.uuid4()
    async with lab.connect() as connection:
        assert await populates.claim(connection, request, b"r", "one") == Claim(kind=ClaimKind.NEW, owner="one")
        assert await populates.claim(connection, request, b"r", "two") == Claim(kind=ClaimKind.ATTACH, owner="one")
        assert await populates.claim(connection, request, b"r", "one") == Claim(kind=ClaimKind.ATTACH, owner="one")


async def test_callers_at_the_same_time_agree_on_one_worker(lab: Lab) -> None:
    request = uuid.uuid4()

    async def call(owner: str) -> Claim:
        async with lab.connect() as connection:
            return await populates.claim(connection, request, b"r", owner)

    claims = await asyncio.gather(*(call(f"owner {n}") for n in range(5)))
    assert sorted(claim.kind.value for claim in claims) == ["ATTACH"] * 4 + ["NEW"]
    assert len({claim.owner for claim in claims}) == 1


async def test_request_id_with_other_fields_is_refused(lab: Lab) -> None:
    request = uuid.uuid4()
    async with lab.connect() as connection:
        await populates.claim(connection, request, b"r", "one")
        with pytest.raises(AlreadyExists) as refused:
            await populates.claim(connection, request, b"other", "one")
    assert refused.value.reason == "REQUEST_ID_REUSED"


async def test_vanished_owner_is_replaced_by_exactly_one_other(lab: Lab) -> None:
    request = uuid.uuid4()
    async with lab.connect() as connection:
        await populates.claim(connection, request, b"r", "one")
        await connection.execute("UPDATE penstock.populates SET heartbeat_at = now() - interval '1 hour'")
        taken = await populates.claim(connection, request, b"r", "two")
        assert taken == Claim(kind=ClaimKind.TAKEOVER, owner="two")
        assert await populates.claim(connection, request, b"r", "three") == Claim(kind=ClaimKind.ATTACH, owner="two")
        assert not await populates.heartbeat(connection, request, "one")
        assert not await populates.finish(connection, request, "one")
        assert await populates.heartbeat(connection, request, "two")


async def test_done_request_is_answered_from_the_ledger(lab: Lab) -> None:
    request = uuid.uuid4()
    async with lab.connect() as connection:
        await populates.claim(connection, request, b"r", "one")
        assert await populates.finish(connection, request, "one")
        assert await populates.claim(connection, request, b"r", "two") == Claim(kind=ClaimKind.DONE, owner="one")
        assert not await populates.heartbeat(connection, request, "one")


async def test_released_request_is_taken_over_at_once(lab: Lab) -> None:
    request = uuid.uuid4()
    async with lab.connect() as connection:
        await populates.claim(connection, request, b"r", "one")
        assert not await populates.release(connection, request, "two")
        assert await populates.release(connection, request, "one")
        assert await populates.list_stale(connection) == [(request, b"r")]
        assert await populates.claim(connection, request, b"r", "two") == Claim(kind=ClaimKind.TAKEOVER, owner="two")


async def test_request_that_was_given_up_is_taken_over_by_nobody_and_may_be_asked_anew(lab: Lab) -> None:
    request = uuid.uuid4()
    async with lab.connect() as connection:
        await populates.claim(connection, request, b"r", "one")
        assert await populates.give_up(connection, request, "one")
        assert await populates.list_stale(connection, stale_after_s=-1) == []
        assert await populates.claim(connection, request, b"r", "two") == Claim(kind=ClaimKind.NEW, owner="two")
