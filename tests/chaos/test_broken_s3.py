"""Bodies that S3 does not deliver to the end: a short file is never taken for the whole one."""

from __future__ import annotations

import pytest

from tests.chaos.airfields import File, named
from tests.chaos.site import Site
from tests.e2e.running_stack import eventually

pytestmark = pytest.mark.slow

FIRST = File(names=named(range(20_000), "old"))
SECOND = File(names=named(range(10_000, 90_000), "new"))
ROWS = 90_000


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
    assert site.states() == ["SUCCEEDED"]
    assert site.table() == {**expected, **SECOND.rows(site.dataset)}
    assert site.version() == (2, ROWS)


def test_s3_that_stays_away_costs_attempts_but_no_row(site: Site) -> None:
    """An attempt that gives up is FAILED with what S3 did; the event stays until S3 is back."""
    site.ingest()
    expected = site.load_first(FIRST)
    with site.s3.holding("GET /", after_bytes=1_500_000) as hold:
        site.put(SECOND)
        eventually(lambda: hold.held)
        site.s3.down()
    eventually(lambda: "FAILED" in site.states())
    assert site.table() == expected
    assert site.version()[0] == 1
    site.s3.up()
    site.wait_idle()
    *failed, succeeded = site.loads()
    assert {(load["state"], load["reason"]) for load in failed} == {("FAILED", "S3_UNAVAILABLE")}
    assert succeeded["state"] == "SUCCEEDED"
    assert site.table() == {**expected, **SECOND.rows(site.dataset)}
    assert site.version() == (2, ROWS)
