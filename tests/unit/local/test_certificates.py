"""The local authority: what it issues, for how long, and who can read the keys."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from shared.local.certificates import (
    DEMO_CLIENT,
    CertificateAuthority,
    CertificateFiles,
    issue_local,
)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path)


def certificate(files: CertificateFiles) -> x509.Certificate:
    return x509.load_pem_x509_certificate(files.certificate.read_bytes())


def alternatives(files: CertificateFiles) -> x509.SubjectAlternativeName:
    return certificate(files).extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_private_keys_are_readable_by_their_owner_only(authority: CertificateAuthority, tmp_path: Path) -> None:
    issue_local(authority)
    keys = sorted(tmp_path.glob("*.key"))
    assert [key.name for key in keys] == ["ca.key", "client.key", "server.key"]
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}


def test_server_is_good_for_localhost_and_loopback(authority: CertificateAuthority) -> None:
    server, _ = issue_local(authority)
    assert alternatives(server).get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in alternatives(server).get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_client_is_named_by_a_spiffe_identity(authority: CertificateAuthority) -> None:
    _, client = issue_local(authority)
    assert alternatives(client).get_values_for_type(x509.UniformResourceIdentifier) == [DEMO_CLIENT]
    assert certificate(client).subject.rfc4514_string() == "CN=client"


def handshake(server: CertificateFiles, client: CertificateFiles) -> None:
    """Both ends verify each other strictly (RFC 5280), without a socket."""
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(server.ca))
    client_context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(client.ca))
    for context, files in ((server_context, server), (client_context, client)):
        context.load_cert_chain(files.certificate, files.key)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client_context.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server_context.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)


def test_server_and_client_accept_each_other_under_strict_verification(authority: CertificateAuthority) -> None:
    handshake(*issue_local(authority))


def test_expired_certificate_is_refused(authority: CertificateAuthority) -> None:
    server, _ = issue_local(authority)
    expired = authority.issue("old", valid_for=timedelta(hours=1), not_before=datetime.now(UTC) - timedelta(hours=2))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(server, expired)


def test_certificate_of_another_authority_is_refused(authority: CertificateAuthority, tmp_path: Path) -> None:
    server, _ = issue_local(authority)
    stranger = CertificateAuthority.create(tmp_path / "stranger").issue("client", uris=[DEMO_CLIENT])
    foreign = CertificateFiles(ca=authority.ca_path, certificate=stranger.certificate, key=stranger.key)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, foreign)


def test_valid_certificates_are_used_again(authority: CertificateAuthority) -> None:
    before = [files.certificate.read_bytes() for files in issue_local(authority)]
    again = CertificateAuthority.ensure(authority.directory)
    assert [files.certificate.read_bytes() for files in issue_local(again)] == before


def test_certificate_about_to_expire_is_issued_again(authority: CertificateAuthority) -> None:
    short = authority.issue("server", valid_for=timedelta(hours=1)).certificate.read_bytes()
    server, _ = issue_local(authority)
    assert server.certificate.read_bytes() != short


@pytest.mark.parametrize("damage", [b"", b"no PEM"])
def test_damaged_authority_is_replaced_and_so_is_what_it_signed(authority: CertificateAuthority, damage: bytes) -> None:
    before = issue_local(authority)[0].certificate.read_bytes()
    (authority.directory / "ca.key").write_bytes(damage)
    again = CertificateAuthority.ensure(authority.directory)
    server, client = issue_local(again)
    assert server.certificate.read_bytes() != before
    handshake(server, client)
