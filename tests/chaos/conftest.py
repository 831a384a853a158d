"""A site per test, over a Postgres and an emulator that a test process shares."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from shared.contract.model import ContractSet
from shared.local.certificates import CertificateAuthority, CertificateFiles, issue_local
from shared.local.emulator import Emulator
from shared.local.ports import lasting_port
from shared.local.postgres import EmbeddedPostgres
from shared.postgres.migrate import bring_up
from tests.chaos.proxies import ThreadedProxy
from tests.chaos.site import Site
from tests.integration.consumer.conftest import emulator

__all__ = ["emulator"]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[CertificateFiles, CertificateFiles]:
    return issue_local(CertificateAuthority.ensure(tmp_path_factory.mktemp("certificates")))


def create_database(server: EmbeddedPostgres, template: str = "template0", tablespace: str = "pg_default") -> str:
    """The name of a new database. It is not dropped: the server is gone with the tests."""
    name = f"chaos_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        created = sql.SQL("CREATE DATABASE {} TEMPLATE {} TABLESPACE {}")
        connection.execute(created.format(*map(sql.Identifier, (name, template, tablespace))))
    return name


def migrated(server: EmbeddedPostgres, contracts: ContractSet, generated: Path, folder: Path | None = None) -> str:
    """The name of a database with the datasets of a folder, by default the repository's, to be cloned."""
    name = create_database(server)
    bring_up(server.url(name), folder, contracts, generated)
    return name


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres, contracts: ContractSet, tmp_path_factory: pytest.TempPathFactory) -> str:
    return migrated(postgres, contracts, tmp_path_factory.mktemp("generated"))


@contextmanager
def stoppable_postgres(directory: Path) -> Iterator[EmbeddedPostgres]:
    """A server that may be stopped, and keeps its data and its port then."""
    server = EmbeddedPostgres(directory, durable=False)
    server.port = lasting_port()
    with server:
        yield server
    server.destroy()


@pytest.fixture(scope="module")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server that nobody else uses: it may be stopped."""
    with stoppable_postgres(tmp_path_factory.mktemp("own")) as server:
        yield server


@pytest.fixture(scope="module")
def own_template(
    own_postgres: EmbeddedPostgres, contracts: ContractSet, tmp_path_factory: pytest.TempPathFactory
) -> str:
    return migrated(own_postgres, contracts, tmp_path_factory.mktemp("generated"))


@contextmanager
def open_site(
    server: EmbeddedPostgres,
    template: str,
    emulator: Emulator,
    certificates: tuple[CertificateFiles, CertificateFiles],
    contracts: ContractSet,
    directory: Path,
    *,
    tablespace: str = "pg_default",
) -> Iterator[Site]:
    """A site with nothing running and nothing loaded."""
    with ExitStack() as parts:
        site = Site(
            server=server,
            database=create_database(server, template, tablespace),
            emulator=emulator,
            wiring=emulator.wire(f"site-{uuid.uuid4().hex[:12]}"),
            s3=parts.enter_context(ThreadedProxy(emulator.port)),
            sqs=parts.enter_context(ThreadedProxy(emulator.port)),
            certificates=certificates,
            contracts=contracts,
            directory=directory,
            parts=parts,
        )
        yield site


@pytest.fixture
def site(
    postgres: EmbeddedPostgres,
    template: str,
    emulator: Emulator,
    certificates: tuple[CertificateFiles, CertificateFiles],
    contracts: ContractSet,
    tmp_path: Path,
) -> Iterator[Site]:
    with open_site(postgres, template, emulator, certificates, contracts, tmp_path) as site:
        yield site
        site.say_ends()


@pytest.fixture
def stoppable_site(
    own_postgres: EmbeddedPostgres,
    own_template: str,
    emulator: Emulator,
    certificates: tuple[CertificateFiles, CertificateFiles],
    contracts: ContractSet,
    tmp_path: Path,
) -> Iterator[Site]:
    """The same, on a Postgres that may be stopped."""
    with open_site(own_postgres, own_template, emulator, certificates, contracts, tmp_path) as site:
        yield site
        site.say_ends()
