"""Who gets in: every way to be refused, the plaintext switch, and certificates that change under a running server."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import shutil
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from shared.errors import ConfigError
from shared.local.certificates import CertificateAuthority, CertificateFiles
from shared.settings import TlsFiles


async def refused(call: Any) -> grpc.aio.AioRpcError:
    """The error of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_client_without_a_certificate_never_gets_through_the_handshake(serve: Any, dial: Any, stub: Any) -> None:
    async with serve() as server, dial(server.port, None) as channel:
        assert (await refused(stub(channel).echo("x", timeout=5))).code() is grpc.StatusCode.UNAVAILABLE
        assert not len(server.in_flight)


async def test_plaintext_client_is_refused(serve: Any, stub: Any) -> None:
    async with serve() as server, grpc.aio.insecure_channel(f"localhost:{server.port}") as channel:
        assert (await refused(stub(channel).echo("x", timeout=5))).code() is grpc.StatusCode.UNAVAILABLE


async def test_certificate_of_another_ca_is_refused(
    serve: Any, dial: Any, stub: Any, tmp_path: Path, client_files: CertificateFiles
) -> None:
    other = CertificateAuthority.create(tmp_path).issue("client", uris=["spiffe://penstock.test/client"])
    async with serve() as server, dial(server.port, dataclasses.replace(other, ca=client_files.ca)) as channel:
        assert (await refused(stub(channel).echo("x", timeout=5))).code() is grpc.StatusCode.UNAVAILABLE


async def test_expired_certificate_is_refused(
    serve: Any, dial: Any, stub: Any, authority: CertificateAuthority
) -> None:
    expired = authority.issue(
        "expired",
        uris=["spiffe://penstock.test/client"],
        not_before=datetime.now(UTC) - timedelta(days=2),
        valid_for=timedelta(days=1),
    )
    async with serve() as server, dial(server.port, expired) as channel:
        assert (await refused(stub(channel).echo("x", timeout=5))).code() is grpc.StatusCode.UNAVAILABLE


async def test_identity_that_is_not_listed_is_denied_everywhere_and_told_its_own_name(
    serve: Any, dial: Any, stub: Any, authority: CertificateAuthority
) -> None:
    stranger = authority.issue("stranger", uris=["spiffe://penstock.test/stranger"])
    async with serve() as server, dial(server.port, stranger) as channel:
        client = stub(channel)
        error = await refused(client.echo("x"))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "spiffe://penstock.test/stranger" in (error.details() or "")
        with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
            await client.count(1).read()
        health = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert (await refused(health(b""))).code() is grpc.StatusCode.PERMISSION_DENIED
        listing = reflection_pb2.ServerReflectionRequest(list_services="*").SerializeToString()
        reflection = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
            await reflection(iter([listing])).read()
        unknown = channel.unary_unary("/test.v1.Nothing/Here")
        assert (await refused(unknown(b""))).code() is grpc.StatusCode.PERMISSION_DENIED


async def test_request_of_a_denied_caller_is_not_even_parsed(
    serve: Any, dial: Any, authority: CertificateAuthority
) -> None:
    stranger = authority.issue("nosy", uris=["spiffe://penstock.test/nosy"])
    async with serve() as server, dial(server.port, stranger) as channel:
        raw = channel.unary_unary("/test.v1.ProbeService/Echo")
        assert (await refused(raw(b"\xff\xff"))).code() is grpc.StatusCode.PERMISSION_DENIED


