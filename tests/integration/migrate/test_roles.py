"""Who may do what: the three roles, and who may migrate. On a server of its own: roles belong to the cluster."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from shared.errors import ConfigError, FailedPrecondition
from shared.local.postgres import EmbeddedPostgres
from shared.postgres import migrate, roles
from tests.conftest import new_database
from tests.integration.contract_sql.catalog import execute, value
from tests.integration.contract_sql.texts import FIELDS, INSERT, contract, write_contract, write_migrations

ALL_ROLES = "SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles WHERE rolname ~ '^penstock_'"
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("roles"), durable=False, ephemeral=True) as running:
        yield running


@pytest.fixture
def superuser_url(server: EmbeddedPostgres) -> Iterator[str]:
    """A new database in a cluster without Penstock's roles."""
    with new_database(server) as url:
        yield url
    drop_roles(server)


def drop_roles(server: EmbeddedPostgres) -> None:
    execute(server.url(), *(f"DROP ROLE IF EXISTS penstock_{name}" for name in ("migrate", "ingest", "query")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_migrations(write_contract(tmp_path / "contracts", contract()))
    return tmp_path / "contracts"


@contextmanager
def database_of(server: EmbeddedPostgres, options: str) -> Iterator[str]:
    """A database whose owner is no superuser; its URL for that owner."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        name = f"owner_{options.lower()}"
        owner = sql.Identifier(name)
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} {}").format(owner, sql.Literal(PASSWORD), sql.SQL(options))
        )
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0").format(owner, owner))
        try:
            yield server.url(name, user=name, password=PASSWORD)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(owner))
            drop_roles(server)
            connection.execute(sql.SQL("DROP ROLE {}").format(owner))


def as_role(server: EmbeddedPostgres, url: str, role: str) -> str:
    """The URL of a role that may log in from now on."""
    roles.allow_login(url, role, PASSWORD)
    return server.url(url.rpartition("/")[2], user=role, password=PASSWORD)


def refused(url: str, statement: str) -> bool:
    try:
        execute(url, statement)
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


def test_query_reads_data_and_versions_and_writes_nothing(
    server: EmbeddedPostgres, superuser_url: str, folder: Path
) -> None:
    migrate.apply(superuser_url, folder)
    execute(superuser_url, INSERT)
    url = as_role(server, superuser_url, roles.QUERY)
    assert value(url, "SELECT count(*) FROM data.items") == 500
    assert value(url, "SELECT count(*) FROM data.items__deleted") == 0
    assert value(url, "SELECT version FROM penstock.datasets") == 0
    for statement in (
        "INSERT INTO data.items (id, _wire, _object, _version) VALUES ('x', '', 1, 1)",
        "UPDATE data.items SET amount = 1",
        "DELETE FROM data.items",
        "TRUNCATE data.items",
        "CREATE TABLE data.mine (id bigint)",
        "CREATE TABLE penstock.mine (id bigint)",
        "UPDATE penstock.datasets SET version = 1",
        "SELECT FROM penstock.loads",
        "SELECT FROM penstock.objects",
        "SELECT FROM penstock.reconciles",
        "SELECT FROM penstock_migrations.applied",
    ):
        assert refused(url, statement), statement


def test_ingest_loads_and_reindexes_and_leaves_contracts_alone(
    server: EmbeddedPostgres, superuser_url: str, folder: Path
) -> None:
    migrate.apply(superuser_url, folder)
    url = as_role(server, superuser_url, roles.INGEST)
    execute(
        url,
        INSERT,
        "UPDATE data.items SET amount = 1",
        "DELETE FROM data.items WHERE id = 'id1'",
        "INSERT INTO data.items__deleted (id, _version) VALUES ('id1', 2)",
        "CREATE INDEX mine ON data.items (amount)",
        "DROP INDEX data.mine",
        "ANALYZE data.items",
        "CREATE TEMPORARY TABLE staging (LIKE data.items)",
        "BEGIN; SELECT FROM penstock.datasets FOR UPDATE; COMMIT",
        "UPDATE penstock.datasets SET version = version + 1, row_count = 1, loaded_at = now(), updated_at = now()",
        "INSERT INTO penstock.objects (dataset, bucket, key) VALUES ('items', 'b', 'k')",
        "INSERT INTO penstock.loads (id, dataset, bucket, key, trigger, state) "
        "VALUES (gen_random_uuid(), 'items', 'b', 'k', 'EVENT', 'RUNNING')",
        "INSERT INTO penstock.rejects SELECT id, 0, 1, 'f', 'r', 'm', '' FROM penstock.loads",
        "INSERT INTO penstock.populates (request_id, request) VALUES (gen_random_uuid(), '')",
        "DELETE FROM penstock.loads",
        "SELECT pg_notify('penstock_version', 'items')",
    )
    for statement in (
        "UPDATE penstock.datasets SET contract = '{}'",
        "UPDATE penstock.datasets SET fingerprint = ''",
        "INSERT INTO penstock.datasets (name, contract, fingerprint) VALUES ('x', '{}', '')",
        "DELETE FROM penstock.datasets",
        "ALTER TABLE penstock.datasets ADD COLUMN mine bigint",
        "DROP TABLE penstock.datasets",
        "DROP TABLE penstock.loads",
        "CREATE TABLE penstock.mine (id bigint)",
        "DROP SCHEMA data CASCADE",
        "SELECT FROM penstock_migrations.applied",
        "CREATE ROLE mine",
    ):
        assert refused(url, statement), statement


def test_an_owner_with_createrole_migrates_and_hands_over(server: EmbeddedPostgres, folder: Path) -> None:
    """No superuser needed: the owner of the database makes the roles, afterwards penstock_migrate suffices."""
    with database_of(server, "CREATEROLE") as url:
        migrate.apply(url, folder)
        migrate.rollback(url, folder, None)
        assert value(url, ALL_ROLES) is None
        migrate.apply(url, folder)
        execute(url, INSERT)
        owners = "SELECT string_agg(DISTINCT tableowner, ' ') FROM pg_tables WHERE schemaname = 'data'"
        assert value(url, owners) == roles.INGEST
        write_migrations(write_contract(folder, contract(FIELDS + "int32 size = 8;")))
        successor = as_role(server, url, roles.MIGRATE)
        assert migrate.apply(successor, folder) == ["contracts/0002.items.add_size"]
        assert migrate.rollback(successor, folder, 2) == [
            "contracts/0002.items.add_size",
            "contracts/0001.items.create",
        ]
        migrate.apply(successor, folder)
        assert value(url, owners) == roles.INGEST


def test_an_owner_without_createrole_is_told_what_to_do(server: EmbeddedPostgres, folder: Path) -> None:
    with database_of(server, "NOCREATEROLE") as url:
        with pytest.raises(FailedPrecondition, match=r"owner_nocreaterole may not create role penstock_migrate \(run"):
            migrate.apply(url, folder)
        assert value(url, "SELECT to_regnamespace('penstock')") is None


def test_prepared_roles_that_the_owner_may_not_use_are_named_and_then_suffice(
    server: EmbeddedPostgres, folder: Path
) -> None:
    with database_of(server, "NOCREATEROLE") as url:
        execute(server.url(), *(f"CREATE ROLE penstock_{name}" for name in ("migrate", "ingest", "query")))
        with pytest.raises(FailedPrecondition, match=r"as a superuser run: (GRANT .* TO owner_nocreaterole)\)"):
            migrate.apply(url, folder)
        execute(
            server.url(), "GRANT penstock_ingest TO penstock_migrate", "GRANT penstock_migrate TO owner_nocreaterole"
        )
        migrate.apply(url, folder)
        migrate.rollback(url, folder, None)
        assert value(url, ALL_ROLES) == "penstock_ingest penstock_migrate penstock_query", "not ours to drop"


def test_somebody_without_rights_on_the_database_is_told_so(server: EmbeddedPostgres, superuser_url: str) -> None:
    execute(superuser_url, f"CREATE ROLE visitor LOGIN PASSWORD '{PASSWORD}'")
    try:
        url = server.url(superuser_url.rpartition("/")[2], user="visitor", password=PASSWORD)
        with pytest.raises(ConfigError, match=r"permission denied for database .*; run it as the owner"):
            migrate.apply(url, None)
    finally:
        execute(superuser_url, "DROP ROLE visitor")


def test_roles_that_another_database_uses_stay(server: EmbeddedPostgres, superuser_url: str, folder: Path) -> None:
    with new_database(server) as other:
        migrate.apply(superuser_url, folder)
        migrate.apply(other, folder)
        migrate.rollback(other, folder, None)
        assert value(other, ALL_ROLES) == "penstock_ingest penstock_migrate penstock_query"
        execute(as_role(server, superuser_url, roles.INGEST), INSERT)
        migrate.rollback(superuser_url, folder, None)
        assert value(other, ALL_ROLES) is None


def test_databases_that_are_migrated_at_once_share_the_roles(server: EmbeddedPostgres, folder: Path) -> None:
    with new_database(server) as one, new_database(server) as two, new_database(server) as three:
        failures: list[BaseException] = []

        def run(url: str) -> None:
            try:
                migrate.apply(url, folder)
            except BaseException as exc:  # noqa: BLE001  shown by the assertion
                failures.append(exc)

        threads = [threading.Thread(target=run, args=(url,)) for url in (one, two, three)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
    drop_roles(server)
