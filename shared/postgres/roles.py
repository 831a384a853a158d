"""The database roles of the processes. Core migrations make them without login; who may log in is local policy."""

from __future__ import annotations

import psycopg
from psycopg import sql

MIGRATE = "penstock_migrate"
INGEST = "penstock_ingest"
QUERY = "penstock_query"


def allow_login(database_url: str, role: str, password: str) -> None:
    """Lets `role` log in with that password. The password is hashed here, so that no server log ever holds it."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
        statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier))
        connection.execute(statement)
