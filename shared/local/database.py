"""The stack's database and its logins. Core and contract tables are the migrations' business."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import psycopg
from psycopg import sql

from shared.local.postgres import EmbeddedPostgres
from shared.postgres import roles

DATABASE = "penstock"


def ensure_database(server: EmbeddedPostgres, name: str = DATABASE) -> str:
    """The superuser's URL of the database, made where it is missing."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        if connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return server.url(name)


def enable_logins(server: EmbeddedPostgres, database: str = DATABASE) -> Mapping[str, str]:
    """Lets the services' roles log in, each with a new random password; returns their URLs by role."""
    urls: dict[str, str] = {}
    for role in (roles.INGEST, roles.QUERY):
        password = secrets.token_urlsafe(24)
        roles.allow_login(server.url(database), role, password)
        urls[role] = server.url(database, user=role, password=password)
    return urls
