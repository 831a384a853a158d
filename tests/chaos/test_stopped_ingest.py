"""SIGTERM in the middle of a load: what can be finished is finished, the rest goes back to the queue at once."""

from __future__ import annotations

import pytest

from tests.chaos import moments
from tests.chaos.airfields import File, named
from tests.chaos.site import Site
from tests.e2e.running_stack import eventually

FILE = File(names=named(range(1_000), "here"))


@pytest.mark.slow
def test_what_cannot_be_finished_is_handed_back_at_once(site: Site) -> None:
    # No receive is under way then: the emulator would hand the message to the one that the stop breaks off.
    settings = {"PENSTOCK_LOAD_CONCURRENCY": "1", "PENSTOCK_VISIBILITY_TIMEOUT_S": "600"}
    stopped = site.ingest(**settings, PENSTOCK_DRAIN_S="1")
    with moments.before_merge(site) as arrived:
        site.put(FILE)
        eventually(arrived)
        stopped.terminate()
        eventually(lambda: stopped.process.poll() is not None)
    assert stopped.process.poll() == 0
    assert site.states() == ["ABANDONED"]
    site.ingest(**settings)
    site.wait_idle()
    assert site.states() == ["ABANDONED", "SUCCEEDED"]
    assert site.table() == FILE.rows(site.dataset)
    assert site.version() == (1, len(FILE.names))


def test_what_can_be_finished_is_finished(site: Site) -> None:
    stopped = site.ingest(PENSTOCK_DRAIN_S="30")
    with moments.before_merge(site) as arrived:
        site.put(FILE)
        eventually(arrived)
        stopped.terminate()
        eventually(lambda: not stopped.is_serving)
    eventually(lambda: stopped.process.poll() is not None)
    assert stopped.process.poll() == 0
    assert site.states() == ["SUCCEEDED"]
    assert site.messages() == (0, 0)
