"""Two ingest processes on one queue: events that come more than once, at once, or to a process that ends."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.chaos import moments
from tests.chaos.airfields import File, named
from tests.chaos.site import VISIBILITY_TIMEOUT_S, Site, kill
from tests.e2e.running_stack import eventually

pytestmark = pytest.mark.slow

# More than one process holds at once (ConsumerConfig.in_flight_limit): a process that polls first could have them all.
COPIES = 45
FILES = 8
EACH = 500


def numbered(number: int, shared: Sequence[int] = ()) -> File:
    """Airports that no other file has, and those that all have."""
    own = range(1 + number * EACH, 1 + (number + 1) * EACH)
    return File(names=named([*shared, *own], f"file {number}"))


def owners_waiting_to_merge(site: Site) -> int:
    """How many processes have loads that wait for their turn to merge: of each all that it runs, behind the one that
    waits for the dataset."""
    backends = site.ask(
        "SELECT count(*) AS waiting FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND query LIKE %s",
        "%FROM penstock.datasets%FOR UPDATE%",
    )
    running = site.ask(
        "SELECT owner, bool_and(phase = 'MERGING') AS merging FROM penstock.loads"
        " WHERE state = 'RUNNING' GROUP BY owner"
    )
    return len(running) if backends[0]["waiting"] == len(running) and all(row["merging"] for row in running) else 0


def test_one_event_delivered_many_times_at_once_is_applied_once(site: Site) -> None:
    file = File(names=named(range(EACH), "here"))
    site.put(file)
    event = site.take_event()
    with moments.before_merge(site):
        for _ in range(2):
            site.ingest()
        site.send([event] * COPIES)
        eventually(lambda: owners_waiting_to_merge(site) == 2)
    site.wait_idle()
    assert site.table() == file.rows(site.dataset)
    assert site.version() == (1, EACH)
    assert sorted(site.states()) == ["ALREADY_APPLIED"] * (COPIES - 1) + ["SUCCEEDED"]
    assert {load["dataset_version"] for load in site.loads()} == {1}


def test_files_of_one_dataset_loaded_at_once_commit_one_after_the_other(site: Site) -> None:
    files = {f"airports/{number}.csv": numbered(number, shared=[0]) for number in range(FILES)}
    with moments.before_merge(site):
        for _ in range(2):
            site.ingest()
        for key, file in files.items():
            site.put(file, key)
        eventually(lambda: owners_waiting_to_merge(site) == 2)
    site.wait_idle()
    assert all(site.states(key) == ["SUCCEEDED"] for key in files)
    in_order = sorted(files, key=lambda key: site.loads(key)[0]["dataset_version"])
    assert [site.loads(key)[0]["dataset_version"] for key in in_order] == list(range(1, FILES + 1))
    assert site.table() == {key: row for one in in_order for key, row in files[one].rows(site.dataset).items()}
    assert site.version() == (FILES, 1 + FILES * EACH)


def test_killed_process_leaves_its_events_to_the_one_beside_it(site: Site) -> None:
    files = {f"airports/{number}.csv": numbered(number) for number in range(FILES)}
    with moments.before_merge(site):
        killed, _ = site.ingest(), site.ingest()
        for key, file in files.items():
            site.put(file, key)
        eventually(lambda: owners_waiting_to_merge(site) == 2)
        kill(killed)
    eventually(lambda: site.version()[0] == FILES, patience_s=12 * VISIBILITY_TIMEOUT_S)
    site.wait_idle()
    assert site.table() == {key: row for file in files.values() for key, row in file.rows(site.dataset).items()}
    assert site.version() == (FILES, FILES * EACH)
    site.age_heartbeats()
    site.ingest()  # sweeps at its start what the killed one has left
    eventually(lambda: not site.ask("SELECT FROM penstock.loads WHERE state = 'RUNNING'"))
    for key in files:
        assert [state for state in site.states(key) if state != "ABANDONED"] == ["SUCCEEDED"]
