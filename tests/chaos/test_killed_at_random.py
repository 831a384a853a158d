"""kill -9 of the ingest process at a hundred moments that nobody chose, while files come and are overwritten."""

from __future__ import annotations

import random
import time

import pytest

from shared.postgres import roles
from tests.chaos.airfields import File, named
from tests.chaos.site import Site, kill
from tests.e2e.running_stack import eventually

KILLS = 100
OBJECTS = 6
ROWS = 3_000
# A process serves after about a second and loads a file in a fifth of one.
LONGEST_LIFE_S = 2.5
_SUCCEEDED = "SELECT count(*) AS count FROM penstock.loads WHERE state = 'SUCCEEDED'"
_APPLIED = "SELECT key, dataset_version FROM penstock.objects ORDER BY key"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_random_moments_every_object_ends_as_its_last_version_and_every_version_is_one_load(
    site: Site,
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    newest: dict[int, File] = {}

    def put(number: int, generation: int) -> None:
        first = number * ROWS
        newest[number] = File(names=named(range(first, first + ROWS), f"generation {generation}"))
        site.put(newest[number], f"airports/{number}.csv")

    for number in range(OBJECTS):
        put(number, 0)
    for generation in range(1, KILLS + 1):
        process = site.launch("ingest_service", roles.INGEST, {})
        time.sleep(chance.uniform(0.0, LONGEST_LIFE_S))  # the moment is what this test leaves to chance
        if generation % 3 == 0:
            put(chance.randrange(OBJECTS), generation)
        kill(process)
    site.ingest()
    site.wait_idle()
    expected = {key: row for file in newest.values() for key, row in file.rows(site.dataset).items()}
    assert site.table() == expected
    assert site.version() == (site.ask(_SUCCEEDED)[0]["count"], OBJECTS * ROWS)
    applied = site.ask(_APPLIED)
    assert [row["key"] for row in applied] == [f"airports/{number}.csv" for number in range(OBJECTS)]
    assert len({row["dataset_version"] for row in applied}) == OBJECTS
    eventually(lambda: site.messages(dead=True) == (0, 0))
