"""What the ingest service reads from its environment; everything is checked at start, all problems at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ingest_service.aws import AwsAccess
from shared.settings import DatabaseSettings, EnvironReader, RpcSettings

# Every load keeps a connection while it stages and merges and takes a second one for a moment: heartbeats, rejects.
# Then there are unloads (2), callers of the ledger, and one connection that listens for WatchLoads.
_CONNECTIONS_BESIDE_LOADS = 6
# What all loads together hold of large objects, of 8 MiB each unless told otherwise: 128 of the 512 MiB of the process.
_MOST_PARTS, _MOST_PARTS_OF_A_LOAD = 16, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSettings:
    """See the README's configuration table. `buckets` may be read; `sources` is a file that says which of
    their objects go where."""

    contracts: Path | None
    rpc: RpcSettings
    database: DatabaseSettings
    queue_url: str
    buckets: tuple[str, ...]
    sources: Path | None
    concurrency: int
    visibility_timeout_s: int
    object_parts: int
    object_part_bytes: int
    reconcile_interval_s: int
    watch_retention_s: float
    aws: AwsAccess


def read_settings(environ: Mapping[str, str]) -> IngestSettings:
    """Raises ConfigError with one line per problem."""
    reader = EnvironReader(environ)
    concurrency = reader.integer("PENSTOCK_LOAD_CONCURRENCY", 4, minimum=1, maximum=64)
    settings = IngestSettings(
        contracts=reader.path("PENSTOCK_CONTRACTS"),
        rpc=RpcSettings.read(reader),
        database=DatabaseSettings.read(reader),
        queue_url=reader.required("PENSTOCK_QUEUE_URL", "the URL of the SQS queue that gets the bucket's events"),
        buckets=reader.names("PENSTOCK_BUCKET"),
        sources=reader.path("PENSTOCK_SOURCES"),
        concurrency=concurrency,
        visibility_timeout_s=reader.integer("PENSTOCK_VISIBILITY_TIMEOUT_S", 60, minimum=5, maximum=43_200),
        object_parts=reader.integer("PENSTOCK_OBJECT_PARTS", _parts(concurrency), minimum=1, maximum=8),
        object_part_bytes=reader.integer(
            "PENSTOCK_OBJECT_PART_BYTES", 8 * 1024 * 1024, minimum=1024 * 1024, maximum=64 * 1024 * 1024
        ),
        reconcile_interval_s=reader.integer("PENSTOCK_RECONCILE_INTERVAL_S", 3600, maximum=7 * 24 * 3600),
        watch_retention_s=reader.seconds("PENSTOCK_WATCH_RETENTION_S", 604_800.0, minimum=60.0, maximum=1e9),
        aws=AwsAccess(),
    )
    if not settings.buckets and settings.sources is None:
        reader.problems.append(
            "PENSTOCK_BUCKET is not set: name the bucket or buckets that may be read, comma between, "
            "or point PENSTOCK_SOURCES at a sources file"
        )
    needed = settings.concurrency + _CONNECTIONS_BESIDE_LOADS
    if settings.database.pool_size < needed:
        reader.problems.append(
            f"PENSTOCK_POOL_SIZE={settings.database.pool_size} is too small for "
            f"PENSTOCK_LOAD_CONCURRENCY={settings.concurrency}: set it to {needed} or more"
        )
    reader.done()
    return settings


def _parts(concurrency: int) -> int:
    return max(1, min(_MOST_PARTS_OF_A_LOAD, _MOST_PARTS // concurrency))
