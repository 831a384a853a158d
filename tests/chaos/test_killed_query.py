"""Query processes that are killed or stopped while clients stream: they go on at another one, row by row."""

from __future__ import annotations

import pytest

from tests.chaos.airfields import File, Rows, named
from tests.chaos.readers import Reader, in_order, open_readers
from tests.chaos.site import Site, kill

pytestmark = pytest.mark.slow

READERS = 4
ROWS = 90_000
FIRST = File(names=named(range(0, 2 * ROWS, 2), "old"))
SECOND = File(names=named(range(1, 2 * ROWS, 3), "new"))


@pytest.fixture
def rows(site: Site) -> Rows:
    site.ingest()
    return site.load_first(FIRST)


def test_streams_of_killed_processes_go_on_at_another_one(site: Site, rows: Rows) -> None:
    processes = [site.query() for _ in range(3)]
    with open_readers(site, processes, READERS) as readers:
        for reader in readers:
            reader.read_on()
        for kills, process in enumerate(processes[:-1], 1):
            kill(process)
            for reader in readers:
                reader.read_until_cut(kills)
        for reader in readers:
            reader.read_to_the_end()
    for reader in readers:
        assert reader.rows == in_order(rows)
        assert len(reader.cuts) == 2
        assert_complete(reader, version=1)


def test_streams_of_a_stopped_process_go_on_at_another_one(site: Site, rows: Rows) -> None:
    processes = [site.query(PENSTOCK_DRAIN_S="0.5"), site.query()]
    with open_readers(site, processes, READERS) as readers:
        for reader in readers:
            reader.read_on()
        processes[0].stop()
        for reader in readers:
            reader.read_to_the_end()
    for reader in readers:
        assert reader.rows == in_order(rows)
        assert len(reader.cuts) == 1
        assert_complete(reader, version=1)


def test_resumed_stream_says_that_a_load_was_committed_and_goes_on_in_the_new_rows(site: Site, rows: Rows) -> None:
    processes = [site.query(), site.query()]
    with open_readers(site, processes, READERS) as readers:
        for reader in readers:
            reader.read_on()
        site.put(SECOND)
        site.wait_idle()
        kill(processes[0])
        for reader in readers:
            reader.read_to_the_end()
    before, after = in_order(rows), in_order({**rows, **SECOND.rows(site.dataset)})
    for reader in readers:
        (cut,) = reader.cuts
        last_key = before[cut - 1][0]
        assert reader.rows == before[:cut] + [row for row in after if row[0] > last_key]
        assert [status.snapshot_changed for status in reader.statuses] == [False, True, False]
        assert_complete(reader, version=2)


def test_stream_outlives_a_restart_of_the_database(stoppable_site: Site) -> None:
    site = stoppable_site
    site.ingest()
    rows = site.load_first(FIRST)
    with open_readers(site, [site.query()], READERS) as readers:
        for reader in readers:
            reader.read_on()
        site.server.stop()
        site.server.start()
        for reader in readers:
            reader.read_to_the_end()
    for reader in readers:
        assert reader.rows == in_order(rows)
        assert reader.cuts
        assert_complete(reader, version=1)


def assert_complete(reader: Reader, version: int) -> None:
    last = reader.statuses[-1]
    assert last.end_reason == 1  # END_REASON_COMPLETE
    assert last.version == version
