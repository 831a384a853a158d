"""BatchGet against a real Postgres and a real gRPC server: every key answered, in order, or the whole refused."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from query_service.pages import PAGE_BYTES
from query_service.request import LARGEST_BATCH
from tests.integration.query.lab import Client, Lab, details, readings, reasons, refused

KEY = ("site", "day", "grade", "manual", "serial")


def keys(records: list[Any]) -> list[dict[str, Any]]:
    return [{name: getattr(record, name) for name in KEY} for record in records]


async def test_rows_come_in_the_order_asked_for_and_as_often(lab: Lab, client: Client) -> None:
    rows = readings(lab, 5)
    await lab.insert(rows)
    asked = [rows[3], rows[0], rows[3], rows[4]]
    answer = await client.call("BatchGetReadings", requests=keys(asked))
    assert list(answer.readings) == asked
    assert (len(answer.missing), answer.dataset_version) == (0, 1)


async def test_every_kind_of_key_is_found(lab: Lab, client: Client) -> None:
    rows = [
        lab.reading(site="é\U00010000", day="0001-01-01", grade=-5, manual=True, serial=2**64 - 1),
        lab.reading(site="", day="9999-12-31", grade=2**31 - 1, manual=False, serial=0, payload=b"x" * 5000),
    ]
    await lab.insert(rows)
    answer = await client.call("BatchGetReadings", requests=keys(rows[::-1]))
    assert list(answer.readings) == rows[::-1]


async def test_missing_keys_are_told_in_the_order_asked_for(lab: Lab, client: Client) -> None:
    rows = readings(lab, 4)
    await lab.insert(rows[1:3])
    asked = keys([rows[3], rows[1], rows[0], rows[2], rows[0]])
    answer = await client.call("BatchGetReadings", requests=asked)
    assert list(answer.readings) == rows[1:3]
    assert [item.serial for item in answer.missing] == [3, 0, 0]
    assert answer.missing[0] == lab.request("GetReading", **asked[0])


async def test_without_a_field_for_missing_keys_the_call_fails_and_names_them(lab: Lab, client: Client) -> None:
    rows = readings(lab, 3)
    await lab.insert(rows[:1])
    answer = await client.call("BatchGetAllReadings", requests=keys(rows[:1]))
    assert list(answer.readings) == rows[:1]
    error = await refused(client.call("BatchGetAllReadings", requests=keys(rows)), grpc.StatusCode.NOT_FOUND)
    assert reasons(error) == ["ROWS_NOT_FOUND"]
    (info,) = details(error, "ErrorInfo")
    assert info.metadata["missing"] == "2"
    assert "serial=1)" in info.metadata["keys"]
    assert "serial=2)" in info.metadata["keys"]


async def test_an_empty_batch_is_an_empty_answer(client: Client) -> None:
    answer = await client.call("BatchGetReadings")
    assert (len(answer.readings), len(answer.missing)) == (0, 0)


async def test_a_batch_beyond_the_limit_is_refused(lab: Lab, client: Client) -> None:
    rows = readings(lab, LARGEST_BATCH + 1)
    await lab.insert(rows)
    answer = await client.call("BatchGetReadings", requests=keys(rows[:-1]))
    assert len(answer.readings) == LARGEST_BATCH
    error = await refused(client.call("BatchGetReadings", requests=keys(rows)), grpc.StatusCode.INVALID_ARGUMENT)
    assert [v.field for v in details(error, "BadRequest")[0].field_violations] == ["requests"]


async def test_rows_that_fit_no_message_are_refused_and_the_error_says_how_many_fit(lab: Lab, client: Client) -> None:
    rows = readings(lab, 5, payload=b"x" * 1_000_000)
    await lab.insert(rows)
    asked = keys([*rows, lab.reading(site="nowhere", day="2024-05-01")])
    error = await refused(client.call("BatchGetReadings", requests=asked), grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert reasons(error) == ["RESPONSE_TOO_LARGE"]
    assert not details(error, "RetryInfo")
    fitting = int(details(error, "ErrorInfo")[0].metadata["fitting_requests"])
    assert fitting == PAGE_BYTES // 1_000_000
    answer = await client.call("BatchGetReadings", requests=asked[:fitting])
    assert list(answer.readings) == rows[:fitting]


@pytest.mark.parametrize("field", [{"at_least_version": 1}, {"read_mask": {"paths": ["label"]}}])
async def test_what_holds_for_the_batch_is_refused_on_one_of_its_requests(
    lab: Lab, client: Client, field: dict[str, Any]
) -> None:
    asked = keys(readings(lab, 2))
    asked[1] |= field
    error = await refused(client.call("BatchGetReadings", requests=asked), grpc.StatusCode.INVALID_ARGUMENT)
    (violation,) = details(error, "BadRequest")[0].field_violations
    assert violation.field == f"requests[1].{next(iter(field))}"
    assert "BatchGetReadingsRequest" in violation.description


async def test_a_request_without_its_key_is_named(lab: Lab, client: Client) -> None:
    asked = [*keys(readings(lab, 1)), {"site": "A"}]
    error = await refused(client.call("BatchGetReadings", requests=asked), grpc.StatusCode.INVALID_ARGUMENT)
    assert [v.field for v in details(error, "BadRequest")[0].field_violations] == ["requests[1].day"]


async def test_at_least_version_waits_for_the_load(lab: Lab, client: Client) -> None:
    (row,) = readings(lab, 1)
    call = asyncio.create_task(client.call("BatchGetReadings", requests=keys([row]), at_least_version=1))
    await lab.insert([row])
    answer = await call
    assert (answer.dataset_version, len(answer.readings)) == (1, 1)
