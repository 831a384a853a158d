"""A dataset with a key of every kind, in a real Postgres behind a real gRPC server: what the query tests share."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf import message_factory
from google.rpc import error_details_pb2, status_pb2
from opentelemetry import metrics, trace

from query_service.app import query_pool, running
from query_service.settings import CacheSettings, QueryLimits, QuerySettings, ReplicaSettings
from shared.contract.build import load_contracts
from shared.contract.model import Column, ContractSet, Dataset, Kind, Service
from shared.local.postgres import EmbeddedPostgres
from shared.postgres import migrate
from shared.postgres.times import exact_times
from shared.rpc.server import RpcServer
from shared.settings import DatabaseSettings, RpcSettings
from tests.conftest import new_database

CONTRACT = """
syntax = "proto3";
package lab.v1;
import "buf/validate/validate.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "google/type/date.proto";
import "penstock/contract/v1/contract.proto";
import "penstock/query/v1/query.proto";

enum Grade { GRADE_UNSPECIFIED = 0; GRADE_LOW = 1; GRADE_HIGH = 2; }

message Reading {
  option (penstock.contract.v1.dataset) = {
    name: "readings" key: ["site", "day", "grade", "manual", "serial"] file_policy: FILE_POLICY_MERGE
    max_row_bytes: 3145728 };
  string site = 1;
  google.type.Date day = 2;
  Grade grade = 3 [(penstock.contract.v1.column).filterable = true];
  bool manual = 4;
  uint64 serial = 5;
  string label = 6 [(penstock.contract.v1.column).filterable = true];
  optional double score = 7 [(penstock.contract.v1.column).filterable = true];
  google.protobuf.Timestamp at = 8 [(penstock.contract.v1.column).filterable = true];
  google.protobuf.Duration span = 9 [(penstock.contract.v1.column).filterable = true];
  google.protobuf.Int64Value batch = 10 [(penstock.contract.v1.column).filterable = true];
  optional bytes digest = 11 [(penstock.contract.v1.column).filterable = true];
  bytes payload = 12;
  google.type.Date due = 13 [(penstock.contract.v1.column).filterable = true];
  uint64 units = 14 [(penstock.contract.v1.column).filterable = true];
}

service ReadingService {
  option (penstock.contract.v1.serves) = "lab.v1.Reading";
  rpc GetReading(GetReadingRequest) returns (Reading);
  rpc BatchGetReadings(BatchGetReadingsRequest) returns (BatchGetReadingsResponse);
  rpc BatchGetAllReadings(BatchGetAllReadingsRequest) returns (BatchGetAllReadingsResponse);
  rpc ListReadings(ListReadingsRequest) returns (ListReadingsResponse);
  rpc StreamReadings(StreamReadingsRequest) returns (stream StreamReadingsResponse);
  rpc CountReadings(CountReadingsRequest) returns (CountReadingsResponse);
  rpc WatchReadings(WatchReadingsRequest) returns (stream WatchReadingsResponse);
}

