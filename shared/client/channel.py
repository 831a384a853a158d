"""mTLS channels from the settings that `penstock up` writes. Never falls back to plaintext."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
import grpc.aio

from shared.errors import ConfigError

_ROUND_ROBIN: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}
_RETRIES = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
# What a client should set, in any language. round_robin spreads calls over the pods of a headless Service (a target of
# dns:///name:port); without it all go to one. Calls that no server took are tried again; a stream only before its first
# message: after it the caller resumes.
SERVICE_CONFIG = json.dumps({**_ROUND_ROBIN, "methodConfig": [{"name": [{}], "retryPolicy": _RETRIES}]})
# gRPC waits 1 s, then up to 120 s, before it dials again; a rolling restart is over sooner. min_reconnect_backoff_ms is
# left alone: it also is the time that connecting may take, the TLS handshake on a busy machine included.
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    # Without gRPC's retries: this client has its own, which wait as long as the server says (retry.py).
    ("grpc.service_config", json.dumps(_ROUND_ROBIN)),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.max_receive_message_length", 8 * 1024 * 1024),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """PEM bytes: the authority of the server's certificate, and the client's own certificate and key."""

    ca: bytes
    certificate: bytes
    key: bytes

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """From the files named by PENSTOCK_TLS_CA, PENSTOCK_TLS_CERT and PENSTOCK_TLS_KEY."""
        ca, certificate, key = (_pem(environ, f"PENSTOCK_TLS_{part}") for part in ("CA", "CERT", "KEY"))
        return cls(ca=ca, certificate=certificate, key=key)

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel of either kind."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)


def open_channel(address: str, tls: ClientTls) -> grpc.Channel:
    """A channel to `host:port` or a gRPC target such as `dns:///name:port`; a context manager that closes it."""
    return grpc.secure_channel(address, tls.credentials(), options=_OPTIONS)


def open_async_channel(address: str, tls: ClientTls) -> grpc.aio.Channel:
    """The same for asyncio."""
    return grpc.aio.secure_channel(address, tls.credentials(), options=_OPTIONS)


def _pem(environ: Mapping[str, str], name: str) -> bytes:
    path = environ.get(name)
    if not path:
        raise ConfigError(f"{name} is not set: `source .penstock/env`, or name the file", reason="MISSING_SETTING")
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        raise ConfigError(f"{name}={path} cannot be read: {exc.strerror}", reason="UNREADABLE_FILE") from exc
