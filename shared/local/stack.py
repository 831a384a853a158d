"""The whole of Penstock on this machine: Postgres, the S3/SQS emulator, certificates, migrations, both services.

Starts all of it or leaves nothing: no process, no port, no `DIR/env`. What Postgres holds stays for the next time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.contract.build import load_contracts
from shared.errors import ConfigError
from shared.local.certificates import DEMO_CLIENT, CertificateAuthority, CertificateFiles, issue_local
from shared.local.database import enable_logins, ensure_database
from shared.local.emulator import Emulator, Wiring
from shared.local.environment import inherited, write_environment
from shared.local.lock import exclusive
from shared.local.postgres import EmbeddedPostgres
from shared.local.processes import tail, uninterrupted
from shared.local.service import LocalService
from shared.postgres import roles
from shared.postgres.migrate import bring_up

DEFAULT_DIRECTORY = Path(".penstock")
ENV_FILE = "env"
BUCKET = "penstock"
INGEST = "ingest_service"
QUERY = "query_service"
DRAIN_S = 5.0
_REPOSITORY = Path(__file__).resolve().parent.parent.parent


class LocalStack:
    """A running stack in `directory`; a context manager. `say` receives a line for each step of the start.

    `contracts` is a folder of .proto files or a descriptor set; None means the repository's own.
    `postgres_settings` are server settings by name. Start it from the main thread: its processes end with the thread
    that started them.
    """

    def __init__(
        self,
        directory: Path,
        *,
        contracts: Path | None = None,
        environ: Mapping[str, str] = os.environ,
        say: Callable[[str], None] = lambda line: None,
        durable: bool = True,
        postgres_settings: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.environment: Mapping[str, str] = {}
        self._contracts = contracts.absolute() if contracts else None
        self._environ = dict(environ)
        self._say = say
        self._parts = ExitStack()
        self._postgres = EmbeddedPostgres(self.directory, durable=durable, settings=postgres_settings)
        self._emulator = Emulator(self.directory)
        self._services: Mapping[str, LocalService] = {}

    @property
    def env_path(self) -> Path:
        """`DIR/env`: there while the stack is healthy."""
        return self.directory / ENV_FILE

    @property
    def emulator(self) -> Emulator:
        """S3 and SQS."""
        return self._emulator

    @property
    def services(self) -> Mapping[str, LocalService]:
        """`ingest_service` and `query_service`."""
        return self._services

    @property
    def postgres(self) -> EmbeddedPostgres:
        """The database server."""
        return self._postgres

    def __enter__(self) -> Self:
        try:
            self._start()
        except OSError as exc:  # no disk, no permission, no file descriptors
            self.stop()
            raise ConfigError(f"cannot start a stack in {self.directory}: {exc}", reason="NOT_STARTED") from exc
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Takes the env file away, drains the services, then ends the emulator and Postgres. Idempotent."""
        with uninterrupted():
            self._parts.close()

    def ended(self) -> str | None:
        """Which part ended by itself, with the end of its log; None while all run."""
        if self._postgres.poll() is not None:
            return f"Postgres ended; see {self._postgres.log_path}\n{tail(self._postgres.log_path)}"
        for process in (self._emulator.process, *(service.process for service in self._services.values())):
            if process.poll() is not None:
                return f"{process.describe_end()}\n{process.log_tail()}"
        return None

    def _start(self) -> None:
        contracts = load_contracts(self._contracts)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._parts.enter_context(exclusive(self.directory / "lock", f"penstock is already up in {self.directory}"))
        self.env_path.unlink(missing_ok=True)  # of a stack that was killed
        self._say("starting Postgres and the S3/SQS emulator")
        self._start_stores()
        server, client = issue_local(CertificateAuthority.ensure(self.directory / "certificates"))
        wiring = self._emulator.wire(BUCKET)
        self._say("applying the migrations")
        database_url = ensure_database(self._postgres)
        bring_up(database_url, self._contracts, contracts, self.directory / "migrations")
        descriptor_set = self.directory / "contracts.binpb"
        descriptor_set.write_bytes(contracts.descriptors.SerializeToString())
        self._say("starting the services")
        self._start_services(server, wiring, descriptor_set)
        self.environment = {
            **self._emulator.environment(),
            "PENSTOCK_BUCKET": wiring.bucket,
            "PENSTOCK_QUEUE_URL": wiring.queue_url,
            "PENSTOCK_DATABASE_URL": database_url,
            "PENSTOCK_QUERY_ADDRESS": self._services[QUERY].address,
            "PENSTOCK_INGEST_ADDRESS": self._services[INGEST].address,
            **client.environment(),
        }
        self._parts.callback(self.env_path.unlink, missing_ok=True)
        write_environment(self.env_path, self.environment)

    def _start_stores(self) -> None:
        """Both at once: the emulator imports its modules while initdb runs."""
        self._parts.callback(self._emulator.stop)
        self._emulator.launch()
        self._parts.callback(self._postgres.stop)
        self._postgres.start()
        self._emulator.wait()

    def _start_services(self, server: CertificateFiles, wiring: Wiring, descriptor_set: Path) -> None:
        logins = enable_logins(self._postgres)
        settings = self._service_settings(server, wiring, descriptor_set)
        self._services = {
            INGEST: self._service(INGEST, {**settings, "PENSTOCK_DATABASE_URL": logins[roles.INGEST]}),
            QUERY: self._service(QUERY, {**settings, "PENSTOCK_DATABASE_URL": logins[roles.QUERY]}),
        }
        for service in self._services.values():
            self._parts.callback(service.stop)
            service.launch()
        self._parts.callback(self._terminate_services)  # runs first: both drain at the same time
        for service in self._services.values():
            service.wait()

    def _service_settings(self, server: CertificateFiles, wiring: Wiring, descriptor_set: Path) -> dict[str, str]:
        """The caller's own settings (log level, OpenTelemetry) with those of this stack on top."""
        return {
            **inherited(self._environ),
            **self._emulator.environment(),
            **server.environment(),
            "PENSTOCK_CONTRACTS": str(descriptor_set),
            "PENSTOCK_TLS": "mtls",
            "PENSTOCK_ALLOWED_IDENTITIES": DEMO_CLIENT,
            "PENSTOCK_BUCKET": wiring.bucket,
            "PENSTOCK_QUEUE_URL": wiring.queue_url,
            "PYTHONUNBUFFERED": "1",
        }

    def _service(self, module: str, settings: Mapping[str, str]) -> LocalService:
        return LocalService(
            module,
            environment=settings,
            directory=self.directory,
            working_directory=_REPOSITORY,
            drain_s=float(self._environ.get("PENSTOCK_DRAIN_S") or DRAIN_S),
        )

    def _terminate_services(self) -> None:
        for service in self._services.values():
            service.terminate()
