"""Every accepted query walks an index in key order: no sequential scan, no sort, whatever the filters."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from decimal import Decimal
from itertools import combinations
from typing import Any

import psycopg
import pytest

from query_service.conditions import AnyOf, query
from query_service.database import PLANNER_SETTINGS
from query_service.plan import Planner, batch_sql
from tests.integration.query.lab import Lab, readings

VALUES: dict[str, Any] = {
    "label": ["l0", "l1", "l2"],
    "grade": [0, 1],
    "score": [1.5],
    "at": [dt.datetime(2024, 5, 1, tzinfo=dt.UTC)],
    "span": [dt.timedelta(seconds=3)],
    "batch": [7],
    "digest": [b"x"],
    "due": [dt.date(2024, 5, 1), dt.date(2024, 5, 2)],
    "units": [Decimal(1)],
}
AFTER = {"site": "A", "day": dt.date(2024, 5, 1), "grade": 0, "manual": False, "serial": Decimal(500)}


EMPTY_BRANCH = re.compile(r"->  Sort\s+Disabled: true\s+Sort Key: .*\s+->  Result\s+One-Time Filter: false")


def filter_sets() -> list[tuple[str, ...]]:
    return [(), *combinations(VALUES, 1), *combinations(VALUES, 2), ("due", "grade", "label")]


def explain(session: psycopg.Connection[Any], sql: str, bound: list[Any] | None) -> str:
    """The plan for these values, or the generic one; without the branches that a filter's unused slots leave empty."""
    if bound is None:
        query = f"EXPLAIN (GENERIC_PLAN, COSTS off) {sql}"
        rows = session.execute(query.encode()).fetchall()
    else:
        rows = session.execute(f"EXPLAIN (COSTS off) {sql}".encode(), bound).fetchall()
    return EMPTY_BRANCH.sub("", "\n".join(row[0] for row in rows))


@pytest.fixture
def session(lab: Lab) -> Iterator[psycopg.Connection[Any]]:
    options = " ".join(f"-c {name}={value}" for name, value in PLANNER_SETTINGS.items())
    with psycopg.connect(lab.url, options=options, cursor_factory=psycopg.RawCursor) as connection:
        yield connection


@pytest.mark.parametrize("analyzed", [False, True])
@pytest.mark.parametrize("generic", [False, True])
async def test_every_filter_walks_an_index(
    lab: Lab, session: psycopg.Connection[Any], analyzed: bool, generic: bool
) -> None:
    if analyzed:
        await lab.insert(readings(lab, 20_000))
        await lab.execute("ANALYZE data.readings")
    planner = Planner(lab.dataset)
    for names in filter_sets():
        asked = query([AnyOf(column=lab.dataset.column(name), values=tuple(VALUES[name])) for name in names])
        position = [field.name for field in planner.position(asked)]
        for after in ((), tuple(AFTER[name] for name in position)):
            plan = planner.plan(asked, after)
            bound = [lab.dataset.name, 51, 10**6, *plan.arguments(asked, after)]
            text = explain(session, plan.page, None if generic else bound)
            assert "Seq Scan" not in text, (names, text)
            assert "->  Sort" not in text, (names, text)
            assert "Index Scan using" in text, (names, text)


async def test_a_filter_on_a_later_key_column_starts_its_scan_at_the_token(
    lab: Lab, session: psycopg.Connection[Any]
) -> None:
    asked = query([AnyOf(column=lab.dataset.column("grade"), values=(1,))])
    plan = Planner(lab.dataset).plan(asked, ("A", AFTER["day"], False, AFTER["serial"]))
    text = explain(session, plan.page, None)
    assert "(grade = $4) AND (ROW(site, day, manual, serial) > ROW(" in text


async def test_get_is_one_look_up(lab: Lab, session: psycopg.Connection[Any]) -> None:
    text = explain(session, Planner(lab.dataset).get, None)
    assert "Seq Scan" not in text
    assert " Index Scan using readings" in text


async def test_a_batch_is_one_look_up_a_key(lab: Lab, session: psycopg.Connection[Any]) -> None:
    await lab.insert(readings(lab, 5000))
    await lab.execute("ANALYZE data.readings")
    text = explain(session, batch_sql(lab.dataset), None)
    assert "Seq Scan" not in text
    (look_up,) = re.findall(r"Index Scan using readings\S+ on readings t\s+Index Cond: (.*)", text)
    assert all(f"({name} = k.{name})" in look_up for name in lab.dataset.key)
