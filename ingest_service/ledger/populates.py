"""penstock.populates: one row a Populate request, so that the same request_id attaches to its work (AIP-155).

One owner at a time works on a request. A stale heartbeat lets another process take the work over.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from uuid import UUID

from ingest_service.ledger.connection import Connection, translating
from shared.errors import AlreadyExists

STALE_AFTER_S = 60.0


class ClaimKind(enum.Enum):
    """What a caller of a request_id has to do."""

    NEW = "NEW"  # nobody knew the request: do the work
    TAKEOVER = "TAKEOVER"  # its owner vanished: do the work again, what was loaded is already applied
    ATTACH = "ATTACH"  # `owner` is at it: follow the ledger
    DONE = "DONE"  # answer from the ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The answer to a claim; `owner` is who works, or worked, on the request."""

    kind: ClaimKind
    owner: str


# A request that nobody knew yet. Primary key: populates_pkey.
_NEW = """
INSERT INTO penstock.populates (request_id, request, owner, heartbeat_at) VALUES ($1, $2, $3, now())
ON CONFLICT (request_id) DO NOTHING
RETURNING true
"""

# A known request, locked so that only one caller can take it over. Index: populates_pkey.
_KNOWN = """
SELECT request, owner, state, coalesce(heartbeat_at < now() - make_interval(secs => $2), true) AS stale
FROM penstock.populates WHERE request_id = $1 FOR UPDATE
"""

# Index: populates_pkey.
_TAKE_OVER = "UPDATE penstock.populates SET owner = $2, heartbeat_at = now() WHERE request_id = $1"

# Index: populates_pkey.
_HEARTBEAT = """
UPDATE penstock.populates SET heartbeat_at = now()
WHERE request_id = $1 AND owner = $2 AND state = 'RUNNING'
RETURNING true
"""

# Index: populates_pkey.
_FINISH = """
UPDATE penstock.populates SET state = 'DONE', ended_at = now(), heartbeat_at = now()
WHERE request_id = $1 AND owner = $2 AND state = 'RUNNING'
RETURNING true
"""

# Free to be taken over at once. Index: populates_pkey.
_RELEASE = """
UPDATE penstock.populates SET heartbeat_at = '-infinity'
WHERE request_id = $1 AND owner = $2 AND state = 'RUNNING'
RETURNING true
"""

# As if never asked for; the loads that it started stay. Index: populates_pkey.
_GIVE_UP = """
DELETE FROM penstock.populates WHERE request_id = $1 AND owner = $2 AND state = 'RUNNING'
RETURNING true
"""

# Requests whose owner gives no sign of life. Index: populates_running.
_STALE = """
SELECT request_id, request FROM penstock.populates
WHERE state = 'RUNNING' AND heartbeat_at < now() - make_interval(secs => $1)
ORDER BY heartbeat_at LIMIT 100
"""


@translating
async def claim(
    connection: Connection, request_id: UUID, request: bytes, owner: str, stale_after_s: float = STALE_AFTER_S
) -> Claim:
    """Who is to work on the request. Raises AlreadyExists when the id was used with another `request`."""
    async with connection.transaction(isolation="read_committed"):
        row = None
        while row is None:  # given up between the two statements
            if await connection.fetchval(_NEW, request_id, request, owner):
                return Claim(kind=ClaimKind.NEW, owner=owner)
            row = await connection.fetchrow(_KNOWN, request_id, stale_after_s)
        if row["request"] != request:
            raise AlreadyExists(
                f"request_id {request_id} was used with other fields",
                reason="REQUEST_ID_REUSED",
                metadata={"request_id": str(request_id)},
            )
        if row["state"] == "DONE":
            return Claim(kind=ClaimKind.DONE, owner=row["owner"])
        if not row["stale"]:
            return Claim(kind=ClaimKind.ATTACH, owner=row["owner"])
        await connection.execute(_TAKE_OVER, request_id, owner)
        return Claim(kind=ClaimKind.TAKEOVER, owner=owner)


@translating
async def heartbeat(connection: Connection, request_id: UUID, owner: str) -> bool:
    """Sign of life. False when the request is done or somebody else took it over: stop working on it."""
    return bool(await connection.fetchval(_HEARTBEAT, request_id, owner))


@translating
async def finish(connection: Connection, request_id: UUID, owner: str) -> bool:
    """The work is done. False when it was not the owner's any more."""
    return bool(await connection.fetchval(_FINISH, request_id, owner))


@translating
async def release(connection: Connection, request_id: UUID, owner: str) -> bool:
    """The owner stops before the work is done: whoever comes next takes it over, without waiting for staleness."""
    return bool(await connection.fetchval(_RELEASE, request_id, owner))


@translating
async def give_up(connection: Connection, request_id: UUID, owner: str) -> bool:
    """The work can never be done: nobody is to take it over, and the same id may ask anew."""
    return bool(await connection.fetchval(_GIVE_UP, request_id, owner))


@translating
async def list_stale(connection: Connection, stale_after_s: float = STALE_AFTER_S) -> list[tuple[UUID, bytes]]:
    """Id and request of what nobody works on any more, longest first; claim one before working on it."""
    return [(row["request_id"], row["request"]) for row in await connection.fetch(_STALE, stale_after_s)]
