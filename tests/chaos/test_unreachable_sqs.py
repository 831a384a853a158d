"""SQS that cannot be reached: at the start, while events come, and between a commit and the end of its message."""

from __future__ import annotations

import pytest

from tests.chaos import moments
from tests.chaos.airfields import File, Rows, named
from tests.chaos.site import Site
from tests.e2e.running_stack import eventually

pytestmark = pytest.mark.slow

FIRST = File(names=named(range(2_000), "old"))
SECOND = File(names=named(range(1_000, 3_000), "new"))


def test_process_starts_without_sqs_and_loads_when_it_is_there(site: Site) -> None:
    site.sqs.down()
    site.ingest()
    site.put(SECOND)
    eventually(lambda: log_has(site, "nothing received"))
    site.sqs.up()
    site.wait_idle()
    assert_loaded(site, SECOND.rows(site.dataset), version=1)


def test_event_that_came_while_sqs_was_away_is_loaded_when_it_is_back(site: Site) -> None:
    site.ingest()
    expected = site.load_first(FIRST)
    site.sqs.down()
    site.put(SECOND)
    eventually(lambda: log_has(site, "nothing received"))
    assert site.table() == expected
    site.sqs.up()
    site.wait_idle()
    assert_loaded(site, {**expected, **SECOND.rows(site.dataset)}, version=2)


def test_load_whose_message_cannot_be_deleted_is_not_done_again(site: Site) -> None:
    site.ingest()
    expected = site.load_first(FIRST)
    with moments.after_commit(site) as committed:
        site.put(SECOND)
        eventually(committed)
        site.sqs.down()
    eventually(lambda: log_has(site, "is done, its delete failed"))
    site.sqs.up()
    site.wait_idle()
    assert [state for state in site.states() if state != "ALREADY_APPLIED"] == ["SUCCEEDED"]
    assert site.table() == {**expected, **SECOND.rows(site.dataset)}
    assert site.version() == (2, 3_000)


def log_has(site: Site, words: str) -> bool:
    return any(words in path.read_text() for path in site.directory.glob("process-*/logs/*.log"))


def assert_loaded(site: Site, expected: Rows, version: int) -> None:
    assert site.states() == ["SUCCEEDED"]
    assert site.table() == expected
    assert site.version() == (version, len(expected))
