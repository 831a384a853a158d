"""Real parts for the tests: one Postgres per test process, a database per test.

Nothing here replaces a part by a mock.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from hypothesis import settings
from psycopg import sql

from shared.contract.build import load_contracts
from shared.contract.model import ContractSet
from shared.local.postgres import EmbeddedPostgres
from tests.memory_folder import memory_folder

# A test says whether the code is right; how long an example takes on a busy machine does not.
settings.register_profile("penstock", deadline=None)
settings.load_profile("penstock")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A running Postgres of this test process; its data goes with it."""
    with memory_folder() as memory:
        directory = memory or tmp_path_factory.mktemp("postgres")
        with EmbeddedPostgres(directory, durable=False, ephemeral=True, settings={"max_wal_size": "256MB"}) as server:
            yield server


@contextmanager
def new_database(server: EmbeddedPostgres, template: str = "template0") -> Iterator[str]:
    """The superuser's URL of a new database, dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
        try:
            yield server.url(name)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def postgres_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The superuser's URL of a new, empty database."""
    with new_database(postgres) as url:
        yield url


@pytest.fixture(scope="session")
def contracts() -> ContractSet:
    """The repository's own contracts."""
    return load_contracts()