async def test_empty_list_denies_everyone(serve: Any, dial: Any, stub: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with serve(allowed_identities=frozenset()) as server, dial(server.port) as channel:
        assert (await refused(stub(channel).echo("x"))).code() is grpc.StatusCode.PERMISSION_DENIED
    assert "every caller is denied" in caplog.text


@pytest.mark.parametrize(
    ("allowed", "names"),
    [
        ("spiffe://penstock.test/a", {"uris": ["spiffe://penstock.test/a"]}),
        ("a.internal", {"dns": ["a.internal"]}),
        ("named-by-cn", {}),
        ("*", {"dns": ["whoever.internal"]}),
    ],
)
async def test_uri_dns_name_common_name_or_star_lets_a_caller_in(
    serve: Any, dial: Any, stub: Any, authority: CertificateAuthority, allowed: str, names: dict[str, Any]
) -> None:
    files = authority.issue("named-by-cn", **names)
    async with serve(allowed_identities=frozenset({allowed})) as server, dial(server.port, files) as channel:
        assert (await stub(channel).echo("x")).value == "x"


async def test_plaintext_mode_serves_everyone_and_says_so_loudly(
    serve: Any, stub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serve(tls=None, allowed_identities=frozenset()) as server,
        grpc.aio.insecure_channel(f"localhost:{server.port}") as channel,
    ):
        assert (await stub(channel).echo("x")).value == "x"
    assert any("EVERYONE" in record.message and record.levelno >= logging.WARNING for record in caplog.records)


async def test_server_refuses_to_start_without_files_and_names_each(serve: Any, tmp_path: Path) -> None:
    missing = TlsFiles(ca=tmp_path / "ca", cert=tmp_path / "cert", key=tmp_path / "key")
    with pytest.raises(ConfigError) as caught:
        async with serve(tls=missing):
            pass
    lines = caught.value.message.splitlines()
    assert [line.split("=")[0] for line in lines] == ["PENSTOCK_TLS_CA", "PENSTOCK_TLS_CERT", "PENSTOCK_TLS_KEY"]


async def test_server_refuses_to_start_with_a_key_of_another_certificate(
    serve: Any, rotated: TlsFiles, authority: CertificateAuthority
) -> None:
    shutil.copy(authority.issue("another").key, rotated.key)
    with pytest.raises(ConfigError, match="PENSTOCK_TLS_KEY"):
        async with serve(tls=rotated):
            pass


async def test_server_refuses_to_start_with_a_ca_bundle_that_is_none(serve: Any, rotated: TlsFiles) -> None:
    rotated.ca.write_text("nothing of use")
    with pytest.raises(ConfigError, match="PENSTOCK_TLS_CA"):
        async with serve(tls=rotated):
            pass


async def served_serial(port: int, client: CertificateFiles) -> int:
    """The serial number of the certificate that a new connection is shown."""
    return await asyncio.to_thread(_served_serial, port, client)


def _served_serial(port: int, client: CertificateFiles) -> int:
    context = ssl.create_default_context(cafile=client.ca)
    context.load_cert_chain(client.certificate, client.key)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("localhost", port), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secured,
    ):
        der = secured.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def serial(path: Path) -> int:
    """The serial number in a PEM file."""
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


async def test_rotated_certificate_is_used_without_restart_and_open_connections_stay(
    serve: Any, dial: Any, stub: Any, rotated: TlsFiles, authority: CertificateAuthority, client_files: CertificateFiles
) -> None:
    async with serve(tls=rotated) as server, dial(server.port) as channel:
        assert await served_serial(server.port, client_files) == serial(rotated.cert)
        await stub(channel).echo("before")
        fresh = authority.issue("server-2", dns=["localhost"])
        shutil.copy(fresh.certificate, rotated.cert)
        shutil.copy(fresh.key, rotated.key)
        assert await served_serial(server.port, client_files) == serial(fresh.certificate)
        await stub(channel).echo("the old connection")
        async with dial(server.port) as second:
            await stub(second).echo("a new connection")


async def test_half_rotated_files_keep_the_old_certificate_until_they_fit(
    serve: Any, rotated: TlsFiles, authority: CertificateAuthority, client_files: CertificateFiles
) -> None:
    fresh = authority.issue("server-3", dns=["localhost"])
    old = serial(rotated.cert)
    async with serve(tls=rotated) as server:
        shutil.copy(fresh.certificate, rotated.cert)
        assert await served_serial(server.port, client_files) == old
        assert await served_serial(server.port, client_files) == old
        shutil.copy(fresh.key, rotated.key)
        assert await served_serial(server.port, client_files) == serial(fresh.certificate)


async def test_rotated_ca_lets_in_its_own_clients_and_no_longer_those_of_the_old_one(
    serve: Any, dial: Any, stub: Any, rotated: TlsFiles, tmp_path: Path, client_files: CertificateFiles
) -> None:
    other = CertificateAuthority.create(tmp_path / "new")
    newcomer = dataclasses.replace(other.issue("client", uris=["spiffe://penstock.test/client"]), ca=client_files.ca)
    async with serve(tls=rotated) as server:
        async with dial(server.port, newcomer) as channel:
            await refused(stub(channel).echo("x", timeout=5))
        shutil.copy(other.ca_path, rotated.ca)
        async with dial(server.port, newcomer) as channel:
            assert (await stub(channel).echo("x")).value == "x"
        async with dial(server.port) as channel:
            await refused(stub(channel).echo("x", timeout=5))


async def test_health_over_mtls_tells_readiness(serve: Any, dial: Any) -> None:
    async with serve() as server, dial(server.port) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        for name in ("", "readiness", "liveness", "test.v1.ProbeService"):
            answer = await check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
