"""Typed equality filters: each kind matches what SQL calls equal, applies when present, and never widens a query."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import timestamp_pb2

from tests.integration.query.lab import Client, Lab, refused


def timestamp(seconds: int, nanos: int = 0) -> Any:
    return timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos)


@pytest.fixture
async def filled(lab: Lab) -> list[Any]:
    day = {"site": "A", "day": "2024-05-01"}
    rows = [
        lab.reading(**day, serial=0),
        lab.reading(**day, serial=1, label="é\u2028", grade=1, score=0.0, units=2**64 - 1),
        lab.reading(**day, serial=2, grade=2, score=float("nan"), digest=b"", due="9999-12-31"),
        lab.reading(**day, serial=3, grade=7, at=as_dict(timestamp(1, 5000)), batch={"value": 0}, due="0001-01-01"),
        lab.reading(**day, serial=4, span={"seconds": -1, "nanos": -500_000_000}, digest=b"\0\xff", score=-0.0),
    ]
    await lab.insert(rows)
    return rows


def as_dict(message: Any) -> dict[str, int]:
    return {field.name: value for field, value in message.ListFields()}


@pytest.mark.parametrize(
    ("fields", "serials"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"label": ["é\u2028"]}, [1]),
        ({"label": [""]}, [0, 2, 3, 4]),
        ({"label": ["", "é\u2028", ""]}, [0, 1, 2, 3, 4]),
        ({"grade": [1, 2, 7, 1]}, [1, 2, 3]),
        ({"grade": [0]}, [0, 4]),
        ({"score": 0.0}, [1, 4]),
        ({"score": -0.0}, [1, 4]),
        ({"score": float("nan")}, [2]),
        ({"at": {"seconds": 1, "nanos": 5000}}, [3]),
        ({"at": {"seconds": 1, "nanos": 5999}}, [3]),
        ({"at": {"seconds": 2}}, []),
        ({"span": {"seconds": -1, "nanos": -500_000_000}}, [4]),
        ({"batch": {"value": 0}}, [3]),
        ({"digest": b""}, [2]),
        ({"digest": b"\0\xff"}, [4]),
        ({"due": [{"year": 9999, "month": 12, "day": 31}, {"year": 1, "month": 1, "day": 1}]}, [2, 3]),
        ({"units": [2**64 - 1]}, [1]),
        ({"units": [0], "grade": [1, 2], "label": ["", "x"]}, [2]),
        ({"grade": [2, 7], "due": [{"year": 1, "month": 1, "day": 1}, {"year": 2, "month": 1, "day": 1}]}, [3]),
    ],
)
@pytest.mark.usefixtures("filled")
async def test_a_filter_matches_what_is_equal(client: Client, fields: dict[str, Any], serials: list[int]) -> None:
    assert sorted(row.serial for row in await client.list_all(page_size=2, **fields)) == serials


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"label": ["a\0b"]}, "label"),
        ({"due": [{"year": 2023, "month": 2, "day": 29}]}, "due"),
        ({"due": [{"year": 2023}]}, "due"),
        ({"at": {"seconds": 2**60}}, "at"),
        ({"span": {"seconds": 2**62}}, "span"),
        ({"page_size": -1}, "page_size"),
        ({"at_least_version": -1}, "at_least_version"),
        ({"grade": list(range(129))}, "grade"),
    ],
)
async def test_a_value_that_no_row_can_hold_is_refused_by_name(
    client: Client, fields: dict[str, Any], field: str
) -> None:
    error = await refused(client.call("ListReadings", **fields), grpc.StatusCode.INVALID_ARGUMENT)
    assert str(error.details()).startswith(f"{field}:")


async def test_128_values_are_accepted(client: Client) -> None:
    assert await client.list_all(grade=list(range(128))) == []
