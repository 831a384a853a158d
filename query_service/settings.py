"""What the query service reads from its environment beyond the settings that every service has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryLimits:
    """Bounds of one call. A stream that lives longer is cut short and resumed by its caller."""

    query_timeout_s: float = 30.0
    version_wait_s: float = 10.0
    stream_max_age_s: float = 300.0
    stream_queue_s: float = 5.0


def query_limits(environ: Mapping[str, str]) -> QueryLimits:
    """PENSTOCK_STREAM_MAX_AGE_S and PENSTOCK_QUERY_TIMEOUT_S, in seconds; raises ConfigError."""
    return QueryLimits(
        query_timeout_s=_seconds(environ, "PENSTOCK_QUERY_TIMEOUT_S", 30.0),
        stream_max_age_s=_seconds(environ, "PENSTOCK_STREAM_MAX_AGE_S", 300.0),
    )


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"{name}={text!r}: must be a number of seconds above 0", reason="SETTING_INVALID")
    return value
