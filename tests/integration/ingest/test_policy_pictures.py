"""The pictures of the file policies in the README: every line is done as it says, and the table is as it shows."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from ingest_service.events import EventKind
from ingest_service.handler import EventHandler
from ingest_service.ledger.records import LoadState, LoadTrigger
from ingest_service.routing import ObjectUri
from ingest_service.unload import Unloader
from shared.contract.model import Dataset
from shared.local.postgres import EmbeddedPostgres
from tests.integration.ingest.rig import Rig
from tests.integration.ingest.test_handler import event, handler
from tests.integration.merge.conftest import mirror_template, snapshot_template
from tests.integration.merge.lab import Lab, Thing, cloned

__all__ = ["mirror_template", "snapshot_template"]

README = Path(__file__).resolve().parents[3] / "README.md"
# " tue.csv arrives  B=2 C=2  ──▶  B=2 tue  C=2 tue  remark": what happens, the file's rows, the table, why.
LINE = re.compile(
    r"^ (?P<action>\S.*?)\s{2,}(?P<rows>(?:\w=\d ?)*)\s*──▶(?P<table>(?:   \w=\d \w+)*)(?:   +(?P<why>.*))?$"
)
FILE = re.compile(r"\w+\.csv")
ROW = re.compile(r"(\w)=(\d)")
SHOWN = re.compile(r"(\w)=(\d) (\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of a picture; `table` maps a row's key to its value and the object it came from."""

    action: str
    rows: tuple[Thing, ...]
    table: dict[str, tuple[str, str]]
    why: str


def picture(policy: str) -> Sequence[Step]:
    block = README.read_text().split(f"\n**{policy}**:")[1].split("```")[1].strip("\n").splitlines()
    matches = [LINE.match(line) for line in block]
    assert all(matches), [line for line, match in zip(block, matches, strict=True) if match is None]
    return [_step(match) for match in matches if match]


def _step(match: re.Match[str]) -> Step:
    return Step(
        action=match["action"],
        rows=tuple(Thing(owner=key, number=0, label=value) for key, value in ROW.findall(match["rows"])),
        table={key: (value, source) for key, value, source in SHOWN.findall(match["table"])},
        why=match["why"] or "",
    )


@pytest.fixture(params=["MERGE", "SNAPSHOT", "MIRROR"])
def policy(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def lab(postgres: EmbeddedPostgres, policy: str, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The rig's dataset here: one of the policy."""
    fixture = {"MERGE": "lab_template", "SNAPSHOT": "snapshot_template", "MIRROR": "mirror_template"}[policy]
    template: tuple[str, Dataset] = request.getfixturevalue(fixture)
    with cloned(postgres, template[0]) as name:
        yield Lab(url=postgres.url(name), dataset=template[1])


async def test_every_line_of_the_picture_is_so(rig: Rig, policy: str) -> None:
    steps = picture(policy)
    assert len(steps) >= 4
    handle = handler(rig)
    for number, step in enumerate(steps):
        key = "things/" + FILE.findall(step.action)[0]
        await _act(rig, handle, step, key, sequencer=f"{number:02}")
        assert await shown(rig) == step.table, step.action
        if said := re.match(r"[A-Z_]{2,}", step.why):
            last = (await rig.ledger(key))[-1]
            assert said[0] in (last.state.value, last.reason), step.action


async def _act(rig: Rig, handle: EventHandler, step: Step, key: str, sequencer: str) -> None:
    """Does what the line says; an action it does not know fails the test."""
    match FILE.sub("X", step.action):
        case "X arrives" | "X is overwritten" | "X, cut off":
            await rig.put(step.rows, key)
            assert (await handle(event(rig, key=key, sequencer=sequencer))).terminal
        case "X's event, late":
            assert (await handle(event(rig, key=key, sequencer=sequencer))).terminal
        case "X is removed":
            await rig.s3.delete_object(Bucket=rig.bucket, Key=key)
            assert (await handle(event(rig, EventKind.REMOVED, key, sequencer))).terminal
        case "Unload(X)":
            uri = ObjectUri(bucket=rig.bucket, key=key)
            load = await Unloader(pool=rig.pool, owner="here").unload(rig.lab.dataset, uri)
            assert load.state is LoadState.SUCCEEDED
        case "Populate(X, force)":
            job = rig.job(key, LoadTrigger.POPULATE, force=True, request_id=uuid.uuid4())
            assert (await rig.loader().load(job)).state is LoadState.SUCCEEDED
        case unknown:
            pytest.fail(f"no such action: {unknown}")


async def shown(rig: Rig) -> dict[str, tuple[str, str]]:
    """Every row: its value and the name of its object, without the suffix."""
    async with rig.lab.connect() as connection:
        keys = {row["id"]: row["key"] for row in await connection.fetch("SELECT id, key FROM penstock.objects")}
        rows = await rig.lab.rows(connection)
    return {owner: (held.thing.label, Path(keys[held.object_id]).stem) for (owner, _), held in rows.items()}
