"""SQL comes from the contract alone: values are bound, identifiers quoted, few shapes serve every filter."""

from __future__ import annotations

from typing import Any

import pytest

from query_service.conditions import AnyOf, query
from query_service.plan import Planner
from query_service.positions import key_positions
from query_service.rows import unframe
from shared.contract.model import ContractSet, Dataset
from tests.integration.query.lab import frame


@pytest.fixture
def shipments(contracts: ContractSet) -> Dataset:
    return contracts.datasets["shipments"]


def state(dataset: Dataset, *values: int) -> AnyOf:
    return AnyOf(column=dataset.column("state"), values=values)


def test_values_are_bound_and_never_in_the_text(shipments: Dataset) -> None:
    asked = query([state(shipments, 11, 22, 33)])
    plan = Planner(shipments).plan(asked, ("DHL", 7))
    assert plan.arguments(asked, ("DHL", 7)) == ["DHL", 7, 11, 22, 33, None]
    assert not {"11", "22", "33", "DHL"} & set(plan.page.replace("=", " ").replace("(", " ").split())


def test_five_to_eight_values_share_one_shape(shipments: Dataset) -> None:
    planner = Planner(shipments)
    plans = {planner.plan(query([state(shipments, *range(count))])).page for count in (5, 6, 7, 8)}
    assert len(plans) == 1


def test_every_value_scans_once_and_unused_slots_match_nothing(shipments: Dataset) -> None:
    asked = query([state(shipments, 1, 2, 3)])
    plan = Planner(shipments).plan(asked)
    assert plan.page.count('"state" = $') == 4
    assert plan.page.count("UNION ALL") == 3
    assert plan.arguments(asked) == [1, 2, 3, None]


def test_a_key_column_fixed_by_a_filter_is_not_compared(shipments: Dataset) -> None:
    asked = query([AnyOf(column=shipments.column("carrier"), values=("DHL",))])
    planner = Planner(shipments)
    assert [field.name for field in planner.position(asked)] == ["number"]
    plan = planner.plan(asked, (7,))
    assert '("number") > ($5' in plan.page
    assert plan.arguments(asked, (7,)) == ["DHL", 7]


def test_a_filter_on_the_whole_key_still_ends(contracts: ContractSet) -> None:
    airports = contracts.datasets["airports"]
    asked = query([AnyOf(column=airports.column("icao"), values=("EDDF",))])
    plan = Planner(airports).plan(asked, ("EDDF",))
    assert plan.arguments(asked, ("EDDF",)) == ["EDDF", "EDDF"]


@pytest.mark.parametrize("size", [0, 100, 127, 128, 200, 20_000])
def test_a_frame_is_taken_off_whatever_its_length(contracts: ContractSet, size: int) -> None:
    airports = contracts.datasets["airports"]
    record = airports.message_class(name="x" * size)
    response: Any = next(m for m in contracts.services[0].methods if m.name == "ListAirports").output
    framed = frame(record.SerializeToString())
    assert response.fields_by_number[1].message_type.full_name == airports.message.full_name
    assert unframe(framed) == record.SerializeToString()


def test_a_key_holds_the_key_fields_only(shipments: Dataset) -> None:
    record = shipments.message_class(carrier="DHL", number=7, express=True, pieces=3)
    framed = frame(record.SerializeToString())
    positions = key_positions(shipments)
    key = positions.of(framed)
    assert shipments.message_class.FromString(key) == shipments.message_class(carrier="DHL", number=7)
    assert positions.values(key) == ("DHL", 7)


def test_bytes_that_are_no_key_are_refused(shipments: Dataset) -> None:
    with pytest.raises(ValueError, match="is not a key"):
        key_positions(shipments).values(b"\xff\xff")
