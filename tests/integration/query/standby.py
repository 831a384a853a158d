"""A streaming replica of an embedded Postgres, whose replay can be held, and which can be promoted or killed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import psycopg

from shared.local.postgres import EmbeddedPostgres
from tests.e2e.running_stack import eventually


class Standby(EmbeddedPostgres):
    """A physical copy of `primary` that follows it."""

    def __init__(self, primary: EmbeddedPostgres, directory: Path) -> None:
        super().__init__(directory, durable=False)
        self._primary = primary

    def start(self) -> None:
        """Takes a copy the first time, and follows from there; the logins are the primary's."""
        super().start()
        self.password = self._primary.password

    def _run_initdb(self, programs: Path, target: Path, password_file: Path) -> None:
        source = self._primary.url()
        copy = [str(programs / "pg_basebackup"), "-D", str(target), "-d", source, "-R", "-X", "stream", "-c", "fast"]
        with self.log_path.open("ab") as log:
            command = self._command([*copy, "--no-sync"], 9)
            subprocess.run(command, stdout=log, stderr=log, cwd=self._home, env={"LC_ALL": "C"}, check=True)

    def ask(self, statement: str) -> Any:
        """One value, as the superuser."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    def give_way_after(self, delay: str) -> None:
        """How long what reads here may hold up replication."""
        self.ask(f"ALTER SYSTEM SET max_standby_streaming_delay = '{delay}'")
        self.ask("SELECT pg_reload_conf()")
        eventually(lambda: self.ask("SELECT current_setting('max_standby_streaming_delay')") == delay)

    def hold(self) -> None:
        """Receives and does not replay, until `follow`."""
        self.ask("SELECT pg_wal_replay_pause()")
        eventually(lambda: self.ask("SELECT pg_get_wal_replay_pause_state()") == "paused")

    def follow(self) -> None:
        """Replays again."""
        self.ask("SELECT pg_wal_replay_resume()")

    def cut_off(self) -> None:
        """Never hears of its primary again."""
        self.ask("ALTER SYSTEM SET primary_conninfo = ''")
        self.ask("SELECT pg_reload_conf()")
        eventually(lambda: self.ask("SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)"))

    def promote(self) -> None:
        """Becomes a primary of its own, on a timeline of its own."""
        self.ask("SELECT pg_promote()")

    def catch_up(self) -> None:
        """Returns once it has replayed all that the primary has written so far."""
        with psycopg.connect(self._primary.url(), autocommit=True) as connection:
            row = connection.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
        assert row is not None
        eventually(lambda: self.ask(f"SELECT pg_last_wal_replay_lsn() >= '{row[0]}'"))
