"""kill -9 of the ingest process, again and again at the same point: the event comes back and the work is done once."""

from __future__ import annotations

import pytest

from tests.chaos import moments
from tests.chaos.airfields import DATASET, File, Rows, named
from tests.chaos.moments import LAST_CHANGED, ROWS, Moment
from tests.chaos.site import Site, kill
from tests.e2e.running_stack import eventually

KILLS = 5
BAD_ROWS = 50
FIRST = File(names=named(range(LAST_CHANGED + 1), "old"))
# A third of its rows are in the table as they are, a third in another form, a third not at all.
SECOND = File(
    names={
        **named(range(LAST_CHANGED // 2), "old"),
        **named(range(LAST_CHANGED // 2, LAST_CHANGED + 1), "new"),
        **named(range(LAST_CHANGED + 1, ROWS), "new"),
    },
    bad_rows=BAD_ROWS,
)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [moments.download, moments.staging, moments.before_merge, moments.merge])
def test_killed_before_the_commit_the_next_process_does_the_whole_work_once(site: Site, moment: Moment) -> None:
    expected = kill_again_and_again(site, moment, KILLS)
    assert site.states() == ["ABANDONED"] * KILLS + ["SUCCEEDED"]
    assert {load["reason"] for load in site.loads()[:-1]} == {"OWNER_VANISHED"}
    assert_loaded_once(site, expected, site.loads()[-1])


@pytest.mark.slow
def test_killed_after_the_commit_the_next_process_only_deletes_the_message(site: Site) -> None:
    expected = kill_again_and_again(site, moments.after_commit, KILLS)
    assert site.states() == ["SUCCEEDED"] + ["ALREADY_APPLIED"] * KILLS
    assert_loaded_once(site, expected, site.loads()[0])


@pytest.mark.slow
def test_killed_during_the_commit_the_ledger_knows_that_it_was_done(site: Site) -> None:
    expected = kill_again_and_again(site, moments.commit, 1)
    assert site.states() == ["SUCCEEDED", "ALREADY_APPLIED"]
    assert_loaded_once(site, expected, site.loads()[0])


@pytest.mark.slow
def test_killed_at_the_end_of_a_first_load_the_table_is_empty_and_keeps_its_indexes(site: Site) -> None:
    """The first load of so many rows drops the indexes and makes them anew, in the transaction that is lost here."""
    indexes = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'data' ORDER BY indexname"
    before = site.ask(indexes)
    process = site.ingest(PENSTOCK_LOAD_CONCURRENCY="1")
    with moments.written(site) as arrived:
        site.put(SECOND)
        eventually(arrived)
        kill(process)
    assert site.table() == {}
    assert site.ask(indexes) == before
    site.ingest()
    site.wait_idle()
    assert site.table() == SECOND.rows(site.dataset)
    assert site.version() == (1, ROWS)
    assert site.ask(indexes) == before
    assert site.states() == ["RUNNING", "SUCCEEDED"]  # the next sweep ends what nobody works on


@pytest.mark.slow
def test_killed_in_the_middle_of_a_merge_nothing_is_lost_or_done_twice(site: Site) -> None:
    expected = kill_again_and_again(site, moments.merge, 1)
    assert site.states() == ["ABANDONED", "SUCCEEDED"]
    assert_loaded_once(site, expected, site.loads()[-1])


def kill_again_and_again(site: Site, moment: Moment, kills: int) -> Rows:
    """Kills one process after the other at that moment of the same event, then lets one finish; the expected table."""
    # One load at a time: while it runs nothing is received, so no poll of a dead process takes the message with it.
    process = site.ingest(PENSTOCK_LOAD_CONCURRENCY="1")
    expected = site.load_first(FIRST)
    with moment(site) as arrived:
        site.put(SECOND)
        for number in range(kills):
            if number:
                process = site.ingest(PENSTOCK_LOAD_CONCURRENCY="1")
            eventually(arrived)
            kill(process)
            site.age_heartbeats()
    site.ingest()
    site.wait_idle()
    return {**expected, **SECOND.rows(site.dataset)}


def assert_loaded_once(site: Site, expected: Rows, succeeded: dict[str, object]) -> None:
    assert site.table() == expected
    assert site.version() == (2, ROWS)
    assert succeeded["dataset"] == DATASET
    assert succeeded["dataset_version"] == 2
    assert (succeeded["rows_read"], succeeded["rows_rejected"]) == (ROWS + BAD_ROWS, BAD_ROWS)
    assert (succeeded["rows_inserted"], succeeded["rows_updated"], succeeded["rows_unchanged"]) == (
        ROWS - LAST_CHANGED - 1,
        LAST_CHANGED + 1 - LAST_CHANGED // 2,
        LAST_CHANGED // 2,
    )
    assert site.rejects(succeeded) == BAD_ROWS
