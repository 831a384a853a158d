"""What the query service reads from its environment; everything is checked at start, all problems at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.settings import DatabaseSettings, EnvironReader, RpcSettings

SMALLEST_POOL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryLimits:
    """Bounds of one call. A stream that lives longer is cut short and resumed by its caller.

    `queue_s` is how long a call waits for its turn. `streams` at once, and of one caller: 0 = by the pool's size.
    `heartbeat_s` without rows, a stream or watch says how far it is. A watch ends after `watch_max_age_s`.
    """

    query_timeout_s: float = 30.0
    version_wait_s: float = 10.0
    stream_max_age_s: float = 300.0
    queue_s: float = 5.0
    streams: int = 0
    streams_per_caller: int = 0
    heartbeat_s: float = 5.0
    watch_max_age_s: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """Bytes of answers that the process keeps, and the Redis that it shares with others; nothing of both by itself.

    `timeout_s` is how long Redis may take: a page from Postgres takes 2 ms.
    """

    max_bytes: int = 0
    url: str | None = field(default=None, repr=False)
    timeout_s: float = 0.05

    @classmethod
    def read(cls, reader: EnvironReader) -> CacheSettings:
        """Read through a reader that other settings share."""
        return cls(
            max_bytes=reader.integer("PENSTOCK_CACHE_BYTES", 0, maximum=2**40),
            url=reader.optional("PENSTOCK_CACHE_URL"),
            timeout_s=reader.seconds("PENSTOCK_CACHE_TIMEOUT_S", 0.05, minimum=0.001, maximum=10.0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """Read replicas of the database, and for how long one may lack a version that the primary has."""

    urls: tuple[str, ...] = field(default=(), repr=False)
    max_lag_s: float = 10.0

    @classmethod
    def read(cls, reader: EnvironReader) -> ReplicaSettings:
        """Read through a reader that other settings share."""
        return cls(
            urls=reader.database_urls("PENSTOCK_REPLICA_URLS"),
            max_lag_s=reader.seconds("PENSTOCK_REPLICA_MAX_LAG_S", 10.0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySettings:
    """See the README's configuration table."""

    contracts: Path | None
    rpc: RpcSettings
    database: DatabaseSettings
    limits: QueryLimits
    cache: CacheSettings = CacheSettings()
    replicas: ReplicaSettings = ReplicaSettings()

    @property
    def told_apart(self) -> bool:
        """Whether a caller has a name; all callers are one without TLS."""
        return self.rpc.tls is not None


def stream_slots(limits: QueryLimits, connections: int, *, told_apart: bool) -> tuple[int, int]:
    """How many streams may be open at once, and how many of one caller.

    A stream holds a connection for long: pages keep a quarter of all, and other callers a quarter of the streams.
    """
    most = max(1, connections - max(1, connections // 4))
    total = min(most, limits.streams or most)
    of_one = max(1, total - max(1, total // 4)) if told_apart else total
    return total, min(total, limits.streams_per_caller or of_one)


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
            queue_s=reader.seconds("PENSTOCK_QUEUE_S", 5.0, minimum=0.01),
            streams=reader.integer("PENSTOCK_MAX_STREAMS", 0),
            streams_per_caller=reader.integer("PENSTOCK_MAX_STREAMS_PER_CALLER", 0),
        ),
        cache=CacheSettings.read(reader),
        replicas=ReplicaSettings.read(reader),
    )
    if settings.database.pool_size < SMALLEST_POOL:
        reader.problems.append(
            f"PENSTOCK_POOL_SIZE={settings.database.pool_size} is too small: set it to {SMALLEST_POOL} or more, "
            "so that a stream, a page and a readiness check never wait for each other"
        )
    reader.done()
    return settings