message GetReadingRequest {
  string site = 1;
  google.type.Date day = 2;
  Grade grade = 3;
  bool manual = 4;
  uint64 serial = 5;
  google.protobuf.FieldMask read_mask = 6;
  int64 at_least_version = 7;
}
message BatchGetReadingsRequest {
  repeated GetReadingRequest requests = 1;
  google.protobuf.FieldMask read_mask = 2;
  int64 at_least_version = 3;
}
message BatchGetReadingsResponse {
  repeated Reading readings = 1;
  repeated GetReadingRequest missing = 2;
  int64 dataset_version = 3;
}
// The plainest that BatchGet may be: all or nothing, as AIP-231 has it.
message BatchGetAllReadingsRequest { repeated GetReadingRequest requests = 1; }
message BatchGetAllReadingsResponse { repeated Reading readings = 1; }
message ListReadingsRequest {
  int32 page_size = 1;
  string page_token = 2;
  string filter = 3;
  string order_by = 4;
  google.protobuf.FieldMask read_mask = 5;
  int64 at_least_version = 6;
  bool require_same_version = 7;
  repeated string label = 8 [(buf.validate.field).repeated.items.string.max_len = 40];
  repeated Grade grade = 9;
  optional double score = 10;
  google.protobuf.Timestamp at = 11;
  google.protobuf.Duration span = 12;
  google.protobuf.Int64Value batch = 13;
  optional bytes digest = 14;
  repeated google.type.Date due = 15;
  repeated uint64 units = 16;
}
message ListReadingsResponse {
  repeated Reading readings = 1;
  string next_page_token = 2;
  int64 dataset_version = 3;
}
message StreamReadingsRequest {
  bytes resume_token = 1;
  int64 max_rows = 2;
  int64 at_least_version = 3;
  bool require_same_version = 4;
  string label = 5;
  repeated Grade grade = 6;
  string filter = 7;
  string order_by = 10;
  google.protobuf.FieldMask read_mask = 8;
  penstock.query.v1.Partition partition = 9;
}
message StreamReadingsResponse {
  repeated Reading readings = 1;
  bytes resume_token = 2;
  penstock.query.v1.StreamStatus status = 3;
}
message CountReadingsRequest { string label = 1; string filter = 2; int64 at_least_version = 3; }
message CountReadingsResponse { int64 count = 1; bool estimated = 2; int64 dataset_version = 3; }
message WatchReadingsRequest {
  bytes resume_token = 1;
  optional int64 after_version = 2;
  string epoch = 3;
  google.protobuf.FieldMask read_mask = 4;
}
message WatchReadingsResponse {
  repeated Reading readings = 1;
  repeated Reading deleted = 2;
  bytes resume_token = 3;
  int64 dataset_version = 4;
}
"""

COMPLETE, MAX_ROWS = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A migrated database with the lab's contract."""

    url: str
    contracts: ContractSet
    name: str = "readings"

    @property
    def database(self) -> str:
        """Its name."""
        return self.url.rpartition("/")[2]

    @property
    def dataset(self) -> Dataset:
        return self.contracts.datasets[self.name]

    @property
    def service(self) -> Service:
        return self.contracts.services[0]

    def reading(self, **fields: Any) -> Any:
        """A record; `day` and `due` are given as ISO text."""
        record = self.dataset.message_class()
        for name in ("day", "due"):
            if name in fields:
                day = dt.date.fromisoformat(fields.pop(name))
                getattr(record, name).CopyFrom(type(getattr(record, name))(year=day.year, month=day.month, day=day.day))
        record.MergeFrom(self.dataset.message_class(**fields))
        return record

    def request(self, method: str, **fields: Any) -> Any:
        return self._method(method).input_class(**fields)

    def response_class(self, method: str) -> type[Any]:
        return message_factory.GetMessageClass(self._method(method).output)

    def _method(self, name: str) -> Any:
        return next(method for method in self.service.methods if method.name == name)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        connection = await asyncpg.connect(self.url)
        await exact_times(connection)
        try:
            yield connection
        finally:
            await connection.close()

    async def insert(self, records: Sequence[Any], *, version: int | None = None) -> None:
        """Puts rows in as a load would, and counts the version on (or sets it)."""
        names = [column.name for column in self.dataset.columns]
        rows = [(*self._typed(record), frame(record.SerializeToString()), 1, 1) for record in records]
        async with self.session() as connection, connection.transaction():
            await connection.copy_records_to_table(
                self.name, schema_name="data", records=rows, columns=[*names, "_wire", "_object", "_version"]
            )
            await connection.execute(
                "UPDATE penstock.datasets SET version = coalesce($1, version + 1) WHERE name = $2", version, self.name
            )

    async def execute(self, statement: str, *arguments: Any) -> str:
        async with self.session() as connection:
            return await connection.execute(statement, *arguments)

    def _typed(self, record: Any) -> list[Any]:
        return [typed_value(column, record) for column in self.dataset.columns]


def typed_value(column: Column, record: Any) -> Any:
    """The column's value, converted by protobuf's own methods: independent of the code under test."""
    *messages, name = column.name.split(".")
    for message in messages:
        if not record.HasField(message):
            return [] if column.repeated else None
        record = getattr(record, message)
    if record.DESCRIPTOR.fields_by_name[name].has_presence and not record.HasField(name):
        return None
    value = getattr(record, name)
    if column.repeated:
        return list(value)
    if column.wrapper:
        return value.value
    match column.kind:
        case Kind.DATE:
            return dt.date(value.year, value.month, value.day)
        case Kind.TIMESTAMP:
            return value.ToDatetime(tzinfo=dt.UTC)
        case Kind.DURATION:
            return value.ToTimedelta()
    return value


def frame(encoded: bytes) -> bytes:
    """The record as field 1 of a response."""
    length, varint = len(encoded), b""
    while length > 0x7F:
        varint += bytes([length & 0x7F | 0x80])
        length >>= 7
    return b"\x0a" + varint + bytes([length]) + encoded


