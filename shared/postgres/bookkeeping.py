"""yoyo as a library: which migrations a database has, and one migration applied or taken back with its mark.

Only inside `session()`, which holds the advisory lock of the database: two runs at once take turns.
"""

from __future__ import annotations

import glob
import logging
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import psycopg
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import parse_uri
from yoyo.exceptions import BadMigration
from yoyo.migrations import get_migration_hash, read_migrations

from shared.errors import ConfigError, FailedPrecondition, PenstockError, Unavailable

# A schema of our own: yoyo's tables have fixed names, and the database may hold another application's.
SCHEMA = "penstock_migrations"
TABLE = "applied"
# pg_advisory_lock's key, the bytes of "penstock". It is waited for by polling: a session blocked in pg_advisory_lock()
# holds a snapshot, and CREATE INDEX CONCURRENTLY in the session that has the lock would wait for that snapshot.
LOCK_KEY = int.from_bytes(b"penstock", "big")
LOCK_POLL_S = 0.1
# So that the statement of a killed run stops too, instead of going on alone (Postgres 14).
SERVER_OPTIONS = "-c client_connection_check_interval=2s"
LOCK_NOT_AVAILABLE = "55P03"


@contextmanager
def session(database_url: str, *, lock_wait_s: float) -> Iterator[Any]:
    """A yoyo backend with its tables made and all locks held.

    Raises ConfigError where the database cannot be reached, Unavailable where another run does not end in time.
    """
    with connect(database_url) as backend:
        _take_turn(backend, lock_wait_s)
        try:
            _prepare(backend)
        except psycopg.errors.InsufficientPrivilege as exc:
            message = f"{_detail(exc)}; run it as the owner of the database or a superuser the first time"
            raise ConfigError(message, reason="MIGRATION_NOT_ALLOWED") from exc
        # A run that was killed leaves yoyo's lock behind. Whoever holds the advisory lock knows that it is stale.
        backend.break_lock()
        with backend.lock():
            yield backend


@contextmanager
def connect(database_url: str) -> Iterator[Any]:
    """A yoyo backend without any lock, for reading."""
    _silence_yoyo()
    try:
        backend = PostgresqlPsycopgBackend(parse_uri(_yoyo_url(database_url)), TABLE)
    except psycopg.Error as exc:
        message = f"cannot connect to Postgres: {_one_line(str(exc))}; check PENSTOCK_DATABASE_URL"
        raise ConfigError(message, reason="DATABASE_UNREACHABLE") from exc
    with backend:
        _search_our_schema_first(backend)
        yield backend


def read_folder(folder: Path, namespace: str) -> list[Any]:
    """The folder's migrations in file order; empty where there is no folder.

    Ids are `namespace/file`, so that core and contracts may use the same numbers.
    """
    migrations = sorted(read_migrations(glob.escape(str(folder))), key=lambda migration: str(migration.id))
    for migration in migrations:
        migration.id = f"{namespace}/{migration.id}"
        migration.hash = get_migration_hash(migration.id)
    return migrations


def applied_ids(backend: Any) -> list[str]:
    """Ids of the applied migrations in the order of their application; empty where there never was a run."""
    if backend.execute("SELECT to_regclass(:name)", {"name": f"{SCHEMA}.{TABLE}"}).fetchone()[0] is None:
        return []
    rows = backend.execute(f"SELECT migration_id FROM {SCHEMA}.{TABLE} ORDER BY applied_at_utc, migration_id")  # noqa: S608
    return [str(row[0]) for row in rows.fetchall()]


def run(backend: Any, migration: Any, direction: str) -> None:
    """Applies (`apply`) or takes back (`rollback`) one migration.

    The change and its mark commit together: yoyo's own apply_one commits them one after the other, and a run killed in
    between would apply the same file again. A non-transactional file must be safe to repeat instead.
    """
    try:
        migration.load()
        if migration.use_transactions:
            with backend.transaction():
                migration.process_steps(backend, direction)
                _mark(backend, migration, direction)
        else:
            _run_steps(backend, migration, direction)
            with backend.transaction():
                _mark(backend, migration, direction)
    except (psycopg.Error, BadMigration) as exc:
        raise _translated(exc, migration) from exc


