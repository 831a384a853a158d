"""Timestamps at the ends of their range, stored as a load stores them: found, told apart, and paged over."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from shared.local.postgres import EmbeddedPostgres
from tests.conftest import new_database
from tests.integration.query import wares
from tests.integration.query.lab import COMPLETE, Client, Lab, migrated_lab, serving

FIRST, LAST = "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"
# Twice each, so that pages of one row end amid them.
MADE = [FIRST, FIRST, "0001-01-01T00:00:00.000001Z", None, "9999-12-31T23:59:59.999998Z", LAST, LAST]


@pytest.fixture(scope="module")
def template(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with migrated_lab(postgres, tmp_path_factory.mktemp("times"), wares.CONTRACT, "wares") as found:
        yield found


@pytest.fixture
async def client(postgres: EmbeddedPostgres, template: Lab) -> AsyncIterator[Client]:
    with new_database(postgres, template.database) as url:
        lab = Lab(url=url, contracts=template.contracts, name="wares")
        await lab.insert([ware(lab, number, made) for number, made in enumerate(MADE)])
        for number, made in enumerate(MADE):  # as text, for no driver's opinion of it
            await lab.execute(f"UPDATE data.wares SET made = {quoted(made)}::timestamptz WHERE number = {number}")
        async with serving(lab) as running:
            yield running


def ware(lab: Lab, number: int, made: str | None) -> Any:
    ware = lab.dataset.message_class(shelf="A", number=number)
    if made is not None:
        ware.made.FromJsonString(made)
    return ware


def quoted(made: str | None) -> str:
    return "NULL" if made is None else f"'{made}'"


async def numbers(client: Client, **asked: Any) -> list[int]:
    """The rows that are found, one a page."""
    found: list[int] = []
    token = ""
    while True:
        page = await client.call("ListWares", page_size=1, page_token=token, **asked)
        found += [ware.number for ware in page.wares]
        assert len(found) <= len(MADE), found
        token = page.next_page_token
        if not token:
            return found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"made = {FIRST}", [0, 1]),
        (f"made = {LAST}", [5, 6]),
        ("made = 9999-12-31T23:59:59.999999999Z", [5, 6]),
        ("made = 0001-01-01T00:00:00.000000999Z", [0, 1]),
        ("made = 9999-12-31T22:59:59.999999-01:00", [5, 6]),
        (f"made = {FIRST} OR made = {LAST}", [0, 1, 5, 6]),
        (f"made != {FIRST} AND made != {LAST}", [2, 3, 4]),
        (f"made > {FIRST}", [2, 4, 5, 6]),
        (f"made >= {FIRST}", [0, 1, 2, 4, 5, 6]),
        (f"made < {FIRST}", []),
        (f"made <= {FIRST}", [0, 1]),
        (f"made > {LAST}", []),
        (f"made >= {LAST}", [5, 6]),
        (f"made < {LAST}", [0, 1, 2, 4]),
        (f"made <= {LAST}", [0, 1, 2, 4, 5, 6]),
    ],
)
async def test_a_filter_compares_the_ends_of_time(client: Client, text: str, found: list[int]) -> None:
    assert sorted(await numbers(client, filter=text)) == found


@pytest.mark.parametrize(("order", "found"), [("made", [0, 1, 2, 4, 5, 6, 3]), ("made desc", [3, 6, 5, 4, 2, 1, 0])])
async def test_pages_go_on_after_the_ends_of_time(client: Client, order: str, found: list[int]) -> None:
    assert await numbers(client, order_by=order) == found
    assert await numbers(client, order_by=order, filter=f"made >= {FIRST}") == [n for n in found if n != 3]


@pytest.mark.parametrize(("order", "found"), [("made", [0, 1, 2, 4, 5, 6, 3]), ("made desc", [3, 6, 5, 4, 2, 1, 0])])
async def test_a_stream_resumes_after_the_ends_of_time(client: Client, order: str, found: list[int]) -> None:
    got: list[int] = []
    token, done = "", False
    rpc = client.channel.unary_stream(
        "/wares.v1.WareService/StreamWares", None, client.lab.response_class("StreamWares").FromString
    )
    while not done:
        request = client.lab.request("StreamWares", order_by=order, resume_token=token, max_rows=1)
        messages: list[Any] = [message async for message in rpc(request.SerializeToString(), timeout=20)]
        got += [ware.number for message in messages for ware in message.wares]
        assert len(got) <= len(MADE), got
        token, done = messages[-1].resume_token, messages[-1].status.end_reason == COMPLETE
    assert got == found


async def test_the_driver_hands_times_over_as_they_are(client: Client) -> None:
    """Also within arrays, and back."""
    times = [dt.datetime.min.replace(tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC)]
    async with client.lab.session() as session:
        await session.execute("SET timezone = 'UTC'")
        shown = await session.fetchval("SELECT ARRAY(SELECT unnest($1::timestamptz[])::text)", times)
        assert shown == ["0001-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00"]
        assert await session.fetchval("SELECT $1::timestamptz[]", times) == times
        beyond = "SELECT ARRAY['-infinity', 'infinity', '0001-01-02 BC', '10000-01-01']::timestamptz[]"
        assert await session.fetchval(beyond) == [times[0], times[1], times[0], times[1]]
        here = dt.datetime(2024, 5, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))
        assert await session.fetchval("SELECT $1::timestamptz::text", here) == "2024-05-01 10:00:00+00"
