"""Snapshots in parts against a plain model of the bucket: whatever order events come in, and however often."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from ingest_service.consumer import Outcome
from ingest_service.events import EventKind
from ingest_service.sources import Source, Sources
from shared.contract.model import Dataset
from shared.local.postgres import EmbeddedPostgres
from tests.integration.ingest.rig import Rig, by_key
from tests.integration.ingest.test_handler import event, handler
from tests.integration.merge.lab import SNAPSHOT_CONTRACT, Lab, Thing, cloned, migrated_template

FOLDERS = ("things/1/", "things/2/", "things/2/deep/")
PARTS, KEYS, STEPS, ROUNDS = 3, 8, 6, 6


@pytest.fixture(scope="module")
def any_size(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Dataset]]:
    """A SNAPSHOT dataset that may shrink to nothing, so that the model need not know what was there before."""
    contract = SNAPSHOT_CONTRACT.replace("FILE_POLICY_SNAPSHOT", "FILE_POLICY_SNAPSHOT min_rows_percent: 0")
    with migrated_template(postgres, tmp_path_factory.mktemp("any-size"), contract) as template:
        yield template


@pytest.fixture
def lab(postgres: EmbeddedPostgres, any_size: tuple[str, Dataset]) -> Iterator[Lab]:
    template, dataset = any_size
    with cloned(postgres, template) as name:
        yield Lab(url=postgres.url(name), dataset=dataset)


@dataclass
class Bucket:
    """What lies in the bucket, and the events of this round, which nobody has had yet."""

    rig: Rig
    chance: random.Random
    parts: dict[str, list[Thing]] = field(default_factory=dict)
    events: list[tuple[EventKind, str, str]] = field(default_factory=list)
    marked: int = 0

    async def put(self, key: str, things: list[Thing]) -> None:
        self.parts[key] = things
        await self.rig.put(things, key)
        self._tell(EventKind.CREATED, key)

    async def delete(self, key: str) -> None:
        self.parts.pop(key, None)
        await self.rig.s3.delete_object(Bucket=self.rig.bucket, Key=key)
        self._tell(EventKind.REMOVED, key)

    async def mark(self, folder: str) -> None:
        """Written anew, with an etag of its own."""
        self.marked += 1
        await self.rig.put_text(str(self.marked), f"{folder}_SUCCESS")
        self._tell(EventKind.CREATED, f"{folder}_SUCCESS")

    async def change(self) -> None:
        key = f"{self.chance.choice(FOLDERS)}part-{self.chance.randrange(PARTS)}.csv"
        if self.chance.random() < 0.3:
            await self.delete(key)
        else:
            label = f"{len(self.events)}-{self.marked}"
            numbers = self.chance.choices(range(KEYS), k=self.chance.randrange(KEYS))
            await self.put(key, [Thing(owner="o", number=n, label=label, rank=n) for n in numbers])

    def below(self, folder: str) -> dict[tuple[str, int], Thing]:
        """The last row of every key, in the order of the parts' keys."""
        keys = sorted(key for key in self.parts if key.startswith(folder))
        return by_key(thing for key in keys for thing in self.parts[key])

    def _tell(self, kind: EventKind, key: str) -> None:
        self.events.append((kind, key, f"{len(self.events) + 1000 * (self.marked + 1):08X}"))


async def newest_marker(rig: Rig) -> str:
    """By what HEAD tells: Last-Modified in seconds, then the key."""
    listed = [one async for one in rig.store.list_prefix(rig.bucket, "things/") if one.key.endswith("/_SUCCESS")]
    return max(listed, key=lambda one: (one.last_modified.replace(microsecond=0), one.key)).key


@pytest.mark.parametrize("seed", range(4))
async def test_table_is_what_lies_under_the_newest_marker_in_whatever_order_events_come(rig: Rig, seed: int) -> None:
    source = Source(dataset="things", bucket=rig.bucket, prefix="things/", parts=True)
    rig = replace(rig, sources=Sources(sources=(source,)))
    chance = random.Random(seed)
    bucket, handle, expected = Bucket(rig=rig, chance=chance), handler(rig), dict[tuple[str, int], Thing]()
    for _ in range(ROUNDS):
        bucket.events = []
        for _ in range(STEPS):
            await bucket.change()
        marked = chance.sample(FOLDERS, chance.randint(1, len(FOLDERS)))
        for folder in marked:
            await bucket.mark(folder)
        newest = (await newest_marker(rig)).removesuffix("_SUCCESS")
        expected = bucket.below(newest) if newest in marked else expected
        coming = bucket.events + chance.sample(bucket.events, len(bucket.events) // 2)
        chance.shuffle(coming)
        for kind, key, sequencer in coming:
            assert await handle(event(rig, kind, key, sequencer)) == Outcome(terminal=True)
        assert await rig.table() == expected
