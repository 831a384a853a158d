"""Moments of a load at which something can be made to happen: each is held open until the test lets it go on.

A moment is a context manager over the site; it yields what tells that a load has come to that point once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

import psycopg

from tests.chaos.airfields import code
from tests.chaos.site import Site
from tests.e2e.running_stack import eventually
from tests.integration.consumer.flaky_proxy import Hold

Arrived = Callable[[], bool]
Moment = Callable[[Site], AbstractContextManager[Arrived]]

# The files of the tests: 60,000 rows are in the table, the last of them is changed, 30,000 more come. 4 MB hold 50,000.
ROWS = 90_000
LAST_CHANGED = 59_999
STAGED = 20_000

_WAITING = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE %s
"""
_COPYING = "SELECT count(*) FROM pg_stat_progress_copy WHERE datname = current_database() AND tuples_processed > %s"
# A merge's: heartbeats are no transactions of several statements.
_COMMITTING = """
SELECT FROM pg_stat_activity
WHERE datname = current_database() AND wait_event = 'SyncRep' AND left(query, 6) = 'COMMIT'
"""
# They wait for the standby too, and hold the load's row, which the merge needs before it commits.
_LET_OTHERS_GO = """
SELECT pg_cancel_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event = 'SyncRep' AND left(query, 6) <> 'COMMIT'
"""
_STANDBY_AWAITED = "SELECT name FROM pg_settings WHERE name = 'synchronous_standby_names' AND setting <> ''"


@contextmanager
def download(site: Site) -> Iterator[Arrived]:
    """The first bytes of the body have come; nothing is staged."""
    with site.s3.holding("GET /", after_bytes=200_000) as hold:
        yield another(hold)


@contextmanager
def staging(site: Site) -> Iterator[Arrived]:
    """COPY is under way and has taken a good part of the rows."""
    with site.s3.holding("GET /", after_bytes=4_000_000) as hold:
        held = another(hold)
        yield lambda: is_staging(site, STAGED) and held()


@contextmanager
def before_merge(site: Site) -> Iterator[Arrived]:
    """Everything is staged; the merge waits for its turn."""
    with _locked(site, "SELECT FROM penstock.datasets WHERE name = 'airports' FOR UPDATE"):
        yield _another_waiter(site, "%FROM penstock.datasets%FOR UPDATE%")


@contextmanager
def merge(site: Site) -> Iterator[Arrived]:
    """The merge has written all changed rows but one."""
    with _locked(site, f"SELECT FROM data.airports WHERE icao = '{code(LAST_CHANGED)}' FOR UPDATE"):
        yield _another_waiter(site, "%WITH written%")


@contextmanager
def written(site: Site) -> Iterator[Arrived]:
    """All rows are written, on the bulk path too; the load's end in the ledger, the last thing before COMMIT, waits.

    Once only.
    """
    with ExitStack() as turn, ExitStack() as end:
        staged = turn.enter_context(before_merge(site))
        ending = _another_waiter(site, "%UPDATE penstock.loads%rows_inserted%")

        def arrived() -> bool:
            if staged():
                end.enter_context(_locked(site, "SELECT FROM penstock.loads WHERE state = 'RUNNING' FOR UPDATE"))
                turn.close()
            return ending()

        yield arrived


@contextmanager
def after_commit(site: Site) -> Iterator[Arrived]:
    """The rows are committed; the message is not deleted yet."""
    with site.sqs.holding("DeleteMessage") as hold:
        yield another(hold)


@contextmanager
def commit(site: Site) -> Iterator[Arrived]:
    """COMMIT is under way: written, but neither visible nor answered, because it waits for a standby that is not there.

    Once only. It ends with the commit.
    """
    with ExitStack() as turn:
        staged = turn.enter_context(before_merge(site))

        def arrived() -> bool:
            if staged():
                _await_standby(site)
                turn.close()
            site.ask(_LET_OTHERS_GO)
            return bool(site.ask(_COMMITTING))

        try:
            yield arrived
        finally:
            with suppress(psycopg.OperationalError):
                site.ask("SELECT pg_reload_conf()")


def _await_standby(site: Site) -> None:
    """From now on commits wait for a standby, until the settings are read again: the file has it no more."""
    with site.connect() as connection:
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        connection.execute("SELECT pg_reload_conf()")
        eventually(lambda: connection.execute(_STANDBY_AWAITED).fetchone())
        connection.execute("CHECKPOINT")  # the checkpointer tells all sessions, and reads the settings before it starts
        connection.execute("ALTER SYSTEM RESET synchronous_standby_names")


@contextmanager
def _locked(site: Site, statement: str) -> Iterator[None]:
    """Holds the row locks of that statement. The server may end meanwhile, and the locks with it."""
    with suppress(psycopg.OperationalError), site.connect() as connection, connection.transaction():
        connection.execute(statement.encode())
        yield


def is_staging(site: Site, rows: int) -> bool:
    """Whether a COPY is under way that has taken more than so many rows."""
    return bool(site.ask(_COPYING, rows)[0]["count"])


def another(hold: Hold) -> Arrived:
    """Whether one more request is held than when asked last with success."""
    seen = [0]

    def arrived() -> bool:
        more = len(hold.held) > seen[0]
        seen[0] += more
        return more

    return arrived


def _another_waiter(site: Site, statement: str) -> Arrived:
    """Whether a session waits for a lock in such a statement that did not when asked last with success.

    The server takes some seconds to see that the client of a waiting session is gone.
    """
    seen: set[int] = set()

    def arrived() -> bool:
        new = {row["pid"] for row in site.ask(_WAITING, statement)} - seen
        seen.update(new)
        return bool(new)

    return arrived
