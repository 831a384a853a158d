"""Get and List against a real Postgres and a real gRPC server."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from tests.integration.query.lab import Client, Lab, details, readings, reasons, refused


async def test_get_returns_the_record_as_stored(lab: Lab, client: Client) -> None:
    record = lab.reading(site="A", day="2024-05-01", grade=2, manual=True, serial=2**64 - 1, payload=b"x" * 300)
    await lab.insert([record])
    got = await client.call("GetReading", site="A", day=record.day, grade=2, manual=True, serial=2**64 - 1)
    assert got == record


async def test_get_of_no_row_is_not_found_and_names_the_key(lab: Lab, client: Client) -> None:
    day = lab.reading(day="2024-05-01").day
    error = await refused(client.call("GetReading", site="nowhere", day=day), grpc.StatusCode.NOT_FOUND)
    assert reasons(error) == ["ROW_NOT_FOUND"]
    assert "site='nowhere'" in str(error.details())


async def test_get_without_a_message_key_field_is_refused(client: Client) -> None:
    error = await refused(client.call("GetReading", site="A"), grpc.StatusCode.INVALID_ARGUMENT)
    assert [v.field for v in details(error, "BadRequest")[0].field_violations] == ["day"]


async def test_list_pages_until_the_token_is_empty(lab: Lab, client: Client) -> None:
    await lab.insert(readings(lab, 7))
    first = await client.call("ListReadings", page_size=3)
    second = await client.call("ListReadings", page_size=3, page_token=first.next_page_token)
    third = await client.call("ListReadings", page_size=3, page_token=second.next_page_token)
    assert [r.serial for page in (first, second, third) for r in page.readings] == list(range(7))
    assert third.next_page_token == ""
    assert first.dataset_version == 1


async def test_pages_are_checked_one_by_one_however_alike_they_are(lab: Lab, client: Client) -> None:
    await lab.insert(readings(lab, 4))
    token = (await client.call("ListReadings", page_size=2)).next_page_token
    for _ in range(2):
        assert [r.serial for r in (await client.call("ListReadings", page_size=2)).readings] == [0, 1]
        assert [r.serial for r in (await client.call("ListReadings", page_size=2, page_token=token)).readings] == [2, 3]
        for wrong, reason in (
            ({"page_token": "QUJD"}, "PAGE_TOKEN_INVALID"),
            ({"order_by": "nothing"}, "ORDER_INVALID"),
        ):
            error = await refused(client.call("ListReadings", page_size=2, **wrong), grpc.StatusCode.INVALID_ARGUMENT)
            assert reasons(error) == [reason]
        assert len((await client.call("ListReadings", page_size=3)).readings) == 3
        assert (await client.call("ListReadings", page_size=2, at_least_version=1)).dataset_version == 1


async def test_the_last_full_page_carries_no_token(lab: Lab, client: Client) -> None:
    await lab.insert(readings(lab, 6))
    first = await client.call("ListReadings", page_size=3)
    second = await client.call("ListReadings", page_size=3, page_token=first.next_page_token)
    assert (len(second.readings), second.next_page_token) == (3, "")


async def test_an_empty_dataset_is_one_empty_page(client: Client) -> None:
    page = await client.call("ListReadings")
    assert (len(page.readings), page.next_page_token, page.dataset_version) == (0, "", 0)


async def test_page_size_defaults_to_50_and_is_coerced_to_1000(lab: Lab, client: Client) -> None:
    await lab.insert(readings(lab, 1005))
    assert len((await client.call("ListReadings")).readings) == 50
    assert len((await client.call("ListReadings", page_size=2_000_000)).readings) == 1000


async def test_a_page_of_large_rows_is_short_and_goes_on(lab: Lab, client: Client) -> None:
    rows = readings(lab, 12, payload=b"x" * 1_000_000)
    await lab.insert(rows)
    page = await client.call("ListReadings", page_size=1000)
    assert len(page.readings) == 3
    assert await client.list_all(page_size=1000) == rows


async def test_a_row_of_the_largest_size_is_a_page(lab: Lab, client: Client) -> None:
    rows = readings(lab, 3, payload=b"x" * (3 * 1024 * 1024 - 100))
    await lab.insert(rows)
    assert await client.list_all(page_size=50) == rows


async def test_tokens_hold_after_the_rows_they_name_are_gone(lab: Lab, client: Client) -> None:
    await lab.insert(readings(lab, 6))
    first = await client.call("ListReadings", page_size=3)
    await lab.execute("DELETE FROM data.readings WHERE serial IN (2, 3)")
    rest = await client.call("ListReadings", page_token=first.next_page_token)
    assert [r.serial for r in rest.readings] == [4, 5]


async def test_a_token_of_another_filter_is_refused(lab: Lab, client: Client) -> None:
    await lab.insert(readings(lab, 6))
    token = (await client.call("ListReadings", page_size=1, label=["l1"])).next_page_token
    error = await refused(client.call("ListReadings", label=["l2"], page_token=token), grpc.StatusCode.INVALID_ARGUMENT)
    assert reasons(error) == ["PAGE_TOKEN_INVALID"]


@pytest.mark.parametrize("token", ["garbage!", "QUJD", "é", "a" * 5000])
async def test_a_token_that_is_none_is_refused(client: Client, token: str) -> None:
    error = await refused(client.call("ListReadings", page_token=token), grpc.StatusCode.INVALID_ARGUMENT)
    assert reasons(error) == ["PAGE_TOKEN_INVALID"]


async def test_require_same_version_aborts_a_later_page_of_a_newer_version(lab: Lab, client: Client) -> None:
    await lab.insert(readings(lab, 6))
    token = (await client.call("ListReadings", page_size=1)).next_page_token
    await client.call("ListReadings", page_token=token, require_same_version=True)
    await lab.insert([lab.reading(site="B", day="2024-05-01")])
    call = client.call("ListReadings", page_token=token, require_same_version=True)
    assert reasons(await refused(call, grpc.StatusCode.ABORTED)) == ["VERSION_CHANGED"]


async def test_bytes_that_are_no_request_are_refused(client: Client) -> None:
    error = await refused(client.call("ListReadings", b"\xff\xff"), grpc.StatusCode.INVALID_ARGUMENT)
    assert reasons(error) == ["MALFORMED_REQUEST"]


async def test_a_field_that_the_contract_lacks_is_refused(client: Client) -> None:
    error = await refused(client.call("ListReadings", b"\xf8\x07\x01"), grpc.StatusCode.INVALID_ARGUMENT)
    assert reasons(error) == ["UNKNOWN_FIELD"]
    assert "127" in str(error.details())


async def test_rules_of_the_request_are_checked(client: Client) -> None:
    call = client.call("ListReadings", label=["ok", "x" * 41])
    error = await refused(call, grpc.StatusCode.INVALID_ARGUMENT)
    assert [v.field for v in details(error, "BadRequest")[0].field_violations] == ["label[1]"]


async def test_at_least_version_waits_for_the_load(lab: Lab, client: Client) -> None:
    call = asyncio.create_task(client.call("ListReadings", at_least_version=1))
    await lab.insert(readings(lab, 1))
    page = await call
    assert (page.dataset_version, len(page.readings)) == (1, 1)
