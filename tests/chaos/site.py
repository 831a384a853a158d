"""One deployment that can be broken: a database, a bucket with its queue, and service processes.

Everything is real: Postgres, the S3/SQS emulator, `python -m` services over mTLS. S3 and SQS are behind a proxy each.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from shared.contract.model import ContractSet, Dataset
from shared.local.certificates import DEMO_CLIENT, CertificateFiles
from shared.local.database import enable_logins
from shared.local.emulator import Emulator, Wiring
from shared.local.environment import inherited
from shared.local.postgres import EmbeddedPostgres
from shared.local.service import LocalService
from shared.postgres import roles
from tests.chaos.airfields import DATASET, File, Rows
from tests.chaos.proxies import ThreadedProxy
from tests.e2e.running_stack import eventually

REPOSITORY = Path(__file__).parents[2]
# The shortest that the service allows: what a killed process had in hand comes back that soon.
VISIBILITY_TIMEOUT_S = 5
DRAIN_S = 5.0

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """See above. `parts` ends what the site started."""

    server: EmbeddedPostgres
    database: str
    emulator: Emulator
    wiring: Wiring
    s3: ThreadedProxy
    sqs: ThreadedProxy
    certificates: tuple[CertificateFiles, CertificateFiles]
    contracts: ContractSet
    directory: Path
    parts: ExitStack
    _logins: dict[str, str] = field(default_factory=dict)
    _started: list[LocalService] = field(default_factory=list)

    @property
    def dataset(self) -> Dataset:
        return self.contracts.datasets[DATASET]

    def ingest(self, **settings: str) -> LocalService:
        """An ingest process that serves."""
        service = self.launch("ingest_service", roles.INGEST, settings)
        service.wait()
        return service

    def query(self, **settings: str) -> LocalService:
        """A query process that serves."""
        service = self.launch("query_service", roles.QUERY, settings)
        service.wait()
        return service

    def launch(self, module: str, role: str, settings: Mapping[str, str]) -> LocalService:
        """A process that has just been started."""
        if not self._logins:
            self._logins.update(enable_logins(self.server, self.database))
        environment = {**self._environment(), "PENSTOCK_DATABASE_URL": self._logins[role], **settings}
        service = LocalService(
            module,
            environment=environment,
            directory=self.directory / f"process-{len(self._started)}",
            working_directory=REPOSITORY,
            drain_s=float(settings.get("PENSTOCK_DRAIN_S", DRAIN_S)),
        )
        self._started.append(service)
        self.parts.callback(service.stop)
        service.launch()
        return service

    def put(self, file: File, key: str = "airports/second.csv") -> None:
        """Drops a file into the bucket, past the proxies, in the format that the key tells."""
        body = file.parquet() if key.endswith(".parquet") else file.body()
        with closing(self.emulator.client("s3")) as s3:
            s3.put_object(Bucket=self.wiring.bucket, Key=key, Body=body)

    def remove(self, key: str = "airports/second.csv") -> None:
        """Deletes an object, past the proxies."""
        with closing(self.emulator.client("s3")) as s3:
            s3.delete_object(Bucket=self.wiring.bucket, Key=key)

    def load_first(self, file: File) -> Rows:
        """Has a running ingest process load a file into the empty table; what the table holds then."""
        self.put(file, "airports/first.csv")
        self.wait_idle()
        assert self.version() == (1, len(file.names))
        return file.rows(self.dataset)

    def wait_idle(self) -> None:
        """Returns once no message is left, neither waiting nor in hand. There must never be a dead letter."""
        eventually(lambda: self.messages() == (0, 0))
        assert self.messages(dead=True) == (0, 0)

    def messages(self, *, dead: bool = False) -> tuple[int, int]:
        """Messages that wait, and messages in hand."""
        with closing(self.emulator.client("sqs")) as sqs:
            return self.counts(sqs, dead=dead)

    def counts(self, sqs: Any, *, dead: bool = False) -> tuple[int, int]:
        """The same, asked by that client."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        url = self.wiring.dead_letter_queue_url if dead else self.wiring.queue_url
        counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return int(counts[names[0]]), int(counts[names[1]])

    def take_event(self) -> str:
        """Receives and deletes the one message about an object; its body."""
        with closing(self.emulator.client("sqs")) as sqs:

            def about_an_object() -> str | None:
                answer = sqs.receive_message(QueueUrl=self.wiring.queue_url, MaxNumberOfMessages=1, WaitTimeSeconds=1)
                for message in answer.get("Messages", ()):
                    sqs.delete_message(QueueUrl=self.wiring.queue_url, ReceiptHandle=message["ReceiptHandle"])
                    if "Records" in json.loads(message["Body"]):
                        return str(message["Body"])
                return None

            return eventually(about_an_object)

    def send(self, bodies: Sequence[str]) -> None:
        """Puts these messages into the queue."""
        with closing(self.emulator.client("sqs")) as sqs:
            for body in bodies:
                sqs.send_message(QueueUrl=self.wiring.queue_url, MessageBody=body)

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection[Row]]:
        """As the superuser, in autocommit, and waiting for no standby."""
        url, options = self.server.url(self.database), "-c synchronous_commit=local"
        with psycopg.connect(url, autocommit=True, row_factory=dict_row, options=options) as connection:
            yield connection

    def ask(self, statement: str, *values: object) -> list[Row]:
        """The rows of one statement."""
        with self.connect() as connection:
            return connection.execute(statement.encode(), values or None).fetchall()

    def table(self) -> Rows:
        """All rows."""
        return {
            row["icao"]: (row["name"], row["_wire"]) for row in self.ask("SELECT icao, name, _wire FROM data.airports")
        }

    def version(self) -> tuple[int, int]:
        """Version and row count as the dataset's row has them."""
        (row,) = self.ask("SELECT version, row_count FROM penstock.datasets WHERE name = %s", DATASET)
        return row["version"], row["row_count"]

    def loads(self, key: str = "airports/second.csv") -> list[Row]:
        """The attempts at one object, oldest first."""
        return self.ask("SELECT * FROM penstock.loads WHERE key = %s ORDER BY created_at", key)

    def states(self, key: str = "airports/second.csv") -> list[str]:
        return [load["state"] for load in self.loads(key)]

    def rejects(self, load: Row) -> int:
        """How many rejects are kept with a load."""
        (row,) = self.ask("SELECT count(*) AS count FROM penstock.rejects WHERE load_id = %s", load["id"])
        return int(row["count"])

    def age_heartbeats(self) -> None:
        """As if an hour had passed: what gives no sign of life from now on is swept by whoever sweeps next."""
        statement = """
            UPDATE penstock.loads SET heartbeat_at = heartbeat_at - interval '1 hour'
            WHERE id IN (SELECT id FROM penstock.loads WHERE state = 'RUNNING' FOR UPDATE SKIP LOCKED)
        """
        with self.connect() as connection:
            connection.execute(statement)

    def say_ends(self) -> None:
        """The ends of all logs, for the report of a test that failed."""
        print(f"--- Postgres\n{self.server.log_path.read_text()[-2000:]}")
        for number, service in enumerate(self._started):
            log = self.directory / f"process-{number}" / "logs" / f"{service.module}.log"
            print(f"--- {service.module} {number}\n{log.read_text()[-3000:]}")

    def _environment(self) -> dict[str, str]:
        emulated = self.emulator.environment()
        emulated.pop("AWS_ENDPOINT_URL")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "OTEL_"))}
        return {
            **inherited(kept),
            **emulated,
            **self.certificates[0].environment(),
            "AWS_ENDPOINT_URL_S3": self.s3.endpoint_url,
            "AWS_ENDPOINT_URL_SQS": self.sqs.endpoint_url,
            "PENSTOCK_TLS": "mtls",
            "PENSTOCK_ALLOWED_IDENTITIES": DEMO_CLIENT,
            "PENSTOCK_BUCKET": self.wiring.bucket,
            "PENSTOCK_QUEUE_URL": self.wiring.queue_url,
            "PENSTOCK_VISIBILITY_TIMEOUT_S": str(VISIBILITY_TIMEOUT_S),
            "PYTHONUNBUFFERED": "1",
        }


def kill(service: LocalService) -> None:
    """kill -9, and nobody left of it."""
    os.kill(service.process.pid, signal.SIGKILL)
    eventually(lambda: service.process.poll() is not None)
