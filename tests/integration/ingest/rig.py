"""The loading half of the ingest service on a real database and S3, without its server: what these tests share."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import asyncpg

from ingest_service.backoff import Backoff
from ingest_service.ledger import listing
from ingest_service.ledger.records import Load, LoadTrigger
from ingest_service.load import Loader, LoadJob, LoadLimits
from ingest_service.objects import ObjectStore, OpenObject
from ingest_service.populate import PopulateLimits, Populates
from ingest_service.routing import ObjectUri
from ingest_service.sources import Sources
from shared.postgres.pool import open_pool
from tests.integration.merge.lab import Lab, Thing

PATIENCE_S = 20.0
FAST = PopulateLimits(backoff=Backoff(base_s=0.01, cap_s=0.05), poll_s=0.02, heartbeat_s=0.05)

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


class GatedStore(ObjectStore):
    """The real store; while `gate` is closed, a body that is being read stops after its first chunk.

    `before_body` is awaited between the opening of an object and its first byte.
    """

    def __init__(self, s3: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(s3, *args, **kwargs)
        self.gate = asyncio.Event()
        self.gate.set()
        self.reading = asyncio.Event()

    @asynccontextmanager
    async def open_object(self, *args: Any, **kwargs: Any) -> AsyncIterator[OpenObject]:
        async with super().open_object(*args, **kwargs) as opened:
            yield dataclasses.replace(opened, chunks=self._gated(opened.chunks))

    async def _gated(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self.reading.set()
            await self.gate.wait()
            yield chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """A loader and what it works on."""

    lab: Lab
    s3: Any
    bucket: str
    pool: Pool
    store: GatedStore
    sources: Sources
    executor: Executor
    limits: LoadLimits = field(default_factory=LoadLimits)

    def loader(self, owner: str = "here", limits: LoadLimits | None = None, pool: Pool | None = None) -> Loader:
        return Loader(
            pool=pool or self.pool,
            store=self.store,
            executor=self.executor,
            owner=owner,
            limits=limits or self.limits,
        )

    def populates(self, owner: str = "here", limits: PopulateLimits = FAST, pool: Pool | None = None) -> Populates:
        return Populates(
            pool=pool or self.pool,
            store=self.store,
            loader=self.loader(owner, pool=pool),
            sources=self.sources,
            owner=owner,
            limits=limits,
        )

    def job(self, key: str = "things/a.csv", trigger: LoadTrigger = LoadTrigger.EVENT, **more: Any) -> LoadJob:
        return LoadJob(dataset=self.lab.dataset, bucket=self.bucket, key=key, trigger=trigger, **more)

    @property
    def within(self) -> ObjectUri:
        """All of the bucket."""
        return ObjectUri(bucket=self.bucket, key="")

    async def put(self, things: Iterable[Thing], key: str = "things/a.csv") -> str | None:
        return await self.put_text(csv_of(things), key)

    async def put_text(self, text: str, key: str = "things/a.csv") -> str | None:
        """The version id of the new object, on versioned buckets."""
        answer = await self.s3.put_object(Bucket=self.bucket, Key=key, Body=text.encode())
        version: str | None = answer.get("VersionId")
        return version

    async def table(self) -> dict[tuple[str, int], Thing]:
        async with self.lab.connect() as connection:
            return {key: held.thing for key, held in (await self.lab.rows(connection)).items()}

    async def version(self) -> int:
        async with self.lab.connect() as connection:
            return (await self.lab.version(connection))[0]

    async def ledger(self, key: str = "things/a.csv") -> list[Load]:
        """The loads of one object, oldest first."""
        wanted = listing.LoadFilter(bucket=self.bucket, key=key)
        async with self.lab.connect() as connection:
            return list(reversed(await listing.list_loads(connection, wanted, after=None, limit=1000)))

    @asynccontextmanager
    async def locked_dataset(self) -> AsyncIterator[None]:
        """Holds the dataset's lock, so that no merge gets on."""
        async with self.lab.connect() as connection, connection.transaction():
            await connection.execute("SELECT FROM penstock.datasets WHERE name = 'things' FOR UPDATE")
            yield

    async def execute(self, statement: str, *values: object) -> None:
        """As the superuser, on a connection of its own."""
        connection = await asyncpg.connect(self.lab.url, timeout=10)
        try:
            await connection.execute(statement, *values)
        finally:
            await connection.close(timeout=10)


def csv_of(things: Iterable[Thing]) -> str:
    return "owner,number,label,rank\n" + "".join(f"{t.owner},{t.number},{t.label},{t.rank}\n" for t in things)


def many(count: int, label: str = "x") -> list[Thing]:
    return [Thing(owner=f"owner-{number:07d}", number=number, label=label, rank=number) for number in range(count)]


def by_key(things: Iterable[Thing]) -> dict[tuple[str, int], Thing]:
    return {thing.key: thing for thing in things}


@asynccontextmanager
async def ingest_pool(lab: Lab, max_size: int = 8) -> AsyncIterator[Pool]:
    """The service's own pool, acting as penstock_ingest."""
    async with open_pool(
        lab.url,
        application_name=f"rig-{uuid.uuid4().hex[:8]}",
        max_size=max_size,
        server_settings={"role": "penstock_ingest"},
    ) as pool:
        yield pool


async def until(condition: Callable[[], Awaitable[bool] | bool]) -> None:
    """Waits for a condition, at most PATIENCE_S."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            held = condition()
            if await held if isinstance(held, Awaitable) else held:
                return
            await asyncio.sleep(0.01)
