"""A filter's text becomes conditions on what the contract allows; what it does not is named with its place."""

from __future__ import annotations

import dataclasses

import pytest

from query_service.conditions import query
from query_service.filter.check import compile_filter
from shared.contract.model import ContractSet, Dataset
from shared.errors import InvalidRequest


@pytest.fixture(scope="module")
def shipments(contracts: ContractSet) -> Dataset:
    """With every column filterable."""
    dataset = contracts.datasets["shipments"]
    columns = tuple(dataclasses.replace(column, filterable=True) for column in dataset.columns)
    return dataclasses.replace(dataset, columns=columns)


@pytest.fixture(scope="module")
def airports(contracts: ContractSet) -> Dataset:
    return contracts.datasets["airports"]


def conditions(dataset: Dataset, text: str) -> list[str]:
    condition = compile_filter(dataset, text)
    return [] if condition is None else list(query([condition]).identity)


def refusal(dataset: Dataset, text: str) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        compile_filter(dataset, text)
    assert [violation.field for violation in caught.value.violations] == ["filter"]
    return caught.value


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" \n ", []),
        ("zone = -5", ["zone=(-5,)"]),
        ("zone<5 dock>=1", ["zone<5", "dock>=1"]),
        ("zone = 1 AND dock = 2 OR dock = 3", ["zone=(1,)", "dock=(2, 3)"]),
        ("zone = 1 dock = 2 OR pieces = 3", ["zone=(1,)", "either(dock=(2,),pieces=(3,))"]),
        ("(zone = 1 AND dock = 2) OR pieces = 3", ["either(pieces=(3,),all(zone=(1,),dock=(2,)))"]),
        ("zone = 3 OR (zone = 1 OR zone = 3)", ["zone=(1, 3)"]),
        ("NOT zone = 1", ["not(zone=(1,))"]),
        ("-(zone = 1 OR dock = 2)", ["not(either(zone=(1,),dock=(2,)))"]),
        ("zone != 1", ["not(zone=(1,))"]),
        ("express = true", ["express=(True,)"]),
        ("state = SHIPMENT_STATE_BOOKED OR state = 99", ["state=(1, 99)"]),
        ("ship_date > 2024-05-01", ["ship_date>datetime.date(2024, 5, 1)"]),
        ("note:*", ["note:*"]),
        ("NOT note:*", ["not(note:*)"]),
        ('tags:"x" OR tags:y', ["tags:('x', 'y')"]),
        ("readings_celsius:1.5", ["readings_celsius:(1.5,)"]),
        ('note = "Lon*"', ["note>='Lon'", "note<'Loo'"]),
        ('note != "Lon*"', ["not(all(note>='Lon',note<'Loo'))"]),
        ('note = "\ud7ff*"', [r"note>='\ud7ff'", r"note<'\ue000'"]),
        ('note = "\U0010ffff*"', [r"note>='\U0010ffff'"]),
        ('note = "a\U0010ffff*"', [r"note>='a\U0010ffff'", "note<'b'"]),
        (r'note = "a\"b\*"', ["note=('a\"b*',)"]),
        ("note = 'it\"s'", ["note=('it\"s',)"]),
        ("note = ANDREW", ["note=('ANDREW',)"]),
        ('note = "x\'; DROP TABLE y --"', ['note=("x\'; DROP TABLE y --",)']),
        ("number = 18446744073709551615", ["number=(Decimal('18446744073709551615'),)"]),
        ("insured_value = 2.997e9", ["insured_value=(2997000000.0,)"]),
        ("insured_value = -0.0 OR insured_value = 0", ["insured_value=(0.0,)"]),
        ("insured_value = NaN OR insured_value = NaN", ["insured_value=(nan,)"]),
        ("insured_value < Infinity", ["insured_value<inf"]),
        ("temperature_celsius = 0.1", ["temperature_celsius=(0.10000000149011612,)"]),
        ("transit_time = 1.5s", ["transit_time=(datetime.timedelta(seconds=1, microseconds=500000),)"]),
        (
            "transit_time > -0.0000019s",
            ["transit_time>datetime.timedelta(days=-1, seconds=86399, microseconds=999999)"],
        ),
        ('signature = "AP8="', [r"signature=(b'\x00\xff',)"]),
    ],
)
def test_a_filter_means(shipments: Dataset, text: str, found: list[str]) -> None:
    assert conditions(shipments, text) == found


