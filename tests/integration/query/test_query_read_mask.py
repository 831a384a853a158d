"""read_mask on every method that reads rows: the fields that are named, and tokens that hold all the same."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from query_service.masks import MOST_PATHS
from tests.integration.query.lab import Client, Lab, details, readings, refused

MASK = {"paths": ["label", "day.year"]}


def masked(lab: Lab, row: Any) -> Any:
    day = type(row.day)(year=row.day.year)
    return lab.dataset.message_class(label=row.label, day=day)


async def test_get_list_and_batch_get_answer_the_named_fields_only(lab: Lab, client: Client) -> None:
    rows = readings(lab, 5, payload=b"x" * 300)
    await lab.insert(rows)
    key = {name: getattr(rows[1], name) for name in lab.dataset.key}
    assert await client.call("GetReading", read_mask=MASK, **key) == masked(lab, rows[1])
    assert await client.list_all(page_size=2, read_mask=MASK) == [masked(lab, row) for row in rows]
    batch = await client.call("BatchGetReadings", requests=[key, {**key, "serial": 99}], read_mask=MASK)
    assert list(batch.readings) == [masked(lab, rows[1])]
    assert [item.serial for item in batch.missing] == [99]


async def test_a_masked_stream_resumes_exactly(lab: Lab, client: Client) -> None:
    rows = readings(lab, 5000, payload=b"x" * 50)
    await lab.insert(rows)
    whole = await client.stream(read_mask=MASK)
    resumed = await client.stream(read_mask=MASK, resume_token=whole[1].resume_token)
    got = [record for message in [*whole[:2], *resumed] for record in message.readings]
    assert got == [masked(lab, row) for row in rows]


@pytest.mark.parametrize("paths", [[], ["*"], ["label", "*"]])
async def test_no_path_and_the_star_mean_all_fields(lab: Lab, client: Client, paths: list[str]) -> None:
    rows = readings(lab, 2)
    await lab.insert(rows)
    assert await client.list_all(read_mask={"paths": paths}) == rows


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("colour", "'colour': lab.v1.Reading has no field 'colour'; it has site, day"),
        ("day.hour", "'day.hour': google.type.Date has no field 'hour'"),
        ("label.length", "'label.length': 'label' is no message"),
        ("", "has no field ''"),
        ("day..year", "has no field ''"),
        ("*.label", "has no field '*'"),
    ],
)
async def test_a_path_that_leads_nowhere_is_refused_by_name(client: Client, path: str, reason: str) -> None:
    call = client.call("ListReadings", read_mask={"paths": ["label", path]})
    (violation,) = details(await refused(call, grpc.StatusCode.INVALID_ARGUMENT), "BadRequest")[0].field_violations
    assert violation.field == "read_mask"
    assert reason in violation.description


async def test_a_mask_of_too_many_paths_is_refused(client: Client) -> None:
    call = client.call("ListReadings", read_mask={"paths": ["label"] * (MOST_PATHS + 1)})
    await refused(call, grpc.StatusCode.INVALID_ARGUMENT)
