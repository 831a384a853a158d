"""The real stack under the benchmark: Postgres, S3 and SQS, both services as processes, and the baseline's table.

Everything here is preparation or a single act that a figure times; nothing here measures.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psycopg
from google.protobuf.message_factory import GetMessageClass
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc

from shared.cli.seed import s3_client
from shared.client.calls import bind
from shared.client.channel import ClientTls, open_channel
from shared.contract.build import load_contracts
from shared.contract.model import ContractSet, Method, MethodKind
from shared.local.certificates import DEMO_CLIENT, CertificateAuthority
from shared.local.service import LocalService
from shared.local.stack import INGEST, QUERY, LocalStack
from tests.bench import files
from tests.bench.files import RowsFile
from tests.bench.frames import CheckFailed
from tests.bench.psql import TABLE, Psql

_REPOSITORY = Path(__file__).resolve().parents[2]
CONTRACTS = Path(__file__).with_name("contracts")
SERVICE = "bench.v1.OrderService"
# Under no dataset's prefix: the event of the upload must not load what Populate is asked to load.
_PREFIX = "bench"
_LOAD_TIMEOUT_S = 900.0
_DESCRIPTORS = "contracts.binpb"
_TRIAL_ROWS = 100_000
# Each of many streams holds a connection.
_POSTGRES_SETTINGS = {"max_connections": "800"}


@dataclass(slots=True, kw_only=True)
class Lab:
    """The stack and what it holds. `loaded` says whether `orders` is as the first load of `base` left it."""

    stack: LocalStack
    rows: int
    contracts: ContractSet
    psql: Psql
    s3: Any
    ingest: ingest_pb2_grpc.IngestServiceStub
    query: grpc.Channel
    database: psycopg.Connection[tuple[Any, ...]]
    base: RowsFile
    loaded: bool = False
    baseline_loaded: bool = False
    upsert_s: list[float] = field(default_factory=list)
    checks: int = 0

    @property
    def directory(self) -> Path:
        """For files; gone at the end."""
        return self.stack.directory

    @property
    def trial(self) -> bool:
        """Whether there are so few rows that the figures mean nothing, and need not take long."""
        return self.rows < _TRIAL_ROWS

    @property
    def settings(self) -> Mapping[str, str]:
        """The client's settings."""
        return self.stack.environment

    @property
    def ingest_pid(self) -> int:
        """The process id of the ingest service."""
        return self.stack.services[INGEST].process.pid

    def method(self, kind: MethodKind) -> Method:
        """The service's method of that kind."""
        service = next(service for service in self.contracts.services if service.full_name == SERVICE)
        return bind(self.query, service)[kind].method

    def path(self, kind: MethodKind) -> str:
        """The method as gRPC names it."""
        return f"/{SERVICE}/{self.method(kind).name}"

    def answer_class(self, kind: MethodKind) -> Any:
        """The message class of the method's responses."""
        return GetMessageClass(self.method(kind).output)

    def raw_call(self, kind: MethodKind) -> Any:
        """The unary method of the query service on bytes, nothing decoded."""
        return self.query.unary_unary(self.path(kind), None, None)

    def server_environment(self) -> dict[str, str]:
        """For a baseline's server: the certificates of Penstock's services, the contracts, the database."""
        server = CertificateAuthority.ensure(self.directory / "certificates").files("server")
        return {
            **server.environment(),
            "PENSTOCK_CONTRACTS": str(self.directory / _DESCRIPTORS),
            "PENSTOCK_DATABASE_URL": self.settings["PENSTOCK_DATABASE_URL"],
        }

    @contextmanager
    def another_query_service(self, settings: Mapping[str, str]) -> Iterator[LocalService]:
        """A second query process with settings of its own, over the same database."""
        environment = {
            **os.environ,
            **self.server_environment(),
            "PENSTOCK_ALLOWED_IDENTITIES": DEMO_CLIENT,
            **settings,
        }
        service = LocalService(
            QUERY,
            environment=environment,
            directory=self.directory / "another",
            working_directory=_REPOSITORY,
            drain_s=1.0,
        )
        try:
            service.launch()
            service.wait()
            yield service
        finally:
            service.stop()

    def expect(self, actual: object, expected: object, what: str) -> None:
        """Counts a check; raises CheckFailed where the two differ."""
        if actual != expected:
            raise CheckFailed(f"{what}: {actual}, expected {expected}")
        self.checks += 1

    def upload(self, name: str, source: Path | bytes) -> str:
        """Puts an object that no event loads; returns its URI."""
        key = f"{_PREFIX}/{name}"
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as body:
            self.s3.put_object(Bucket=self.settings["PENSTOCK_BUCKET"], Key=key, Body=body)
        return f"s3://{self.settings['PENSTOCK_BUCKET']}/{key}"

    def populate(self, uri: str, dataset: str = "orders") -> ingest_pb2.Load:
        """Loads an object, whatever the ledger says, and returns when its rows are committed."""
        request = ingest_pb2.PopulateRequest(uri=uri, dataset=dataset, force=True)
        loads = [load for response in self.ingest.Populate(request, timeout=_LOAD_TIMEOUT_S) for load in response.loads]
        if [load.state for load in loads] != [ingest_pb2.LOAD_STATE_SUCCEEDED]:
            raise CheckFailed(f"the load of {uri} ended as {loads}")
        return loads[0]

    def forget(self, dataset: str = "orders", *, new_epoch: bool = True) -> None:
        """Makes a dataset as if it had never been loaded. In a new epoch, so that nothing is answered from caches: then
        the ingest service also looks for lost objects, by loads of its own."""
        self.database.execute(f"TRUNCATE data.{dataset}, data.{dataset}__deleted")
        self.database.execute("DELETE FROM penstock.objects WHERE dataset = %s", (dataset,))
        self.database.execute(
            "UPDATE penstock.datasets SET version = 0, row_count = 0,"
            " epoch = CASE WHEN %s THEN gen_random_uuid() ELSE epoch END WHERE name = %s",
            (new_epoch, dataset),
        )

    def settle(self, *tables: str) -> None:
        """Leaves nothing of earlier work for the background writers to do meanwhile."""
        for table in tables:
            self.database.execute(f"VACUUM (ANALYZE) {table}")
        self.database.execute("CHECKPOINT")

    def need_orders(self) -> None:
        """`orders` as the first load left it, and nothing pending."""
        if not self.loaded:
            self.forget()
            self.populate(self.upload("base.csv", self.base.path))
            self.loaded = True
        self.settle("data.orders")

    def need_baseline(self) -> None:
        """The baseline's table with the same rows, its heap in key order too."""
        if not self.baseline_loaded:
            self.psql.run(f"TRUNCATE {TABLE};")
            self.psql.copy_in(self.base.path)
            self.baseline_loaded = True
        self.psql.run(f"CLUSTER {TABLE} USING orders_pkey;")
        self.settle(TABLE)


@contextmanager
def open_lab(rows: int) -> Iterator[Lab]:
    """Starts everything in a temporary folder and leaves nothing behind."""
    with ExitStack() as parts:
        directory = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-")))
        stack = LocalStack(directory, contracts=CONTRACTS, environ=os.environ, postgres_settings=_POSTGRES_SETTINGS)
        parts.callback(stack.postgres.destroy)
        parts.enter_context(stack)
        tls = ClientTls.from_environment(stack.environment)
        channels = [
            parts.enter_context(open_channel(stack.environment[f"PENSTOCK_{name}_ADDRESS"], tls))
            for name in ("INGEST", "QUERY")
        ]
        database_url = stack.environment["PENSTOCK_DATABASE_URL"]
        lab = Lab(
            stack=stack,
            rows=rows,
            contracts=load_contracts(directory / _DESCRIPTORS),
            psql=Psql(database_url),
            s3=parts.enter_context(closing(s3_client(stack.environment))),
            ingest=ingest_pb2_grpc.IngestServiceStub(channels[0]),
            query=channels[1],
            database=parts.enter_context(psycopg.connect(database_url, autocommit=True)),
            base=files.write_csv(directory / "base.csv", files.shuffled(rows)),
        )
        lab.psql.create()
        yield lab
