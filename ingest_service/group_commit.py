"""Small loads that wait for the same dataset anyway are committed together: one transaction costs hardly more than one.

Never waits for others to come: a load that finds nobody before it is merged at once, and those that come meanwhile are
the next group. Never decides a load: what does not go through as a group is merged one by one.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import asyncpg

from ingest_service.copy_format import TRAILER, header
from ingest_service.decode import DecodedBlock
from ingest_service.ledger import loads
from ingest_service.ledger.datasets import COMMIT_UNKNOWN
from ingest_service.ledger.records import Load, ObjectVersion, ReadCounts
from ingest_service.merge import plan
from ingest_service.merge.group import Member, NotGrouped, merge_group
from ingest_service.merge.merge import MergeLimits
from ingest_service.pipeline import BlockDecoder, Reading
from ingest_service.turns import Turns
from shared.contract.model import Dataset, FilePolicy
from shared.errors import PenstockError, Unavailable
from shared.postgres.errors import translated

logger = logging.getLogger(__name__)

D = TypeVar("D")

# Numbers begin again from 0 when no load with the first of them can be left; with a line they must fit into 63 bits.
_NUMBERS = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLimits:
    """`load_bytes`: of COPY, up to which a load is small; it is held in memory for as long as it waits. `group_bytes`
    and `loads`: of a group, so that those who wait behind it do not wait long."""

    load_bytes: int = 256 * 1024
    group_bytes: int = 1024 * 1024
    loads: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered(Generic[D]):
    """Decodes as `decoder` does, with the rows' places from number * PLACES on."""

    decoder: BlockDecoder[D]
    number: int

    def decode_block(self, block: D, /) -> DecodedBlock:
        """The block's rows."""
        return self.decoder.decode_block(block).of_object(self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """The first pieces of a COPY stream; `whole`: there are no more."""

    pieces: tuple[bytes, ...]
    whole: bool

    @property
    def tuples(self) -> bytes:
        """All rows, where the stream is whole: without its header and trailer."""
        return b"".join(self.pieces)[len(header()) : -len(TRAILER)]

    async def then(self, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The stream as if nothing had been read of it."""
        for piece in self.pieces:
            yield piece
        async for piece in rest:
            yield piece


class GroupCommit:
    """The lines of small loads, one for each dataset."""

    def __init__(
        self, *, pool: asyncpg.Pool[asyncpg.Record], merge_limits: MergeLimits, limits: GroupLimits | None = None
    ) -> None:
        self._pool = pool
        self._merge_limits = merge_limits
        self._limits = limits or GroupLimits()
        self._numbers = itertools.cycle(range(_NUMBERS))
        self._turns: dict[tuple[str, str], Turns[Member, Load]] = {}

    def wants(self, dataset: Dataset, version: ObjectVersion) -> bool:
        """Whether loads of such an object may become part of a group. Not of other policies than MERGE: they delete
        rows, and which ones depends on what others have loaded. Not of a marker, whose size is not that of its parts.
        """
        small = version.parts is None and version.size_bytes <= self._limits.load_bytes
        return small and dataset.file_policy is FilePolicy.MERGE

    def numbered(self, decoder: BlockDecoder[D]) -> Numbered[D]:
        """The decoder of a load that may become part of a group, with a number that no other load has which waits."""
        return Numbered(decoder=decoder, number=next(self._numbers))

    async def beginning(self, source: AsyncIterator[bytes]) -> Beginning:
        """Reads a COPY stream to its end, or until it is no longer small. Raises what `source` raises."""
        pieces: list[bytes] = []
        size_bytes = 0
        async for piece in source:
            pieces.append(piece)
            size_bytes += len(piece)
            if size_bytes > self._limits.load_bytes:
                return Beginning(pieces=tuple(pieces), whole=False)
        return Beginning(pieces=tuple(pieces), whole=True)

    def takes(self, beginning: Beginning, reading: Reading) -> bool:
        """Whether what was read can be part of a group."""
        return beginning.whole and reading.distinct and reading.rows_good < self._merge_limits.bulk_rows

    async def merge(
        self, dataset: Dataset, load: Load, read: ReadCounts, number: int, beginning: Beginning
    ) -> Load | None:
        """The load of a MERGE dataset, SUCCEEDED and committed. None where it has to be merged by itself, which also
        finds out if it was committed nevertheless. Raises Unavailable where that would not help either."""
        key = (dataset.name, dataset.fingerprint)
        if key not in self._turns:
            serve = functools.partial(self._merge, dataset, plan.group_stage(dataset))
            self._turns[key] = Turns(functools.partial(fitting, limits=self._limits), serve)
        rows = read.rows_read - read.rows_rejected
        member = Member(load=load, read=read, number=number, rows=rows, tuples=beginning.tuples)
        try:
            return await self._turns[key].take(member)
        except Unavailable as exc:
            committed = await self._was_committed(load) if exc.reason == COMMIT_UNKNOWN else None
            if committed is None:
                raise
            return committed

    async def _was_committed(self, load: Load) -> Load | None:
        async with self._pool.acquire() as connection:
            return await loads.committed_load(connection, load)

    async def _merge(
        self, dataset: Dataset, stage: plan.GroupStage, members: Sequence[Member]
    ) -> Sequence[Load | None]:
        alone: list[Load | None] = [None] * len(members)
        try:
            with translated():
                async with self._pool.acquire() as connection:
                    return await merge_group(connection, dataset, stage, members, self._merge_limits)
        except Unavailable:
            raise
        except (NotGrouped, PenstockError) as exc:
            logger.info("%d loads of dataset %s are merged one by one: %s", len(members), dataset.name, exc)
        except Exception:
            # Whose row it is shows when each is merged by itself, and is raised there.
            logger.exception("%d loads of dataset %s are merged one by one", len(members), dataset.name)
        return alone


def fitting(members: Sequence[Member], limits: GroupLimits) -> int:
    """How many of the first make a group: of different objects, as each is judged by what was applied before."""
    objects: set[tuple[str, str]] = set()
    size_bytes = 0
    for count, one in enumerate(members[: limits.loads]):
        size_bytes += len(one.tuples)
        place = (one.load.object.bucket, one.load.object.key)
        if count and (size_bytes > limits.group_bytes or place in objects):
            return count
        objects.add(place)
    return min(len(members), limits.loads)
