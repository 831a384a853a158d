"""Any sequence of what happens to buckets, events, processes and database leaves the tables as a plain model has them.

Three datasets, one for each file policy, are fed from the same two buckets by real processes through the real queue.
`SEQUENCES` sets how many sequences are run (`make soak`: 10,000), `SEED` the first one's seed: a failure names its own.
"""

from __future__ import annotations

import os
import queue
import random
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shared.contract.build import load_contracts
from shared.contract.model import ContractSet
from shared.local.certificates import CertificateFiles
from shared.local.emulator import Emulator
from tests.chaos.conftest import migrated, open_site, stoppable_postgres
from tests.chaos.lane import open_lane
from tests.chaos.site import Site
from tests.chaos.steps import Script, script
from tests.integration.merge.lab import CONTRACT

SEQUENCES = int(os.environ.get("SEQUENCES") or 200)
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(2**32))
# Most of a sequence with a fault is waiting: for what was received to be visible again, for a process to start.
LANES = 6
SEQUENCES_A_SITE = 25
TOLD_EVERY = 100
POLICIES = {"merged": "MERGE", "snapshots": "SNAPSHOT min_rows_percent: 0", "mirrored": "MIRROR"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contracts of the three datasets."""
    folder = tmp_path_factory.mktemp("contracts")
    for name, policy in POLICIES.items():
        text = CONTRACT.replace("lab.v1", f"{name}.v1").replace('"things"', f'"{name}"')
        (folder / f"{name}.proto").write_text(text.replace("FILE_POLICY_MERGE", f"FILE_POLICY_{policy}"))
    return folder


@dataclass(kw_only=True)
class Soak:
    """What the lanes share: the seeds that are left, and the first failure, which ends them all."""

    folder: Path
    emulator: Emulator
    certificates: tuple[CertificateFiles, CertificateFiles]
    seeds: queue.SimpleQueue[int]
    done: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def run_lane(self, directory: Path) -> None:
        """Runs sequences until there are none left, a fresh site every now and then."""
        try:
            contracts = load_contracts(self.folder)
            with stoppable_postgres(directory) as server:
                template = migrated(server, contracts, directory / "generated", self.folder)
                while not self.seeds.empty() and not self.failures:
                    place = directory / f"site-{len(self.done)}"
                    with open_site(server, template, self.emulator, self.certificates, contracts, place) as site:
                        self._run_some(site, contracts, place)
        except Exception:  # noqa: BLE001 - told by the test, when the other lanes have ended
            self.failures.append(traceback.format_exc())

    def _run_some(self, site: Site, contracts: ContractSet, directory: Path) -> None:
        with open_lane(site, contracts, directory) as lane:
            for _ in range(SEQUENCES_A_SITE):
                if self.failures or (sequence := self._next()) is None:
                    return
                try:
                    lane.run(sequence)
                except Exception as exc:
                    site.say_ends()
                    hint = f"run it again with SEED={sequence.seed} SEQUENCES=1"
                    raise AssertionError(f"{sequence}\n{hint}") from exc
                self.done.append(sequence.seed)
                if len(self.done) % TOLD_EVERY == 0:
                    print(f"{len(self.done)} of {SEQUENCES} sequences from seed {SEED} on", flush=True)

    def _next(self) -> Script | None:
        with suppress(queue.Empty):
            return script(self.seeds.get_nowait())
        return None


@pytest.mark.slow
@pytest.mark.timeout(120 + 6 * SEQUENCES)
def test_tables_equal_a_model_of_the_buckets_whatever_happens_in_whatever_order(
    folder: Path, emulator: Emulator, certificates: tuple[CertificateFiles, CertificateFiles], tmp_path: Path
) -> None:
    seeds: queue.SimpleQueue[int] = queue.SimpleQueue()
    for seed in range(SEED, SEED + SEQUENCES):
        seeds.put(seed)
    soak = Soak(folder=folder, emulator=emulator, certificates=certificates, seeds=seeds)
    places = [tmp_path / f"lane-{number}" for number in range(min(LANES, SEQUENCES))]
    lanes = [threading.Thread(target=soak.run_lane, args=[place]) for place in places]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    if soak.failures:
        pytest.fail(soak.failures[0], pytrace=False)
    assert len(soak.done) == SEQUENCES
