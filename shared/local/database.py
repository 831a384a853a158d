"""The stack's database and its logins. Core and contract tables are the migrations' business."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql

from shared.local.postgres import EmbeddedPostgres

DATABASE = "penstock"
SERVICE_ROLES = ("penstock_ingest", "penstock_query")


def ensure_database(server: EmbeddedPostgres, name: str = DATABASE) -> str:
    """The superuser's URL of the database, made where it is missing."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        if connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return server.url(name)


def enable_logins(
    server: EmbeddedPostgres, roles: Sequence[str] = SERVICE_ROLES, *, database: str = DATABASE
) -> Mapping[str, str]:
    """Lets the migrations' roles log in, each with a new random password; returns their URLs by role."""
    urls: dict[str, str] = {}
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        for role in roles:
            password = secrets.token_urlsafe(24)
            # Hashed here: the server's log and pg_stat_activity never see it.
            verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
            statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}")
            connection.execute(statement.format(sql.Identifier(role), sql.Literal(verifier)))
            urls[role] = server.url(database, user=role, password=password)
    return urls
