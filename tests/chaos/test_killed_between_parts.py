"""kill -9 while a snapshot's parts are read and merged: what was there stays whole until all of the new is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.contract.build import load_contracts
from shared.contract.compile import PROTOS
from shared.local.certificates import CertificateFiles
from shared.local.emulator import Emulator
from shared.local.postgres import EmbeddedPostgres
from shared.local.service import LocalService
from shared.postgres.migrate import bring_up
from tests.chaos import moments
from tests.chaos.airfields import File, named
from tests.chaos.conftest import create_database, open_site
from tests.chaos.moments import LAST_CHANGED, ROWS, Arrived, Moment
from tests.chaos.site import Site, kill
from tests.e2e.running_stack import eventually

pytestmark = pytest.mark.slow

KILLS = 3
OLD = [File(names=named(range(LAST_CHANGED + 1), "old"))]
# A third of what was there goes, a third changes, and as many rows come.
NEW = [
    File(names=named(range(LAST_CHANGED // 3, LAST_CHANGED // 2), "old")),
    File(names=named(range(LAST_CHANGED // 2, LAST_CHANGED + 1), "new")),
    File(names=named(range(LAST_CHANGED + 1, ROWS), "new")),
]
MARKER = "airports/new/_SUCCESS"


@pytest.fixture
def site(
    postgres: EmbeddedPostgres,
    emulator: Emulator,
    certificates: tuple[CertificateFiles, CertificateFiles],
    tmp_path: Path,
) -> Iterator[Site]:
    """A site whose airports are a snapshot that comes in parts."""
    folder = tmp_path / "contracts" / "aviation" / "v1"
    folder.mkdir(parents=True)
    text = (PROTOS / "aviation/v1/airport.proto").read_text()
    (folder / "airport.proto").write_text(text.replace("FILE_POLICY_MERGE", "FILE_POLICY_SNAPSHOT"))
    contracts = load_contracts(tmp_path / "contracts")
    template = create_database(postgres)
    bring_up(postgres.url(template), tmp_path / "contracts", contracts, tmp_path / "generated")
    with open_site(postgres, template, emulator, certificates, contracts, tmp_path) as site:
        yield site


def ingest(site: Site) -> LocalService:
    """A process that knows how the parts come. One load at a time: see test_killed_ingest."""
    sources = site.directory / "sources.yaml"
    source = f"{{dataset: airports, bucket: {site.wiring.bucket}, prefix: airports/, parts: true}}"
    sources.write_text(f"sources: [{source}]\n")
    contracts = str(site.directory / "contracts")
    return site.ingest(
        PENSTOCK_LOAD_CONCURRENCY="1", PENSTOCK_CONTRACTS=contracts, PENSTOCK_SOURCES=str(sources), PENSTOCK_BUCKET=""
    )


def put(site: Site, folder: str, parts: list[File]) -> None:
    for number, part in enumerate(parts):
        site.put(part, f"airports/{folder}/part-{number}.csv")
    site.put(File(names={}), f"airports/{folder}/_SUCCESS")


@contextmanager
def between_parts(site: Site) -> Iterator[Arrived]:
    """Of the first part rows are staged; the second one does not come to its end."""
    with site.s3.holding("/airports/new/part-1.csv", after_bytes=200_000) as hold:
        held = moments.another(hold)
        yield lambda: moments.is_staging(site, len(NEW[0].names) // 2) and held()


@pytest.mark.parametrize("moment", [between_parts, moments.before_merge, moments.merge])
def test_killed_amid_a_snapshot_in_parts_the_next_process_loads_it_whole_and_once(site: Site, moment: Moment) -> None:
    process = ingest(site)
    put(site, "old", OLD)
    site.wait_idle()
    before = site.table()
    assert site.version() == (1, LAST_CHANGED + 1)
    with moment(site) as arrived:
        put(site, "new", NEW)
        for number in range(KILLS):
            if number:
                process = ingest(site)
            eventually(arrived)
            kill(process)
            site.age_heartbeats()
            assert site.table() == before
    ingest(site)
    site.wait_idle()
    assert site.table() == {key: row for part in NEW for key, row in part.rows(site.dataset).items()}
    assert site.version() == (2, ROWS - LAST_CHANGED // 3)
    assert site.states(MARKER) == ["ABANDONED"] * KILLS + ["SUCCEEDED"]
    (*_, load) = site.loads(MARKER)
    assert (load["parts_count"], load["rows_deleted"]) == (len(NEW), LAST_CHANGED // 3)
    assert {load["reason"] for load in site.loads("airports/new/part-1.csv")} == {"PART_OF_SNAPSHOT"}
