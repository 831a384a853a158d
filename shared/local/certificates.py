"""A certificate authority for demo and tests: server and client certificates over EC P-256 keys.

Never for production: the authority's key lies beside what it signs. Private keys are readable by their owner only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.local.files import write_private

TRUST_DOMAIN = "penstock.local"
DEMO_CLIENT = f"spiffe://{TRUST_DOMAIN}/client/demo"
_AUTHORITY_VALID_FOR = timedelta(days=3650)
_LEAF_VALID_FOR = timedelta(days=90)
# Clocks of the two ends may differ a little.
_BACKDATED = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """PEM files of one identity, and of the authority that vouches for its peers."""

    ca: Path
    certificate: Path
    key: Path

    def environment(self) -> dict[str, str]:
        """The PENSTOCK_TLS_* settings that name these files."""
        return {
            "PENSTOCK_TLS_CA": str(self.ca),
            "PENSTOCK_TLS_CERT": str(self.certificate),
            "PENSTOCK_TLS_KEY": str(self.key),
        }


class CertificateAuthority:
    """An authority with all files in one folder: `ca.crt`, `ca.key`, and `<name>.crt`, `<name>.key` of each issue."""

    def __init__(self, directory: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self.directory = directory
        self._key = key
        self._certificate = certificate

    @property
    def ca_path(self) -> Path:
        """The authority's own certificate."""
        return self.directory / "ca.crt"

    @classmethod
    def create(cls, directory: Path, *, common_name: str = "Penstock local CA") -> Self:
        """A new authority; files of an older one in that folder are replaced."""
        directory = directory.absolute()
        directory.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        name = _name(common_name)
        builder = (
            _builder(name, name, key.public_key(), now - _BACKDATED, now + _AUTHORITY_VALID_FOR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
        )
        authority = cls(directory, key, builder.sign(key, hashes.SHA256()))
        _write_key(directory / "ca.key", key)
        _write_certificate(authority.ca_path, authority._certificate)
        return authority

    @classmethod
    def open(cls, directory: Path) -> Self | None:
        """The authority in that folder; None where there is none that can be read and is valid for another day."""
        directory = directory.absolute()
        try:
            certificate = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
            key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), password=None)
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            return None
        return cls(directory, key, certificate) if _valid_for_a_day(certificate) else None

    @classmethod
    def ensure(cls, directory: Path) -> Self:
        """The authority in that folder, made where there is none."""
        return cls.open(directory) or cls.create(directory)

    def issue(
        self,
        name: str,
        *,
        dns: Sequence[str] = (),
        uris: Sequence[str] = (),
        ips: Sequence[str] = (),
        valid_for: timedelta = _LEAF_VALID_FOR,
        not_before: datetime | None = None,
    ) -> CertificateFiles:
        """Writes `<name>.crt` and `<name>.key`: CN = name, the SANs given, good for servers and clients.

        A `not_before` in the past with a short `valid_for` gives an expired certificate.
        """
        begin = not_before or datetime.now(UTC) - _BACKDATED
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(name, key, _subject_alternatives(dns, uris, ips), begin, begin + valid_for)
        files = self.files(name)
        _write_key(files.key, key)
        _write_certificate(files.certificate, certificate)
        return files

    def files(self, name: str) -> CertificateFiles:
        """Where the files of that name are, issued or not."""
        return CertificateFiles(
            ca=self.ca_path, certificate=self.directory / f"{name}.crt", key=self.directory / f"{name}.key"
        )

    def ensure_issued(
        self, name: str, *, dns: Sequence[str] = (), uris: Sequence[str] = (), ips: Sequence[str] = ()
    ) -> CertificateFiles:
        """The certificate from last time where it is this authority's and valid for another day, else a new one."""
        files = self.files(name)
        return files if self._still_good(files) else self.issue(name, dns=dns, uris=uris, ips=ips)

    def _still_good(self, files: CertificateFiles) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
            certificate.verify_directly_issued_by(self._certificate)
            key = serialization.load_pem_private_key(files.key.read_bytes(), password=None)
        except (FileNotFoundError, ValueError, TypeError, InvalidSignature):  # whatever is wrong, a new one is right
            return False
        return key.public_key() == certificate.public_key() and _valid_for_a_day(certificate)

    def _sign(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        alternatives: Sequence[x509.GeneralName],
        begin: datetime,
        end: datetime,
    ) -> x509.Certificate:
        builder = _builder(_name(name), self._certificate.subject, key.public_key(), begin, end)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def issue_local(authority: CertificateAuthority) -> tuple[CertificateFiles, CertificateFiles]:
    """The server's and the demo client's certificates of the local stack, those from last time where still valid."""
    server = authority.ensure_issued("server", dns=["localhost"], ips=["127.0.0.1"])
    client = authority.ensure_issued("client", uris=[DEMO_CLIENT])
    return server, client


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _subject_alternatives(dns: Sequence[str], uris: Sequence[str], ips: Sequence[str]) -> list[x509.GeneralName]:
    return [
        *(x509.DNSName(value) for value in dns),
        *(x509.UniformResourceIdentifier(value) for value in uris),
        *(x509.IPAddress(ipaddress.ip_address(value)) for value in ips),
    ]


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _valid_for_a_day(certificate: x509.Certificate) -> bool:
    now = datetime.now(UTC)
    return certificate.not_valid_before_utc <= now and now + timedelta(days=1) < certificate.not_valid_after_utc


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(path, pem.decode())


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
