"""What the query service reads from its environment; everything is checked at start, all problems at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.settings import DatabaseSettings, EnvironReader, RpcSettings

SMALLEST_POOL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryLimits:
    """Bounds of one call. A stream that lives longer is cut short and resumed by its caller."""

    query_timeout_s: float = 30.0
    version_wait_s: float = 10.0
    stream_max_age_s: float = 300.0
    stream_queue_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySettings:
    """See the README's configuration table."""

    contracts: Path | None
    rpc: RpcSettings
    database: DatabaseSettings
    limits: QueryLimits


def read_settings(environ: Mapping[str, str]) -> QuerySettings:
    """Raises ConfigError with one line per problem."""
    reader = EnvironReader(environ)
    settings = QuerySettings(
        contracts=reader.path("PENSTOCK_CONTRACTS"),
        rpc=RpcSettings.read(reader),
        database=DatabaseSettings.read(reader),
        limits=QueryLimits(
            query_timeout_s=reader.seconds("PENSTOCK_QUERY_TIMEOUT_S", 30.0, minimum=0.1),
            stream_max_age_s=reader.seconds("PENSTOCK_STREAM_MAX_AGE_S", 300.0, minimum=1.0),
        ),
    )
    if settings.database.pool_size < SMALLEST_POOL:
        reader.problems.append(
            f"PENSTOCK_POOL_SIZE={settings.database.pool_size} is too small: set it to {SMALLEST_POOL} or more, "
            "so that a stream, a page and a readiness check never wait for each other"
        )
    reader.done()
    return settings