@contextmanager
def migrated_lab(
    postgres: EmbeddedPostgres, folder: Path, contract: str = CONTRACT, name: str = "readings"
) -> Iterator[Lab]:
    """A database with the tables of a contract, to be cloned by tests."""
    protos = folder / "protos"
    protos.mkdir(parents=True)
    (protos / "lab.proto").write_text(contract)
    contracts = load_contracts(protos)
    with new_database(postgres) as url:
        migrate.bring_up(url, protos, contracts, folder / "migrations")
        yield Lab(url=url, contracts=contracts, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Calls the server with the messages of the contract."""

    lab: Lab
    channel: grpc.aio.Channel
    server: RpcServer

    async def call(self, method: str, request: Any = None, **fields: Any) -> Any:
        """A unary call, answered with the parsed response."""
        message = self.lab.request(method, **fields) if request is None else request
        rpc = self.channel.unary_unary(
            f"/{self.lab.service.full_name}/{method}", None, self.lab.response_class(method).FromString
        )
        body = message if isinstance(message, bytes) else message.SerializeToString()
        return await rpc(body, timeout=20)

    def open_stream(self, timeout_s: float = 20, **fields: Any) -> Any:
        """A running Stream call."""
        return self._open("StreamReadings", timeout_s, fields)

    def open_watch(self, timeout_s: float = 20, **fields: Any) -> Any:
        """A running Watch call."""
        return self._open("WatchReadings", timeout_s, fields)

    def _open(self, method: str, timeout_s: float, fields: dict[str, Any]) -> Any:
        path = f"/{self.lab.service.full_name}/{method}"
        rpc = self.channel.unary_stream(path, None, self.lab.response_class(method).FromString)
        return rpc(self.lab.request(method, **fields).SerializeToString(), timeout=timeout_s)

    async def stream(self, **fields: Any) -> list[Any]:
        """All messages of a Stream."""
        return [message async for message in self.open_stream(**fields)]

    async def list_all(self, **fields: Any) -> list[Any]:
        """All records, page by page."""
        records: list[Any] = []
        token = ""
        while True:
            page = await self.call("ListReadings", page_token=token, **fields)
            records += page.readings
            token = page.next_page_token
            if not token:
                return records


@asynccontextmanager
async def serving(
    lab: Lab,
    *,
    pool_size: int = 4,
    limits: QueryLimits | None = None,
    tracers: trace.TracerProvider | None = None,
    rpc: RpcSettings | None = None,
    cache: CacheSettings | None = None,
    replicas: ReplicaSettings | None = None,
    meters: metrics.MeterProvider | None = None,
) -> AsyncIterator[Client]:
    """The service on a free port, and a client of it where there is no TLS, as is usual."""
    settings = QuerySettings(
        contracts=None,
        rpc=rpc or RpcSettings(listen="127.0.0.1:0", probe_listen="127.0.0.1:0", drain_s=0.0),
        database=DatabaseSettings(url=lab.url, pool_size=pool_size),
        limits=limits or QueryLimits(),
        cache=cache or CacheSettings(),
        replicas=replicas or ReplicaSettings(),
    )
    async with (
        query_pool(settings) as pool,
        running(settings, lab.contracts, pool, tracers, meters) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield Client(lab=lab, channel=channel, server=server)


def reasons(error: grpc.aio.AioRpcError) -> list[str]:
    """The ErrorInfo reasons of an error."""
    return [info.reason for info in details(error, "ErrorInfo")]


def details(error: grpc.aio.AioRpcError, name: str) -> list[Any]:
    """The google.rpc details of one type that an error carries."""
    trailing: Any = error.trailing_metadata() or ()
    raw = dict(trailing)["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(raw)
    detail_class = getattr(error_details_pb2, name)
    return [detail_class.FromString(packed.value) for packed in status.details if packed.Is(detail_class.DESCRIPTOR)]


async def refused(call: Any, code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    """The error of a call that must fail with this code."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value
    return caught.value


def readings(lab: Lab, count: int, **fields: Any) -> list[Any]:
    """Records in key order that differ in `serial`, with three labels in turn."""
    return [
        lab.reading(site="A", day="2024-05-01", serial=number, label=f"l{number % 3}", **fields)
        for number in range(count)
    ]


async def until(lab: Lab, condition: str) -> None:
    """Waits until a query of pg_stat_activity answers true."""
    async with lab.session() as session, asyncio.timeout(10):
        while not await session.fetchval(condition):  # noqa: ASYNC110  Postgres has no event for it
            await asyncio.sleep(0.01)


IDLE = """SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
    AND pid <> pg_backend_pid() AND state <> 'idle')"""


def locked(count: int) -> str:
    """A query of whether so many statements wait for a lock."""
    return f"""SELECT {count} = (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND wait_event_type = 'Lock')"""
