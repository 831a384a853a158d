"""The baselines that psql runs: COPY in, COPY out, and staging with an upsert; one process for each."""

from __future__ import annotations

import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shared.local.postgres import binaries
from tests.bench.files import COLUMNS

TABLE = "bench.orders"
SCHEMA = Path(__file__).with_name("baseline.sql")
_COLUMNS = ", ".join(COLUMNS)
_UPDATES = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS[1:])
_UPSERT = f"INSERT INTO {TABLE} SELECT * FROM staging ON CONFLICT (id) DO UPDATE SET {_UPDATES};"


class Psql:
    """psql against one database."""

    def __init__(self, database_url: str) -> None:
        url = urlsplit(database_url)
        self._program = binaries() / "psql"
        self._environment = {
            "PATH": "/usr/bin:/bin",
            "PGHOST": url.hostname or "",
            "PGPORT": str(url.port),
            "PGUSER": unquote(url.username or ""),
            "PGPASSWORD": unquote(url.password or ""),
            "PGDATABASE": url.path.removeprefix("/"),
        }

    def run(self, script: str, *, output: Path | None = None) -> None:
        """Runs a script, its output to a file or nowhere; CalledProcessError where a statement fails."""
        command = [str(self._program), "-X", "-q", "-v", "ON_ERROR_STOP=1"]
        with (output or Path("/dev/null")).open("wb") as out:
            subprocess.run(command, input=script.encode(), env=self._environment, stdout=out, check=True)

    def create(self) -> None:
        """The baseline's table."""
        self.run(SCHEMA.read_text())

    def copy_in(self, path: Path) -> None:
        r"""\copy of a CSV into the indexed table."""
        self.run(f"{_copy(TABLE, path)}\n")

    def upsert(self, path: Path) -> None:
        r"""\copy of a CSV into a staging table, then INSERT ON CONFLICT DO UPDATE of all columns; one transaction."""
        staging = f"CREATE TEMP TABLE staging (LIKE {TABLE}) ON COMMIT DROP;"
        self.run(f"BEGIN;\n{staging}\n{_copy('staging', path)}\nANALYZE staging;\n{_UPSERT}\nCOMMIT;\n")

    def copy_out(self, output: Path | None = None) -> None:
        """The stored wire bytes in key order, as binary COPY."""
        query = "SELECT _wire FROM data.orders ORDER BY id"
        self.run(f"COPY ({query}) TO STDOUT (FORMAT binary);\n", output=output)


def _copy(table: str, path: Path) -> str:
    return f"\\copy {table} ({_COLUMNS}) FROM '{path}' WITH (FORMAT csv, HEADER)"
