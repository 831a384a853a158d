"""A migrated dataset in a real Postgres, and loads into it: what the tests of merge and ledger share.

The contract has a composite key (text and numeric(20)) and every kind of index. Sessions act as penstock_ingest.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pgpq
import psycopg
import pyarrow as pa
from psycopg import sql

from ingest_service.ledger import loads
from ingest_service.ledger.records import (
    Load,
    LoadPhase,
    LoadStart,
    LoadTrigger,
    MergeResult,
    ObjectVersion,
    ReadCounts,
)
from ingest_service.merge import merge as merging
from ingest_service.merge.merge import MergeLimits
from ingest_service.merge.staging import stage
from shared.contract.build import load_contracts
from shared.contract.model import Dataset
from shared.local.postgres import EmbeddedPostgres
from shared.postgres import migrate

DAY = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
# Small enough that a test's loads never take the bulk path unasked.
NEVER_BULK = MergeLimits(bulk_rows=10**9)

CONTRACT = """
syntax = "proto3";
package lab.v1;
import "penstock/contract/v1/contract.proto";
message Thing {
  option (penstock.contract.v1.dataset) = { name: "things" key: ["owner", "number"] file_policy: FILE_POLICY_MERGE
    indexes: { fields: ["rank desc", "label"] } };
  string owner = 1;
  uint64 number = 2;
  string label = 3 [(penstock.contract.v1.column) = { filterable: true searchable: true }];
  optional double weight = 4 [(penstock.contract.v1.column).sortable = true];
  int64 rank = 5;
  repeated string tags = 6;
}
"""

SNAPSHOT_CONTRACT = CONTRACT.replace("FILE_POLICY_MERGE", "FILE_POLICY_SNAPSHOT max_reject_percent: 50")

MIRROR_CONTRACT = CONTRACT.replace("FILE_POLICY_MERGE", "FILE_POLICY_MIRROR max_reject_percent: 50")

SCHEMA = pa.schema(
    [
        ("owner", pa.string()),
        ("number", pa.uint64()),
        ("label", pa.string()),
        ("weight", pa.float64()),
        ("rank", pa.int64()),
        ("tags", pa.list_(pa.string())),
        ("_wire", pa.binary()),
        ("_line", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One row of the lab's dataset."""

    owner: str
    number: int
    label: str = ""
    weight: float | None = None
    rank: int = 0
    tags: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, int]:
        return self.owner, self.number


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One row of the table, with the columns that the merge adds."""

    thing: Thing
    wire: bytes
    object_id: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """One migrated database with one dataset."""

    url: str
    dataset: Dataset
    _clock: list[int] = field(default_factory=lambda: [0])

    @asynccontextmanager
    async def connect(self, role: str = "penstock_ingest") -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        connection = await asyncpg.connect(self.url, server_settings={"role": role}, timeout=10)
        try:
            yield connection
        finally:
            await connection.close(timeout=10)

    def version_of(self, key: str = "things/a.csv", **changes: Any) -> ObjectVersion:
        """A version of that object that is newer than all before, unless the caller says otherwise."""
        self._clock[0] += 1
        values: dict[str, Any] = {"etag": uuid.uuid4().hex, "last_modified": DAY + dt.timedelta(seconds=self._clock[0])}
        return ObjectVersion(bucket="lab", key=key, size_bytes=1, **(values | changes))

    def wire(self, thing: Thing) -> bytes:
        """The row as the table holds it: framed as field 1."""
        fields = {name: getattr(thing, name) for name in ("owner", "number", "label", "rank", "tags")}
        message = self.dataset.message_class(**fields)
        if thing.weight is not None:
            message.weight = thing.weight
        body: bytes = message.SerializeToString(deterministic=True)
        assert len(body) < 16384
        length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) & 0x7F | 0x80, len(body) >> 7])
        return b"\x0a" + length + body

    def copy_bytes(self, things: Iterable[Thing], first_line: int = 1) -> bytes:
        """The rows in binary COPY format, lines counted up."""
        rows = [
            {name: getattr(thing, name) for name in SCHEMA.names[:6]} | {"_wire": self.wire(thing), "_line": line}
            for line, thing in enumerate(things, first_line)
        ]
        encoder = pgpq.ArrowToPostgresBinaryEncoder(SCHEMA)
        batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
        return bytes(encoder.write_header() + encoder.write_batch(batch) + encoder.finish())

    async def start(
        self,
        connection: asyncpg.Connection[asyncpg.Record],
        version: ObjectVersion,
        trigger: LoadTrigger = LoadTrigger.POPULATE,
        **changes: Any,
    ) -> Load:
        """A RUNNING load of that version."""
        start = LoadStart(
            id=uuid.uuid4(), dataset=self.dataset.name, object=version, trigger=trigger, owner="lab", **changes
        )
        return await loads.start_load(connection, start, LoadPhase.STAGING)

    async def load(
        self,
        connection: asyncpg.Connection[asyncpg.Record],
        things: Iterable[Thing],
        version: ObjectVersion | None = None,
        limits: MergeLimits = NEVER_BULK,
        **changes: Any,
    ) -> MergeResult:
        """One whole load of these rows."""
        load = await self.start(connection, version or self.version_of(), **changes)
        source = chunks(self.copy_bytes(things))
        async with stage(connection, self.dataset, source, bulk_rows=limits.bulk_rows) as staged:
            return await merging.merge(connection, self.dataset, load, staged, ReadCounts(), limits)

    async def rows(self, connection: asyncpg.Connection[asyncpg.Record]) -> dict[tuple[str, int], Held]:
        """The whole table by key."""
        fetched = await connection.fetch('SELECT * FROM data."things"')
        return {held.thing.key: held for held in map(_held, fetched)}

    async def version(self, connection: asyncpg.Connection[asyncpg.Record]) -> tuple[int, int]:
        """Version and row count as the dataset's row has them."""
        row = await connection.fetchrow("SELECT version, row_count FROM penstock.datasets WHERE name = 'things'")
        assert row is not None
        return row["version"], row["row_count"]


