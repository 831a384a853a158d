"""A disk that fills up under the database, while rows are staged, merged, or logged: loads wait for room, rows stay."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from shared.contract.model import ContractSet
from shared.local.certificates import CertificateFiles
from shared.local.emulator import Emulator
from shared.local.postgres import EmbeddedPostgres
from shared.local.service import LocalService
from tests.chaos import moments
from tests.chaos.airfields import File, Rows, named
from tests.chaos.conftest import migrated, open_site
from tests.chaos.readers import in_order, open_readers
from tests.chaos.site import Site
from tests.chaos.small_disk import NoSmallDisk, SmallDisk, small_disk
from tests.e2e.running_stack import eventually

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
# Holds the database with both files, 45 MiB, but not the WAL of tests before.
DISK_BYTES = 256 * MIB
TABLESPACE = "small"
FIRST = File(names=named(range(20_000), "old"))
SECOND = File(names=named(range(10_000, 90_000), "new"))
THIRD = File(names=named(range(5), "newest"))
ROWS = 90_000


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server of the test's own."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("own"), durable=False) as running:
        yield running
    running.destroy()


@pytest.fixture
def disk(server: EmbeddedPostgres) -> Iterator[SmallDisk]:
    """Room for a part of the server's data; the server has stopped before the disk goes."""
    owner = server.data_directory.stat()
    with ExitStack() as parts:
        try:
            yield parts.enter_context(small_disk(DISK_BYTES, owner.st_uid, owner.st_gid))
        except NoSmallDisk as exc:
            pytest.skip(str(exc))
        finally:
            server.stop()


@pytest.fixture
def site(
    server: EmbeddedPostgres,
    disk: SmallDisk,
    emulator: Emulator,
    certificates: tuple[CertificateFiles, CertificateFiles],
    contracts: ContractSet,
    tmp_path: Path,
) -> Iterator[Site]:
    """The whole database lies on the small disk, its WAL does not."""
    template = migrated(server, contracts, tmp_path / "generated")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        created = sql.SQL("CREATE TABLESPACE {} LOCATION {}")
        connection.execute(created.format(sql.Identifier(TABLESPACE), sql.Literal(str(disk.path))))
    with open_site(server, template, emulator, certificates, contracts, tmp_path, tablespace=TABLESPACE) as site:
        yield site


def test_load_whose_stage_finds_no_room_waits_for_it(site: Site, disk: SmallDisk) -> None:
    process = site.ingest()
    expected = site.load_first(FIRST)
    disk.fill(leave_bytes=2 * MIB)
    site.put(SECOND)
    assert_waits(site, process, expected)
    disk.make_room()
    assert_goes_on(site, process, expected)


def test_load_whose_merge_finds_no_room_changes_nothing_until_there_is_some(site: Site, disk: SmallDisk) -> None:
    process = site.ingest()
    expected = site.load_first(FIRST)
    with moments.before_merge(site) as arrived:
        site.put(SECOND)
        eventually(arrived)
        disk.fill(leave_bytes=MIB)
    assert_waits(site, process, expected)
    disk.make_room()
    assert_goes_on(site, process, expected)


def test_server_that_died_for_lack_of_room_for_its_log_loses_no_row_and_no_event(
    server: EmbeddedPostgres,
    disk: SmallDisk,
    emulator: Emulator,
    certificates: tuple[CertificateFiles, CertificateFiles],
    contracts: ContractSet,
    tmp_path: Path,
) -> None:
    """WAL that cannot be written is a PANIC, and so is the recovery after it."""
    template = migrated(server, contracts, tmp_path / "generated")
    with open_site(server, template, emulator, certificates, contracts, tmp_path) as site:
        process = site.ingest()
        expected = site.load_first(FIRST)
        move_wal(server, disk)
        with moments.before_merge(site) as arrived:
            site.put(SECOND)
            eventually(arrived)
            disk.fill()
        eventually(lambda: "PANIC" in server.log_path.read_text())
        eventually(lambda: "not ready: receiving nothing" in process.process.log_path.read_text())
        eventually(lambda: server.poll() is not None)
        disk.make_room()
        server.stop()
        server.start()
        assert_goes_on(site, process, expected)


def move_wal(server: EmbeddedPostgres, disk: SmallDisk) -> None:
    """To the small disk, with a server that stops for it."""
    server.stop()
    wal = server.data_directory / "pg_wal"
    owner, moved = wal.stat(), disk.path / "pg_wal"
    shutil.copytree(wal, moved)
    for path in (moved, *moved.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    shutil.rmtree(wal)
    wal.symlink_to(moved)
    server.start()


def assert_waits(site: Site, process: LocalService, expected: Rows) -> None:
    """The load failed for what will pass, its message is in hand, and everything that was there can be read."""
    eventually(lambda: process.process.log_path.read_text().count("(DATABASE_FULL); next in"))
    assert site.messages() == (0, 1)
    assert process.is_serving
    assert site.version() == (1, len(expected))
    with open_readers(site, [site.query()], count=1) as (reader,):
        reader.read_to_the_end()
        assert reader.rows == in_order(expected)


def assert_goes_on(site: Site, process: LocalService, expected: Rows) -> None:
    """The second file was loaded once, by a load that came after those that found no room; and so is a third."""
    eventually(lambda: site.version()[0] == 2, patience_s=90)
    site.wait_idle()
    *failed, succeeded = site.loads()
    assert failed
    assert {load["state"] for load in failed} <= {"FAILED", "RUNNING"}  # RUNNING: it could not even say that
    reasons = {load["reason"] for load in failed if load["state"] == "FAILED"}
    assert reasons <= {"DATABASE_FULL", "DATABASE_RESTARTING", "DATABASE_UNREACHABLE"}
    assert (succeeded["state"], succeeded["dataset_version"]) == ("SUCCEEDED", 2)
    expected = {**expected, **SECOND.rows(site.dataset)}
    assert site.table() == expected
    assert site.version() == (2, ROWS)
    site.put(THIRD, "airports/third.csv")
    site.wait_idle()
    assert site.table() == {**expected, **THIRD.rows(site.dataset)}
    assert site.version() == (3, ROWS)
    assert process.is_serving
