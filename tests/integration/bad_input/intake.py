"""Two neighbouring datasets in a real Postgres, files in a real S3, and the service's own loader between them.

Every test of this folder feeds one bad file and holds everything else against what was there before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import asyncpg

from ingest_service.ledger import listing
from ingest_service.ledger.records import Load, LoadState, LoadTrigger, StoredReject
from ingest_service.load import Loader, LoadJob
from ingest_service.objects import ObjectStore
from shared.contract.model import ContractSet, Dataset

# The same record twice: a load of `strict` fails for one bad row, one of `tolerant` leaves out all but the last.
CONTRACT = """
syntax = "proto3";
package bad.v1;
import "buf/validate/validate.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "google/type/date.proto";
import "penstock/contract/v1/contract.proto";

enum Grade { GRADE_UNSPECIFIED = 0; GRADE_LOW = 1; GRADE_HIGH = 2; }
message Part { string name = 1; int32 count = 2; }
"""
RECORD = """
message %(message)s {
  option (penstock.contract.v1.dataset) = { name: "%(name)s" key: "id" file_policy: FILE_POLICY_MERGE
    max_row_bytes: 65536 max_reject_percent: %(percent)d };
  string id = 1;
  string label = 2 [(penstock.contract.v1.column).filterable = true];
  string note = 3;
  string code = 4 [(buf.validate.field).string.max_len = 8];
  int32 i32 = 5;
  int64 i64 = 6;
  uint32 u32 = 7;
  uint64 u64 = 8;
  float f32 = 9;
  double f64 = 10;
  bool flag = 11;
  Grade grade = 12;
  google.protobuf.Timestamp at = 13;
  google.protobuf.Duration took = 14;
  google.type.Date day = 15;
  bytes digest = 16;
  google.protobuf.Int64Value wrapped = 17;
  Part part = 18;
  repeated int64 counts = 19;
  map<string, Part> parts = 20;
  oneof payer { string account = 21; int32 branch = 22; }
}
"""
DATASETS = (
    {"message": "Strict", "name": "strict", "percent": 0},
    {"message": "Tolerant", "name": "tolerant", "percent": 99},
)
BEFORE = b"id,label,i32\nbefore-1,x,1\nbefore-2,y,2\n"
NEXT = b"id,label\nnext,z\n"

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
# Each dataset's version and rows.
Everything: TypeAlias = Mapping[str, tuple[int, Sequence[asyncpg.Record]]]


def contract_text() -> str:
    """The whole contract file."""
    return CONTRACT + "".join(RECORD % values for values in DATASETS)


class Fault(NamedTuple):
    """A reject without its raw bytes."""

    line: int
    field: str
    rule: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the ledger says about one file."""

    load: Load
    rejects: Sequence[StoredReject]

    @property
    def faults(self) -> list[Fault]:
        return [Fault(one.line, one.field, one.rule, one.message) for one in self.rejects]


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """A loader, a bucket, and both datasets holding the rows of BEFORE."""

    contracts: ContractSet
    s3: Any
    bucket: str
    pool: Pool
    store: ObjectStore
    executor: Executor
    loader: Loader

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        return self.contracts.datasets

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    async def put(self, key: str, body: bytes, **more: Any) -> None:
        await self.s3.put_object(Bucket=self.bucket, Key=key, Body=body, **more)

    async def load(self, key: str, trigger: LoadTrigger = LoadTrigger.EVENT) -> Outcome:
        """Loads the object into the dataset that its key names."""
        dataset = self.datasets[key.partition("/")[0]]
        load = await self.loader.load(LoadJob(dataset=dataset, bucket=self.bucket, key=key, trigger=trigger))
        async with self.pool.acquire() as connection:
            return Outcome(load=load, rejects=await listing.list_rejects(connection, load.id, limit=2000))

    async def fill(self) -> None:
        """The rows of BEFORE in both datasets."""
        for name in self.datasets:
            await self.accept(f"{name}/before.csv", BEFORE)

    async def accept(self, key: str, body: bytes, **more: Any) -> Outcome:
        """Uploads and loads a file that must succeed; the other dataset stays as it is."""
        before = await self.everything()
        await self.put(key, body, **more)
        outcome = await self.load(key)
        assert outcome.load.state is LoadState.SUCCEEDED, outcome.load.message
        after = await self.everything()
        assert {name for name in after if after[name] != before[name]} == {key.partition("/")[0]}
        return outcome

    async def refuse(self, key: str, body: bytes, **more: Any) -> Outcome:
        """Uploads and loads a file that must fail: nothing changes, and the next good file loads."""
        await self.put(key, body, **more)
        return await self.fail(key)

    async def fail(self, key: str, trigger: LoadTrigger = LoadTrigger.EVENT) -> Outcome:
        """The load of what is there, or not there, which must fail, name its object and change nothing."""
        before = await self.everything()
        outcome = await self.load(key, trigger)
        assert outcome.load.state is LoadState.FAILED, outcome.load
        assert self.uri(key) in outcome.load.message
        assert await self.everything() == before
        await self.accept(f"{key}, next.csv", NEXT)
        return outcome

    async def clear(self) -> None:
        """Takes away the rows that this test's files brought to `strict`."""
        async with self.pool.acquire() as connection:
            await connection.execute("DELETE FROM data.strict WHERE id !~ '^(before-|next)'")

    async def everything(self) -> Everything:
        """Every row and version of both datasets."""
        found = {}
        async with self.pool.acquire() as connection:
            for name in self.datasets:
                version = await connection.fetchval("SELECT version FROM penstock.datasets WHERE name = $1", name)
                found[name] = version, await connection.fetch(f'SELECT * FROM data."{name}" ORDER BY id')
        return found

    async def records(self, name: str = "strict") -> dict[str, Any]:
        """The records that this test's files brought, by id, decoded from the stored bytes."""
        records = {}
        async with self.pool.acquire() as connection:
            rows = await connection.fetch(f"SELECT id, _wire FROM data.\"{name}\" WHERE id !~ '^(before-|next)'")
        for row in rows:
            records[row["id"]] = self.datasets[name].message_class.FromString(_unframed(row["_wire"]))
        return records


def _unframed(wire: bytes) -> bytes:
    end = 1
    while wire[end] & 0x80:
        end += 1
    return wire[end + 1 :]