@pytest.mark.parametrize("zone", ["Z", "z", "+00:00", "-00:00"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_timestamps_need_no_quotes(shipments: Dataset, zone: str, quote: str) -> None:
    (found,) = conditions(shipments, f"update_time >= {quote}2024-05-01T12:30:00.123456789{zone}{quote}")
    assert found == "update_time>=datetime.datetime(2024, 5, 1, 12, 30, 0, 123456, tzinfo=datetime.timezone.utc)"


def test_a_value_without_a_field_is_searched_for_in_every_searchable_field(airports: Dataset) -> None:
    assert conditions(airports, 'London OR "heath row" country=GB') == [
        "either(name~'London',name~'heath row')",
        "country=('GB',)",
    ]
    assert conditions(airports, "name:lond") == ["name~'lond'"]


@pytest.mark.parametrize(
    ("text", "reason", "description"),
    [
        ("zone =", "FILTER_SYNTAX", "column 7, at its end: expected a string, a value"),
        ("zone = 1 OR", "FILTER_SYNTAX", "column 12, at its end: expected '('"),
        ("= 1", "FILTER_SYNTAX", "column 1, at =: expected '('"),
        ("zone == 1", "FILTER_SYNTAX", "column 7, at =: expected"),
        ('note = "x', "FILTER_SYNTAX", 'column 8, at "x: the string is not closed'),
        ("(zone = 1", "FILTER_SYNTAX", "column 10, at its end: expected ')'"),
        ("zone = 1)", "FILTER_SYNTAX", "column 9, at ): expected"),
        ("AND zone = 1", "FILTER_SYNTAX", "column 1, at AND: expected"),
        ("zone = (1 OR 2)", "FILTER_SYNTAX", "column 8, at (1: expected"),
        ("nope = 1", "FILTER_FIELD", "column 1, at nope: samples.v1.Shipment has no such field; allowed are"),
        ("zone = 1 sender.city = X", "FILTER_FIELD", "column 10, at sender.city: sender.city is nested"),
        ("parcels:x", "FILTER_FIELD", "field parcels is not filterable"),
        ("London", "FILTER_FIELD", "a value needs a field before it, for no field is searchable"),
        ("tags = x", "FILTER_OPERATOR", "column 6, at =: the repeated field tags takes ':' only"),
        ("zone:5", "FILTER_OPERATOR", "column 5, at :: zone is neither repeated nor searchable: use ="),
        ("state < 1", "FILTER_OPERATOR", "column 7, at <: state is of type enum, which takes = and !="),
        ("state = BOOKED", "FILTER_VALUE", "expected one of SHIPMENT_STATE_UNSPECIFIED, SHIPMENT_STATE_BOOKED"),
        ("zone = 2147483648", "FILTER_VALUE", "column 8, at 2147483648: lies outside the range of int32"),
        ("zone = 1.5", "FILTER_VALUE", "expected a whole number"),
        ("zone = ١", "FILTER_VALUE", "expected a whole number"),
        ("number = -1", "FILTER_VALUE", "lies outside the range of uint64"),
        ("insured_value = 1e999", "FILTER_VALUE", "lies outside the range of double"),
        ("temperature_celsius = 1e39", "FILTER_VALUE", "lies outside the range of float"),
        ("insured_value = 0x10", "FILTER_VALUE", "expected a number"),
        ("express = TRUE", "FILTER_VALUE", "expected true or false"),
        ("ship_date = 2023-02-29", "FILTER_VALUE", "expected a calendar date"),
        ("update_time > 2024-05-01T25:00:00Z", "FILTER_VALUE", "is no time of the years"),
        ("update_time > 0001-01-01T00:00:00+01:00", "FILTER_VALUE", "is no time of the years"),
        ("update_time > 2024-05-01T12:00:00", "FILTER_SYNTAX", "at :00:00: expected"),
        ('update_time > "2024-05-01T12:00:00"', "FILTER_VALUE", "expected a timestamp of RFC 3339"),
        ("transit_time = 5", "FILTER_VALUE", "expected seconds, such as 90s"),
        ('signature = "%"', "FILTER_VALUE", "expected base64"),
        ('note = "*a"', "FILTER_VALUE", "'*' stands for any ending and only at the end"),
        ('note = "*"', "FILTER_VALUE", "'*' goes with = and != after at least one character"),
        ('note < "a*"', "FILTER_VALUE", "'*' goes with = and !="),
        (r'note = "a\n"', "FILTER_VALUE", "a backslash stands before a quote"),
        ('note = "a\0"', "FILTER_VALUE", "holds a NUL character"),
        ('note = "\ud800"', "FILTER_VALUE", "holds half of a surrogate pair"),
        ("(" * 40 + "-" + "(-" * 20 + "zone=1" + ")" * 60, "FILTER_TOO_COMPLEX", "more than 16 levels deep"),
        (" ".join(["zone=1"] * 129), "FILTER_TOO_COMPLEX", "has more than 128 tests"),
        ("zone = 1" + " " * 8192, "FILTER_TOO_COMPLEX", "at most 8192 are accepted"),
    ],
)
def test_what_is_not_allowed_is_named_with_its_place(
    shipments: Dataset, text: str, reason: str, description: str
) -> None:
    error = refusal(shipments, text)
    assert error.reason == reason
    assert description in error.violations[0].description


def test_a_searchable_field_takes_long_enough_texts_only(airports: Dataset) -> None:
    assert "at least 3 characters" in str(refusal(airports, "name:ab"))
    assert refusal(airports, 'name = "London"').reason == "FILTER_OPERATOR"


def test_a_field_that_is_not_filterable_is_refused_with_those_that_are(contracts: ContractSet) -> None:
    error = refusal(contracts.datasets["airports"], "city = London")
    assert error.reason == "FILTER_FIELD"
    assert "field city is not filterable; allowed are" in str(error)


def test_a_long_word_is_shown_in_part(shipments: Dataset) -> None:
    assert len(str(refusal(shipments, "x" * 5000 + " = 1"))) < 700
