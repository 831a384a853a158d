"""mTLS server credentials that follow their files: a rotated Secret is used from the next handshake on, no restart.

Never serves without a CA to verify clients by, and never replaces a working certificate by a broken one.
"""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc

from shared.errors import ConfigError
from shared.settings import TlsFiles

_LOG = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    stamp: Stamp
    configuration: grpc.ServerCertificateConfiguration


class CertificateSource:
    """The server's certificate, key and client CA, read again when a file changed. Called from gRPC's own threads.

    The constructor raises ConfigError, with a line per file that is missing, unreadable or does not fit.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._failed: Stamp | None = None
        self._loaded = _load(files)

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that demand a client certificate signed by the CA and ask `fetch` at every handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._loaded.configuration,
            self.fetch,  # type: ignore[arg-type]  # None is documented as "no change"; the stubs forget it
            require_client_authentication=True,
        )

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """The new configuration after a rotation, None when the files are as before or cannot be used yet."""
        with self._lock:
            try:
                stamp = _stamp(self._files)
                if stamp in {self._loaded.stamp, self._failed}:
                    return None
                self._loaded = _load(self._files)
            except ConfigError as exc:
                # Files change one after another: the certificate of before stays until all three fit again.
                self._failed = _quiet_stamp(self._files)
                _LOG.warning("new TLS files cannot be used, the old ones stay: %s", exc.message)
                return None
            self._failed = None
            _LOG.info("TLS files changed and were read again", extra={"certificate": str(self._files.cert)})
            return self._loaded.configuration


def _load(files: TlsFiles) -> _Loaded:
    stamp = _stamp(files)
    ca, cert, key = (_read(name, path) for name, path in _named(files))
    _check(files)
    return _Loaded(
        stamp=stamp, configuration=grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=ca)
    )


def _named(files: TlsFiles) -> tuple[tuple[str, Path], ...]:
    return ("PENSTOCK_TLS_CA", files.ca), ("PENSTOCK_TLS_CERT", files.cert), ("PENSTOCK_TLS_KEY", files.key)


def _stamp(files: TlsFiles) -> Stamp:
    """What tells one state of the files from another; a Secret's files are replaced, so the inode changes too."""
    stamps, problems = [], []
    for name, path in _named(files):
        try:
            status = path.stat()
        except OSError as exc:
            problems.append(_unreadable(name, path, exc))
        else:
            stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
    if problems:
        raise ConfigError("\n".join(problems), reason="TLS_FILES")
    return tuple(stamps)


def _quiet_stamp(files: TlsFiles) -> Stamp | None:
    try:
        return _stamp(files)
    except ConfigError:  # a file is gone; the next handshake looks again
        return None


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(_unreadable(name, path, exc), reason="TLS_FILES") from exc


def _unreadable(name: str, path: Path, exc: OSError) -> str:
    return f"{name}={path} cannot be read ({exc.strerror}): name an existing PEM file that this user may read"


def _check(files: TlsFiles) -> None:
    """gRPC would only fail at the first handshake, without a word on the cause."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cafile=files.ca)
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError(
            f"PENSTOCK_TLS_CA={files.ca} is not a PEM bundle of CA certificates", reason="TLS_FILES"
        ) from exc
    try:
        # The password callback keeps OpenSSL from asking for one on the terminal.
        context.load_cert_chain(files.cert, files.key, password=lambda: "")
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError(
            f"PENSTOCK_TLS_CERT={files.cert} and PENSTOCK_TLS_KEY={files.key} are not a PEM certificate and its"
            " unencrypted private key",
            reason="TLS_FILES",
        ) from exc
