"""Postgres stopped or crashed in the middle of a load, and started again: the ingest process goes on by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.local.postgres import EmbeddedPostgres
from tests.chaos import moments
from tests.chaos.airfields import File, named
from tests.chaos.moments import LAST_CHANGED, ROWS, Moment
from tests.chaos.site import Site
from tests.e2e.running_stack import eventually

pytestmark = pytest.mark.slow

FIRST = File(names=named(range(LAST_CHANGED + 1), "old"))
SECOND = File(names=named(range(LAST_CHANGED // 2, ROWS), "new"))
THIRD = File(names=named(range(100), "newer"))

Stop = Callable[[EmbeddedPostgres], None]


@pytest.mark.parametrize("stop", [EmbeddedPostgres.stop, EmbeddedPostgres.kill], ids=["stopped", "crashed"])
@pytest.mark.parametrize("moment", [moments.staging, moments.before_merge, moments.merge])
def test_load_is_done_again_when_the_database_is_back(stoppable_site: Site, moment: Moment, stop: Stop) -> None:
    site = stoppable_site
    lose_the_database(site, moment, stop)
    assert site.states()[-1] == "SUCCEEDED"
    assert site.states().count("SUCCEEDED") == 1
    assert_both_loaded(site)


def test_commit_whose_answer_was_lost_with_the_server_is_not_done_again(stoppable_site: Site) -> None:
    # A crash: a fast shutdown with a session that waits for a standby ends only after 20 s, as a crash (Postgres 18.6).
    site = stoppable_site
    lose_the_database(site, moments.commit, EmbeddedPostgres.kill)
    assert site.states() == ["SUCCEEDED", "ALREADY_APPLIED"]
    assert_both_loaded(site)


def test_commit_whose_answer_was_lost_with_its_connection_is_found_in_the_ledger(site: Site) -> None:
    site.ingest()
    expected = site.load_first(FIRST)
    with moments.commit(site) as arrived:
        site.put(SECOND)
        eventually(arrived)
        site.ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE wait_event = 'SyncRep' AND datname = current_database()"
        )
    site.wait_idle()
    assert site.states() == ["SUCCEEDED"]
    assert site.table() == {**expected, **SECOND.rows(site.dataset)}
    assert site.version() == (2, ROWS)


def lose_the_database(site: Site, moment: Moment, stop: Stop) -> None:
    """Stops the server at that moment of the second file's load, with a third file waiting, and starts it again."""
    process = site.ingest(PENSTOCK_LOAD_CONCURRENCY="1")
    site.load_first(FIRST)
    with moment(site) as arrived:
        site.put(SECOND)
        eventually(arrived)
        site.put(THIRD, "airports/third.csv")
        received = site.sqs.requests("ReceiveMessage")
        stop(site.server)
    eventually(lambda: "not ready: receiving nothing" in process.process.log_path.read_text())
    eventually(lambda: not process.is_serving)
    assert site.sqs.requests("ReceiveMessage") == received
    site.server.start()
    site.wait_idle()
    eventually(lambda: process.is_serving)


def assert_both_loaded(site: Site) -> None:
    """The second file, and after it the third."""
    assert site.states("airports/third.csv") == ["SUCCEEDED"]
    assert site.table() == {**FIRST.rows(site.dataset), **SECOND.rows(site.dataset), **THIRD.rows(site.dataset)}
    assert site.version() == (3, ROWS)
    site.age_heartbeats()
    site.ingest()  # sweeps at its start the attempts that could not say how they ended
    eventually(lambda: not site.ask("SELECT FROM penstock.loads WHERE state = 'RUNNING'"))
    assert set(site.states()) <= {"ABANDONED", "FAILED", "SUCCEEDED", "ALREADY_APPLIED"}
