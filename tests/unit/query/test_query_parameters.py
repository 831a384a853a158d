"""Requests become parameters; what cannot be served is refused by name."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from protovalidate import Validator

from query_service.conditions import AnyOf
from query_service.parameters import get_parameters, given_token, query_parameters
from query_service.request import check_request
from shared.contract.model import ContractSet, Method
from shared.errors import InvalidRequest


def method(contracts: ContractSet, name: str) -> Method:
    return next(m for service in contracts.services for m in service.methods if m.name == name)


def filters(contracts: ContractSet, name: str, **fields: Any) -> dict[str, tuple[Any, ...]]:
    bound = method(contracts, name)
    found = query_parameters(bound, contracts.datasets["airports"], bound.input_class(**fields)).query.leaves
    return {item.column.name: item.values for item in found if isinstance(item, AnyOf)}


@pytest.mark.parametrize(("asked", "served"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
def test_page_size_has_a_default_and_a_limit(contracts: ContractSet, asked: int, served: int) -> None:
    bound = method(contracts, "ListAirports")
    assert (
        query_parameters(bound, contracts.datasets["airports"], bound.input_class(page_size=asked)).page_size == served
    )


def test_a_negative_page_size_is_refused(contracts: ContractSet) -> None:
    bound = method(contracts, "ListAirports")
    with pytest.raises(InvalidRequest) as caught:
        query_parameters(bound, contracts.datasets["airports"], bound.input_class(page_size=-1))
    assert [v.field for v in caught.value.violations] == ["page_size"]


def test_filters_apply_only_when_given(contracts: ContractSet) -> None:
    assert filters(contracts, "ListAirports") == {}
    assert filters(contracts, "ListAirports", iata="") == {}
    assert filters(contracts, "ListAirports", iata="FRA", country=["DE"]) == {"country": ("DE",), "iata": ("FRA",)}
    assert filters(contracts, "ListShipments", express=False) == {"express": (False,)}
    assert filters(contracts, "ListShipments", ship_date={"year": 2024, "month": 5, "day": 1}) == {
        "ship_date": (dt.date(2024, 5, 1),)
    }


def test_values_of_an_any_of_filter_are_sorted_and_distinct(contracts: ContractSet) -> None:
    assert filters(contracts, "ListAirports", country=["FR", "DE", "FR", ""]) == {"country": ("", "DE", "FR")}
    assert filters(contracts, "ListShipments", state=[3, 1, 3, 99]) == {"state": (1, 3, 99)}


def test_typed_filters_and_a_filter_are_one_tree(contracts: ContractSet) -> None:
    bound = method(contracts, "ListAirports")
    asked = bound.input_class(country=["DE"], filter="iata = FRA AND name:frank", order_by="elevation_ft desc")
    found = query_parameters(bound, contracts.datasets["airports"], asked).query
    assert found.identity == ("country=('DE',)", "iata=('FRA',)", "name~'frank'", "order by elevation_ft True")


def test_resume_tokens_may_be_bytes_or_text(contracts: ContractSet) -> None:
    text, binary = method(contracts, "StreamAirports"), method(contracts, "StreamShipments")
    assert given_token(text, text.input_class(resume_token="abc")) == "abc"
    assert given_token(binary, binary.input_class(resume_token=b"abc")) == "abc"


def test_a_key_is_converted_in_keyset_order(contracts: ContractSet) -> None:
    bound = method(contracts, "GetShipment")
    columns = contracts.datasets["shipments"].key_columns
    found = get_parameters(bound, columns, bound.input_class(carrier="DHL", number=2**64 - 1))
    assert found.key == ("DHL", Decimal(2**64 - 1))
    assert isinstance(found.key[1], Decimal)


def test_rules_of_a_request_name_its_fields(contracts: ContractSet) -> None:
    bound = method(contracts, "GetAirport")
    with pytest.raises(InvalidRequest) as caught:
        check_request(bound, bound.input_class(), Validator())
    assert [(v.field, "string.min_len" in v.description) for v in caught.value.violations] == [("icao", True)]
    assert caught.value.reason == "VALIDATION_FAILED"


def test_unknown_fields_are_refused_by_number(contracts: ContractSet) -> None:
    bound = method(contracts, "ListAirports")
    with pytest.raises(InvalidRequest) as caught:
        check_request(bound, bound.input_class.FromString(b"\xf8\x07\x01\x92\x3f\x00"), Validator())
    assert [v.field for v in caught.value.violations] == ["127", "1010"]
