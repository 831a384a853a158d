"""A client that takes nothing: the server reads no further than what is under way, and goes on when the client does."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import grpc
import pytest

from query_service import search, watch
from query_service.rows import Page, read_page
from tests.integration.query.lab import Client, Lab, readings
from tests.integration.query.test_query_stream import until

ROWS, PAYLOAD = 15_000, 2000
# What gRPC's windows hold on both sides, where they have grown; the table has twice as much.
UNDER_WAY_BYTES = 16 * 1024 * 1024
QUIET = """SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'penstock-query'
    AND datname = current_database() AND query_start > clock_timestamp() - interval '400 ms')"""


def counted(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[int]:
    """The sizes of the pages that the module reads."""
    sizes: list[int] = []

    async def read(*args: Any, **kwargs: Any) -> Page:
        page = await read_page(*args, **kwargs)
        sizes.append(len(page.data))
        return page

    monkeypatch.setattr(module, "read_page", read)
    return sizes


@pytest.mark.parametrize(("module", "asked"), [(search, {}), (watch, {"after_version": 0})])
@pytest.mark.slow
async def test_a_stalled_client_stops_the_reading_and_loses_nothing(
    lab: Lab, client: Client, monkeypatch: pytest.MonkeyPatch, module: ModuleType, asked: dict[str, Any]
) -> None:
    await lab.insert(readings(lab, ROWS, payload=b"x" * PAYLOAD))
    sizes = counted(monkeypatch, module)
    call = client.open_stream(timeout_s=60) if module is search else client.open_watch(timeout_s=60, **asked)
    serials = [record.serial for record in (await call.read()).readings]
    await until(lab, QUIET)
    assert 0 < sum(sizes) < UNDER_WAY_BYTES < ROWS * PAYLOAD
    while len(serials) < ROWS:
        message = await call.read()
        assert message is not grpc.aio.EOF  # type: ignore[attr-defined]
        serials += [record.serial for record in message.readings]
    assert serials == list(range(ROWS))
    call.cancel()
