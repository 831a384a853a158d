"""Typed settings from an environment mapping. Pure: touches no file and no network, and never shows a secret.

Every problem is collected, so one failed start tells all that has to be set; files are checked where they are opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from shared.errors import ConfigError

T = TypeVar("T")

ANY_IDENTITY = "*"
MIB = 1024 * 1024


class EnvironReader:
    """Reads variables one by one and remembers what is wrong; `done()` raises one ConfigError with all of it.

    A variable that is set to nothing or to blanks counts as not set: that is how a manifest leaves one out.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def done(self) -> None:
        """Raise ConfigError with one line per problem when there is any."""
        if self.problems:
            raise ConfigError("\n".join(self.problems), reason="CONFIG_INVALID")

    def optional(self, name: str) -> str | None:
        """The value without surrounding blanks, or None when it is not set."""
        return self._environ.get(name, "").strip() or None

    def required(self, name: str, hint: str) -> str:
        """The value; when it is not set, a problem that ends in `hint` (what to set it to), and ''."""
        value = self.optional(name)
        if value is None:
            self.problems.append(f"{name} is not set: {hint}")
        return value or ""

    def text(self, name: str, default: str) -> str:
        """The value or `default`."""
        return self.optional(name) or default

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """One of `allowed`, compared without case."""
        value = self.text(name, default).lower()
        if value in allowed:
            return value
        self.problems.append(f"{name}={value!r} is not known: set it to one of {', '.join(allowed)}")
        return default

    def integer(self, name: str, default: int, *, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
        """A whole number within the bounds, both included."""
        return self._parsed(name, default, int, f"a whole number from {minimum} to {maximum}", minimum, maximum)

    def seconds(self, name: str, default: float, *, minimum: float = 0.0, maximum: float = 86_400.0) -> float:
        """A duration in seconds, fractions allowed."""
        return self._parsed(name, default, float, f"seconds from {minimum:g} to {maximum:g}", minimum, maximum)

    def number(self, name: str, default: float, *, minimum: float = 0.0, maximum: float) -> float:
        """A number, fractions allowed."""
        return self._parsed(name, default, float, f"a number from {minimum:g} to {maximum:g}", minimum, maximum)

    def names(self, name: str) -> tuple[str, ...]:
        """A comma-separated list without blanks and empty members; empty when not set."""
        return tuple(part.strip() for part in (self.optional(name) or "").split(",") if part.strip())

    def path(self, name: str) -> Path | None:
        """A path, not checked here, or None when not set."""
        value = self.optional(name)
        return Path(value) if value else None

    def address(self, name: str, default: str) -> str:
        """`host:port` or `[v6]:port`, as gRPC takes it; port 0 lets the system choose."""
        value = self.text(name, default)
        host, _, port = value.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            self.problems.append(f"{name}={value!r} is not an address: write host:port, for instance {default}")
        return value

    def database_url(self, name: str) -> str:
        """A postgresql:// URL with a host and a database; the value itself is never part of a problem."""
        example = "postgresql://user:password@host:5432/database"
        value = self.required(name, f"point it at the database, {example}")
        if value and not _is_database_url(value):
            self.problems.append(f"{name} is not a Postgres URL: write {example} (percent-encode special characters)")
        return value

    def database_urls(self, name: str) -> tuple[str, ...]:
        """A comma-separated list of such URLs, empty when not set; a comma within one is written %2C."""
        values = self.names(name)
        for place, value in enumerate(values, 1):
            if not _is_database_url(value):
                example = "postgresql://user:password@host:5432/database"
                self.problems.append(f"{name}, number {place}, is not a Postgres URL: write {example}, comma between")
        return values

    def _parsed(self, name: str, default: T, parse: Callable[[str], T], what: str, low: float, high: float) -> T:
        value = self.optional(name)
        if value is None:
            return default
        try:
            number = parse(value)
            in_range = low <= number <= high  # type: ignore[operator]
        except ValueError:
            in_range = False
        if in_range:
            return number
        self.problems.append(f"{name}={value!r} does not work: set it to {what}, or leave it out for {default}")
        return default


def _is_database_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in {"postgres", "postgresql"} and len(parts.path) > 1 and (port is None or port > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Where the PEM files are: the CA that signs the other side, and our own certificate chain and key."""

    ca: Path
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerLimits:
    """What one caller may ask of a server. 0 = no limit; `burst` 0 = as many calls as a second gives.

    Without TLS all callers are one, and `calls` would only make `max_concurrent_rpcs` smaller: it does not apply then.
    """

    calls: int = 0
    per_second: float = 0.0
    burst: int = 0

    @classmethod
    def read(cls, reader: EnvironReader, *, most_calls: int, told_apart: bool) -> CallerLimits:
        """Read through a reader that other settings share; half of `most_calls` unless told otherwise."""
        calls = reader.integer("PENSTOCK_MAX_RPCS_PER_CALLER", max(1, most_calls // 2))
        return cls(
            calls=calls if told_apart else 0,
            per_second=reader.number("PENSTOCK_CALLER_RATE", 0.0, maximum=1e6),
            burst=reader.integer("PENSTOCK_CALLER_BURST", 0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcSettings:
    """How a service listens. `tls` None means plaintext for everyone (PENSTOCK_TLS=off): no identity is checked.

    `allowed_identities` are SPIFFE URIs, DNS names or common names of client certificates; empty denies everyone and a
    lone `*` lets in every certificate that the CA signed. The keepalive numbers stay below the 350 s idle limit of an
    AWS network load balancer; connections age so that clients behind one virtual IP spread over new pods.
    """

    listen: str = "0.0.0.0:50051"
    probe_listen: str = "0.0.0.0:50052"
    tls: TlsFiles | None = None
    allowed_identities: frozenset[str] = frozenset()
    drain_s: float = 30.0
    max_receive_bytes: int = 4 * MIB
    max_send_bytes: int = 16 * MIB
    max_concurrent_rpcs: int = 2000
    caller_limits: CallerLimits = CallerLimits()
    keepalive_s: float = 120.0
    keepalive_timeout_s: float = 20.0
    min_ping_interval_s: float = 30.0
    max_connection_age_s: float = 300.0
    max_connection_age_grace_s: float = 3600.0

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> RpcSettings:
        """Read and check all of it; raises ConfigError."""
        reader = EnvironReader(environ)
        settings = cls.read(reader)
        reader.done()
        return settings

    @classmethod
    def read(cls, reader: EnvironReader) -> RpcSettings:
        """Read through a reader that other settings share."""
        tls = _read_tls(reader)
        most_calls = reader.integer("PENSTOCK_MAX_CONCURRENT_RPCS", 2000, minimum=1)
        return cls(
            listen=reader.address("PENSTOCK_LISTEN", "0.0.0.0:50051"),
            probe_listen=reader.address("PENSTOCK_PROBE_LISTEN", "0.0.0.0:50052"),
            tls=tls,
            allowed_identities=_read_identities(reader),
            drain_s=reader.seconds("PENSTOCK_DRAIN_S", 30.0, maximum=3600.0),
            max_receive_bytes=reader.integer("PENSTOCK_MAX_RECEIVE_BYTES", 4 * MIB, minimum=1024),
            max_send_bytes=reader.integer("PENSTOCK_MAX_SEND_BYTES", 16 * MIB, minimum=MIB),
            max_concurrent_rpcs=most_calls,
            caller_limits=CallerLimits.read(reader, most_calls=most_calls, told_apart=tls is not None),
            keepalive_s=reader.seconds("PENSTOCK_KEEPALIVE_S", 120.0, minimum=1.0),
            keepalive_timeout_s=reader.seconds("PENSTOCK_KEEPALIVE_TIMEOUT_S", 20.0, minimum=1.0),
            min_ping_interval_s=reader.seconds("PENSTOCK_MIN_PING_INTERVAL_S", 30.0),
            max_connection_age_s=reader.seconds("PENSTOCK_MAX_CONNECTION_AGE_S", 300.0, minimum=1.0),
            max_connection_age_grace_s=reader.seconds("PENSTOCK_MAX_CONNECTION_AGE_GRACE_S", 3600.0, minimum=1.0),
        )


def _read_tls(reader: EnvironReader) -> TlsFiles | None:
    if reader.choice("PENSTOCK_TLS", ("mtls", "off"), "mtls") == "off":
        return None
    off = "or set PENSTOCK_TLS=off for a trusted network"
    ca = reader.required(
        "PENSTOCK_TLS_CA", f"point it at the PEM bundle of the CA that signs client certificates, {off}"
    )
    cert = reader.required("PENSTOCK_TLS_CERT", f"point it at the PEM certificate chain of this server, {off}")
    key = reader.required("PENSTOCK_TLS_KEY", f"point it at the PEM private key of PENSTOCK_TLS_CERT, {off}")
    return TlsFiles(ca=Path(ca), cert=Path(cert), key=Path(key))


def _read_identities(reader: EnvironReader) -> frozenset[str]:
    identities = frozenset(reader.names("PENSTOCK_ALLOWED_IDENTITIES"))
    partial = sorted(name for name in identities if ANY_IDENTITY in name and name != ANY_IDENTITY)
    for name in partial:
        reader.problems.append(
            f"PENSTOCK_ALLOWED_IDENTITIES has {name!r}: list whole identities; only a lone * is a wildcard"
        )
    return identities


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """How a service reaches Postgres. `statement_cache_size` 0 is for PgBouncer in transaction mode."""

    url: str = field(repr=False)
    pool_size: int = 10
    statement_cache_size: int = 256
    connect_timeout_s: float = 10.0

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> DatabaseSettings:
        """Read and check all of it; raises ConfigError."""
        reader = EnvironReader(environ)
        settings = cls.read(reader)
        reader.done()
        return settings

    @classmethod
    def read(cls, reader: EnvironReader) -> DatabaseSettings:
        """Read through a reader that other settings share."""
        return cls(
            url=reader.database_url("PENSTOCK_DATABASE_URL"),
            pool_size=reader.integer("PENSTOCK_POOL_SIZE", 10, minimum=1, maximum=1000),
            statement_cache_size=reader.integer("PENSTOCK_STATEMENT_CACHE_SIZE", 256, maximum=100_000),
            connect_timeout_s=reader.seconds("PENSTOCK_CONNECT_TIMEOUT_S", 10.0, minimum=0.1, maximum=600.0),
        )