async def chunks(data: bytes, size_bytes: int = 65536) -> AsyncIterator[bytes]:
    """`data` in pieces."""
    for start in range(0, len(data), size_bytes):
        yield data[start : start + size_bytes]


def _held(row: asyncpg.Record) -> Held:
    thing = Thing(
        owner=row["owner"],
        number=int(row["number"]),
        label=row["label"],
        weight=row["weight"],
        rank=row["rank"],
        tags=tuple(row["tags"]),
    )
    return Held(thing=thing, wire=row["_wire"], object_id=row["_object"], version=row["_version"])


@contextmanager
def migrated_template(
    server: EmbeddedPostgres, folder: Path, contract: str = CONTRACT
) -> Iterator[tuple[str, Dataset]]:
    """A migrated database to clone, and its dataset."""
    contracts = folder / "contracts"
    contracts.mkdir()
    (contracts / "thing.proto").write_text(contract)
    loaded = load_contracts(contracts)
    with cloned(server, "template0") as name:
        migrate.bring_up(server.url(name), contracts, loaded, folder / "generated")
        yield name, loaded.datasets["things"]


@contextmanager
def cloned(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    """The name of a new database, dropped afterwards."""
    name = f"lab_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        created = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(created.format(sql.Identifier(name), sql.Identifier(template)))
        try:
            yield name
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def kill_after(url: str, connection: asyncpg.Connection[asyncpg.Record], statements: int) -> None:
    """The server ends the connection's session when it has run that many statements."""
    pid = connection.get_server_pid()
    left = [statements]

    def on_query(_: Any) -> None:
        if left[0] == 0:
            with psycopg.connect(url, autocommit=True) as killer:
                killer.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        left[0] -= 1

    connection.add_query_logger(on_query)
