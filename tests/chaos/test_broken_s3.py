"""S3 that answers with errors, late, or not to the end: nothing is lost or doubled, a short file is no whole one."""

from __future__ import annotations

import pytest

from tests.chaos.airfields import File, Rows, named
from tests.chaos.site import VISIBILITY_TIMEOUT_S, Site
from tests.e2e.running_stack import eventually
from tests.integration.consumer.flaky_proxy import INTERNAL_ERROR, SLOW_DOWN, Answer, Pace

pytestmark = pytest.mark.slow

FIRST = File(names=named(range(20_000), "old"))
SECOND = File(names=named(range(10_000, 90_000), "new"))
ROWS = 90_000
CSV, PARQUET = "airports/second.csv", "airports/second.parquet"
ERRORS = pytest.mark.parametrize("answer", [INTERNAL_ERROR, SLOW_DOWN], ids=["500", "503"])
# The client asks three times; an attempt that has not even begun to read ends after that.
WITHIN_AN_ATTEMPT, BEYOND_ATTEMPTS = 2, 7


@pytest.mark.parametrize(
    "cuts", [(200_000, 700_000, 1_500_000, 100_000), (1_100_000, *[1] * 5)], ids=["with progress", "without"]
)
def test_body_cut_several_times_is_resumed_within_the_same_attempt(site: Site, cuts: tuple[int, ...]) -> None:
    site.ingest()
    expected = site.load_first(FIRST)
    before = site.s3.requests("GET /")
    site.s3.cut_responses(*cuts)
    site.put(SECOND)
    site.wait_idle()
    assert site.s3.requests("GET /") == before + 1 + len(cuts)
    assert_loaded_once(site, CSV, expected)


@ERRORS
@pytest.mark.parametrize("key", [CSV, PARQUET])
def test_body_whose_rest_is_refused_for_a_while_is_resumed_within_the_same_attempt(
    site: Site, key: str, answer: Answer
) -> None:
    """The ranged GETs that go on after a cut, and those that Parquet is read by, meet the error too."""
    site.ingest()
    expected = site.load_first(FIRST)
    site.s3.cut_responses(700_000)
    site.s3.refuse("bytes=", answer, times=5)
    site.put(SECOND, key)
    site.wait_idle()
    assert site.s3.refusals_left == 0
    assert_loaded_once(site, key, expected)


@ERRORS
@pytest.mark.parametrize("key", [CSV, PARQUET])
@pytest.mark.parametrize("times", [WITHIN_AN_ATTEMPT, BEYOND_ATTEMPTS], ids=["briefly", "for long"])
def test_object_that_s3_refuses_for_a_while_is_loaded_then(site: Site, times: int, key: str, answer: Answer) -> None:
    site.ingest()
    expected = site.load_first(FIRST)
    site.s3.refuse(f"GET /{site.wiring.bucket}/{key}", answer, times)
    site.put(SECOND, key)
    site.wait_idle()
    assert site.s3.refusals_left == 0
    assert len(site.states(key)) == (1 if times == WITHIN_AN_ATTEMPT else 3)
    assert_loaded_once(site, key, expected)


@ERRORS
@pytest.mark.parametrize("times", [WITHIN_AN_ATTEMPT, BEYOND_ATTEMPTS], ids=["briefly", "for long"])
def test_removal_is_noted_when_s3_tells_at_last_that_the_object_is_gone(site: Site, times: int, answer: Answer) -> None:
    """A refused HEAD says neither that the object is there nor that it is gone."""
    site.ingest()
    expected = site.load_first(FIRST)
    site.s3.refuse("HEAD /", answer, times)
    site.remove("airports/first.csv")
    site.wait_idle()
    assert site.s3.refusals_left == 0
    assert site.ask("SELECT removed FROM penstock.objects") == [{"removed": True}]
    assert site.states("airports/first.csv") == ["SUCCEEDED"]
    assert site.table() == expected
    assert site.version() == (1, len(expected))


@pytest.mark.parametrize("key", [CSV, PARQUET])
def test_s3_that_stays_away_costs_attempts_but_no_row(site: Site, key: str) -> None:
    """An attempt that gives up is FAILED with what S3 did; the event stays until S3 is back."""
    site.ingest()
    expected = site.load_first(FIRST)
    answered = 1_500_000 if key == CSV else 200_000  # of Parquet the second step of the first row group's names
    with site.s3.holding("GET /", after_bytes=answered) as hold:
        site.put(SECOND, key)
        eventually(lambda: hold.held)
        site.s3.down()
    eventually(lambda: "FAILED" in site.states(key))
    assert site.table() == expected
    assert site.version()[0] == 1
    site.s3.up()
    site.wait_idle()
    assert len(site.states(key)) > 1
    assert_loaded_once(site, key, expected)


def test_slow_body_keeps_its_message_and_stalls_no_other_load(site: Site) -> None:
    """It takes three visibility timeouts, of the two places for loads it takes one, and it is received once."""
    slow, quick = "airports/slow.csv", [f"airports/{number}.csv" for number in range(6)]
    file = File(names=named(range(20_000), "slow"))
    site.ingest(PENSTOCK_LOAD_CONCURRENCY="2")
    with site.s3.slowed(Pace(matching=slow, bytes_per_s=len(file.body()) / (3 * VISIBILITY_TIMEOUT_S))):
        site.put(file, slow)
        eventually(lambda: site.states(slow) == ["RUNNING"])
        for number, key in enumerate(quick):
            site.put(File(names=named([number], "quick")), key)
        eventually(lambda: [site.states(key) for key in quick] == [["SUCCEEDED"]] * len(quick))
        assert site.states(slow) == ["RUNNING"]
        site.wait_idle()
    assert site.states(slow) == ["SUCCEEDED"]
    assert site.version() == (1 + len(quick), len(file.names))
    assert site.table() == file.rows(site.dataset)


def assert_loaded_once(site: Site, key: str, expected: Rows) -> None:
    """The second file over the first one, by one load; those before it failed for S3 and changed nothing."""
    *failed, succeeded = site.loads(key)
    assert {(load["state"], load["reason"]) for load in failed} <= {("FAILED", "S3_UNAVAILABLE")}
    assert (succeeded["state"], succeeded["dataset_version"]) == ("SUCCEEDED", 2)
    assert site.version() == (2, ROWS)
    assert site.table() == {**expected, **SECOND.rows(site.dataset)}
