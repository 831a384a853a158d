"""Count: exact as far as it may look, an estimate beyond, and the answer says which."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from query_service import count
from query_service.conditions import query
from query_service.filter.check import compile_filter
from query_service.plan import Planner
from tests.integration.query.lab import Client, Lab, readings, reasons, refused


@pytest.fixture
async def filled(lab: Lab) -> list[Any]:
    rows = readings(lab, 300)
    await lab.insert(rows, version=7)
    await lab.execute("UPDATE penstock.datasets SET row_count = 300 WHERE name = 'readings'")
    await lab.execute("ANALYZE data.readings")
    return rows


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        ({}, 300),
        ({"label": "l1"}, 100),
        ({"filter": "serial < 30"}, 30),
        ({"filter": "serial < 30", "label": "l1"}, 10),
        ({"filter": "label = l0 OR label = l2"}, 200),
        ({"filter": "NOT score:*"}, 300),
        ({"filter": "label = nowhere"}, 0),
    ],
)
async def test_a_count_is_exact_and_names_its_version(client: Client, asked: dict[str, Any], rows: int) -> None:
    counted = await client.call("CountReadings", **asked)
    assert (counted.count, counted.estimated, counted.dataset_version) == (rows, False, 7)


@pytest.mark.usefixtures("filled")
async def test_beyond_the_limit_a_count_is_estimated(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "MOST_COUNTED", 99)
    counted = await client.call("CountReadings", label="l1")
    assert (counted.count, counted.estimated) == (100, True)
    monkeypatch.setattr(count, "MOST_COUNTED", 100)
    assert not (await client.call("CountReadings", label="l1")).estimated


@pytest.mark.usefixtures("filled")
async def test_all_rows_are_counted_without_looking_at_them(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "MOST_COUNTED", 1)
    counted = await client.call("CountReadings")
    assert (counted.count, counted.estimated) == (300, False)


async def test_a_bad_filter_of_a_count_is_refused(client: Client) -> None:
    error = await refused(client.call("CountReadings", filter="nope = 1"), grpc.StatusCode.INVALID_ARGUMENT)
    assert reasons(error) == ["FILTER_FIELD"]


async def test_a_count_walks_the_index_that_is_narrowed_most(lab: Lab) -> None:
    asked = query([compile_filter(lab.dataset, "due > 2024-05-01 AND manual = true")])  # type: ignore[list-item]
    sql = Planner(lab.dataset).count(asked).exact
    assert 'FROM "data"."readings" WHERE "due" > $' in sql
    assert 'FILTER (WHERE "manual" = $' in sql
    assert "_wire" not in sql