def _run_steps(backend: Any, migration: Any, direction: str) -> None:
    """Each statement by itself, on a connection that takes the file's settings with it.

    Not process_steps: after a failure it runs the rollback, and dropping an index concurrently waits for the very
    transactions that made the build give up.
    """
    steps = migration.steps if direction == "apply" else reversed(migration.steps)
    with backend.copy() as own:
        for step in steps:
            getattr(step, direction)(own)


def _mark(backend: Any, migration: Any, direction: str) -> None:
    if direction == "apply":
        backend.mark_one(migration, log=False)
    else:
        backend.unmark_one(migration, log=False)
    # Not backend.log_migration: it asks the system for a user name, and a container's user may have none.
    entry = {
        "id": str(uuid.uuid4()),
        "migration_hash": migration.hash,
        "migration_id": migration.id,
        "operation": direction,
        "username": backend.execute("SELECT current_user").fetchone()[0],
        "hostname": socket.gethostname(),
        "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
    }
    backend.execute(backend.format_sql(backend.log_migration_sql), entry)


def _take_turn(backend: Any, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while not backend.execute("SELECT pg_try_advisory_lock(:key)", {"key": LOCK_KEY}).fetchone()[0]:
        if time.monotonic() > deadline:
            message = f"another migration of this database has been running for {wait_s:.0f} s; wait for it to end"
            raise Unavailable(message, reason="MIGRATION_RUNNING")
        time.sleep(LOCK_POLL_S)


def _prepare(backend: Any) -> None:
    """yoyo's schema and tables. Its own init_database() finds out by errors, which fill the server's log."""
    if backend.execute("SELECT to_regnamespace(:name)", {"name": SCHEMA}).fetchone()[0] is None:
        backend.execute(f"CREATE SCHEMA {SCHEMA}")
    if backend.execute("SELECT to_regclass(:name)", {"name": f"{SCHEMA}.yoyo_lock"}).fetchone()[0] is None:
        backend.execute(backend.format_sql(backend.create_lock_table_sql))
    backend.break_lock()
    backend.ensure_internal_schema_updated()


def _search_our_schema_first(backend: Any) -> None:
    """yoyo names its tables without schema. The database's own path follows: pg_trgm may live anywhere on it."""
    path = backend.execute("SHOW search_path").fetchone()[0]
    backend.schema = f"{SCHEMA},{path}" if path else SCHEMA
    backend.uri = backend.uri._replace(args={**backend.uri.args, "schema": backend.schema})  # for backend.copy()
    backend.init_connection(backend.connection)


def _yoyo_url(database_url: str) -> str:
    """The URL with yoyo's driver name and a migration's libpq options."""
    parts = urlsplit(database_url)
    if parts.scheme not in ("postgresql", "postgres"):
        message = "the database URL must read postgresql://user:password@host:port/database; set PENSTOCK_DATABASE_URL"
        raise ConfigError(message, reason="DATABASE_URL")
    query = dict(parse_qsl(parts.query))
    query["options"] = f"{query.get('options', '')} {SERVER_OPTIONS}".strip()
    # dbname: yoyo takes the database's name from the path as it stands, with any %20 in it
    defaults = {"application_name": "penstock-migrate", "connect_timeout": "10", "dbname": unquote(parts.path[1:])}
    return urlunsplit(parts._replace(scheme="postgresql+psycopg", query=urlencode({**defaults, **query})))


def _translated(exc: Exception, migration: Any) -> PenstockError:
    reason = f"migration {migration.id}: {_detail(exc)}"
    if getattr(exc, "sqlstate", None) == LOCK_NOT_AVAILABLE:
        message = f"{reason}: open transactions or another change hold the table; run it again"
        return Unavailable(message, reason="MIGRATION_LOCKED")
    return FailedPrecondition(reason, reason="MIGRATION_FAILED")


def _detail(exc: Exception) -> str:
    """The server's message and hint in one line."""
    diagnostics = exc.diag if isinstance(exc, psycopg.Error) else None
    if diagnostics is None or diagnostics.message_primary is None:
        return _one_line(str(exc))
    hint = diagnostics.message_hint
    return _one_line(diagnostics.message_primary + (f" ({hint})" if hint else ""))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _silence_yoyo() -> None:
    """yoyo logs every step, and errors that we raise anyway."""
    logger = logging.getLogger("yoyo")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
