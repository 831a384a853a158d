"""Settings of the ingest service: where objects come from, and connections enough for its loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest_service.settings import read_settings
from shared.errors import ConfigError

REQUIRED = {
    "PENSTOCK_DATABASE_URL": "postgresql://u:p@h/db",
    "PENSTOCK_QUEUE_URL": "https://sqs/1/q",
    "PENSTOCK_TLS": "off",
}


def test_objects_come_from_buckets_or_from_a_sources_file() -> None:
    assert read_settings({**REQUIRED, "PENSTOCK_BUCKET": "a, b"}).buckets == ("a", "b")
    settings = read_settings({**REQUIRED, "PENSTOCK_SOURCES": "/etc/penstock/sources.yaml"})
    assert (settings.buckets, settings.sources) == ((), Path("/etc/penstock/sources.yaml"))
    with pytest.raises(
        ConfigError, match=r"PENSTOCK_BUCKET is not set: .* or point PENSTOCK_SOURCES at a sources file"
    ):
        read_settings(REQUIRED)


def test_pool_must_hold_the_connections_of_loads_unloads_callers_and_watchers() -> None:
    settings = {**REQUIRED, "PENSTOCK_BUCKET": "a", "PENSTOCK_LOAD_CONCURRENCY": "4"}
    assert read_settings({**settings, "PENSTOCK_POOL_SIZE": "10"}).concurrency == 4
    with pytest.raises(ConfigError, match=r"PENSTOCK_POOL_SIZE=9 is too small .*: set it to 10 or more"):
        read_settings({**settings, "PENSTOCK_POOL_SIZE": "9"})


@pytest.mark.parametrize(("concurrency", "parts"), [("1", 4), ("4", 4), ("5", 3), ("16", 1), ("64", 1)])
def test_parts_of_large_objects_take_no_more_memory_with_more_loads_unless_told_to(
    concurrency: str, parts: int
) -> None:
    settings = {
        **REQUIRED,
        "PENSTOCK_BUCKET": "a",
        "PENSTOCK_POOL_SIZE": "80",
        "PENSTOCK_LOAD_CONCURRENCY": concurrency,
    }
    assert read_settings(settings).object_parts == parts
    assert read_settings(settings).object_part_bytes == 8 * 1024 * 1024
    assert read_settings({**settings, "PENSTOCK_OBJECT_PARTS": "2"}).object_parts == 2
