"""Watch over real merges: loads that commit while it reads, of every kind that deletes, leave no gap."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest

from query_service.settings import QueryLimits
from shared.local.postgres import EmbeddedPostgres
from tests.integration.merge import lab as merges
from tests.integration.merge.lab import Thing
from tests.integration.merge.test_unload import unload
from tests.integration.query.lab import Lab, migrated_lab, serving

SERVICE = """
import "penstock/query/v1/query.proto";
service ThingService {
  option (penstock.contract.v1.serves) = "lab.v1.Thing";
  rpc WatchReadings(WatchThingsRequest) returns (stream WatchThingsResponse);
}
message WatchThingsRequest { string resume_token = 1; optional int64 after_version = 2; }
message WatchThingsResponse {
  repeated Thing things = 1;
  repeated Thing deleted = 2;
  string resume_token = 3;
  int64 dataset_version = 4;
}
"""
LOADS = 20


@pytest.fixture(scope="module", params=["FILE_POLICY_SNAPSHOT min_rows_percent: 0", "FILE_POLICY_MIRROR"])
def lab(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Lab]:
    contract = merges.CONTRACT.replace("FILE_POLICY_MERGE", request.param) + SERVICE
    with migrated_lab(postgres, tmp_path_factory.mktemp("watch"), contract, "things") as migrated:
        yield migrated


async def change(merging: merges.Lab, count: int) -> None:
    """Loads objects with random rows; some of them are unloaded again."""
    chance = random.Random(count)
    async with merging.connect() as connection:
        for number in range(count):
            key = f"things/{number % 3}.csv"
            numbers = chance.sample(range(40), chance.randrange(1, 40))
            things = [Thing(owner="o", number=n, label=f"l{chance.randrange(3)}") for n in numbers]
            await merging.load(connection, things, merging.version_of(key))
            if chance.random() < 0.2:
                await unload(merging, connection, key)


async def test_what_a_watch_tells_while_loads_commit_adds_up_to_the_table(lab: Lab) -> None:
    merging = merges.Lab(url=lab.url, dataset=lab.dataset)
    rows: dict[tuple[str, int], Any] = {}
    async with serving(lab, limits=QueryLimits(heartbeat_s=0.1)) as client, asyncio.TaskGroup() as group:
        loading = group.create_task(change(merging, LOADS))
        watch = client.open_watch(after_version=0)
        while True:
            message = await watch.read()
            for thing in message.deleted:
                rows.pop((thing.owner, thing.number), None)
            rows |= {(thing.owner, thing.number): thing for thing in message.things}
            async with merging.connect() as connection:
                if loading.done() and message.dataset_version == (await merging.version(connection))[0]:
                    held = await merging.rows(connection)
                    break
        watch.cancel()
    assert {key: encoded(thing) for key, thing in rows.items()} == {
        key: one.wire[2:] if one.wire[1] < 128 else one.wire[3:] for key, one in held.items()
    }


def encoded(thing: Any) -> bytes:
    wire: bytes = thing.SerializeToString(deterministic=True)
    return wire
