"""A client that takes nothing: the server reads no further than what is under way, and goes on when the client does."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import grpc
import pytest

from query_service import paging, stream, watch
from query_service.rows import Page, read_page
from tests.integration.query.lab import Client, Lab, readings, serving, until

ROWS, PAYLOAD = 15_000, 2000
# What gRPC's windows hold on both sides, where they have grown; the table has twice as much.
UNDER_WAY_BYTES = 16 * 1024 * 1024
QUIET = """SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'penstock-query'
    AND datname = current_database() AND query_start > clock_timestamp() - interval '400 ms')"""


def followed(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[Page]:
    """The pages that the module reads."""
    pages: list[Page] = []

    async def read(*args: Any, **kwargs: Any) -> Page:
        pages.append(await read_page(*args, **kwargs))
        return pages[-1]

    monkeypatch.setattr(module, "read_page", read)
    return pages


@pytest.mark.parametrize(("module", "asked"), [(paging, {}), (watch, {"after_version": 0})])
@pytest.mark.slow
async def test_a_stalled_client_stops_the_reading_and_loses_nothing(
    lab: Lab, client: Client, monkeypatch: pytest.MonkeyPatch, module: ModuleType, asked: dict[str, Any]
) -> None:
    await lab.insert(readings(lab, ROWS, payload=b"x" * PAYLOAD))
    pages = followed(monkeypatch, module)
    call = client.open_stream(timeout_s=60) if module is paging else client.open_watch(timeout_s=60, **asked)
    serials = [record.serial for record in (await call.read()).readings]
    await until(lab, QUIET)
    assert 0 < sum(len(page.data) for page in pages) < UNDER_WAY_BYTES < ROWS * PAYLOAD
    while len(serials) < ROWS:
        message = await call.read()
        assert message is not grpc.aio.EOF  # type: ignore[attr-defined]
        serials += [record.serial for record in message.readings]
    assert serials == list(range(ROWS))
    call.cancel()


@pytest.mark.slow
async def test_a_page_on_its_way_to_a_stalled_client_is_not_kept_beside_its_message(
    lab: Lab, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.insert(readings(lab, ROWS, payload=b"x" * PAYLOAD))
    pages = followed(monkeypatch, paging)
    call = client.open_stream(timeout_s=60)
    await call.read()
    await until(lab, QUIET)
    assert len(pages) > 3
    *arrived, on_its_way = [sys.getrefcount(page) for page in pages[:-1]]  # the last one is read ahead
    assert {on_its_way} == set(arrived)
    call.cancel()


async def test_pages_get_smaller_the_more_streams_are_open(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "OPEN_PAGES_BYTES", 4 * stream.LEAST_BYTES)
    await lab.insert(readings(lab, ROWS, payload=b"x" * PAYLOAD))

    async def first_and_largest() -> tuple[int, int]:
        messages = await client.stream()
        assert sum(len(message.readings) for message in messages) == ROWS
        first, *others = [int(message.ByteSize()) for message in messages]
        return first, max(others)

    async with serving(lab, pool_size=8) as client:
        first_alone, alone = await first_and_largest()
        others = [client.open_stream() for _ in range(3)]
        for other in others:
            await other.read()
        first_among_four, among_four = await first_and_largest()
        for other in others:
            other.cancel()
    assert 3 * stream.LEAST_BYTES < alone < 5 * stream.LEAST_BYTES
    assert stream.LEAST_BYTES / 2 < among_four < 2 * stream.LEAST_BYTES
    # How large the rows are is not known before the first page; it has a number of them, and no more than two pages.
    assert first_among_four < 2.1 * stream.LEAST_BYTES < first_alone


@pytest.mark.parametrize(
    ("open_streams", "bytes_each"),
    [(0, 512 * 1024), (1, 512 * 1024), (64, 512 * 1024), (128, 256 * 1024), (512, 64 * 1024), (5000, 64 * 1024)],
)
def test_a_page_is_the_streams_share_of_what_all_of_them_may_hold(open_streams: int, bytes_each: int) -> None:
    assert stream.page_bytes(open_streams) == bytes_each
