"""Rare matches: a page may end before it finds any, and whoever goes on with its token finds them all."""

from __future__ import annotations

from typing import Any

import pytest

from query_service import pages
from tests.integration.query.lab import COMPLETE, Client, Lab, readings

ROWS = 6_900
RARE = "serial = 6898 OR serial = 6899"  # behind all others in key order, which is the only index that holds it


@pytest.fixture
async def rare(lab: Lab) -> list[Any]:
    rows = readings(lab, ROWS)
    await lab.insert(rows)
    return rows[-2:]


async def test_a_list_looks_further_until_it_finds_a_row(client: Client, rare: list[Any]) -> None:
    page = await client.call("ListReadings", filter=RARE)
    assert list(page.readings) == rare
    assert page.next_page_token == ""


async def test_a_list_that_finds_none_soon_answers_with_a_token(
    client: Client, rare: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LONGEST_SEARCH_S", -1.0)
    page = await client.call("ListReadings", filter=RARE, page_size=1)
    assert (len(page.readings), bool(page.next_page_token)) == (0, True)
    assert await client.list_all(filter=RARE, page_size=1) == rare


async def test_a_stream_goes_on_by_itself_and_says_how_far_it_is(client: Client, rare: list[Any]) -> None:
    messages = await client.stream(filter=RARE)
    assert [record for message in messages for record in message.readings] == rare
    assert messages[-1].status.end_reason == COMPLETE
    assert len(messages[0].readings) == 0
    resumed = await client.stream(filter=RARE, resume_token=messages[0].resume_token)
    assert [record for message in resumed for record in message.readings] == rare
