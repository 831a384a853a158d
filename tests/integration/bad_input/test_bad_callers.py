"""Callers without a certificate that counts: nobody gets as far as a handler, and those who may still do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from shared.local.certificates import CertificateAuthority, CertificateFiles
from tests.integration.bad_input.served import serving_mtls
from tests.integration.query.lab import Client, Lab, readings
from tests.integration.rpc.conftest import CLIENT, Dial

Issue = Callable[[CertificateAuthority, CertificateFiles, Path], CertificateFiles | None]


def nothing(_: CertificateAuthority, __: CertificateFiles, ___: Path) -> None:
    """TLS without a client certificate."""


def of_another_ca(_: CertificateAuthority, trusted: CertificateFiles, folder: Path) -> CertificateFiles:
    """With the very name that is allowed."""
    stranger = CertificateAuthority.create(folder / "other").issue("client", uris=[CLIENT])
    return dataclasses.replace(stranger, ca=trusted.ca)


def expired(authority: CertificateAuthority, _: CertificateFiles, __: Path) -> CertificateFiles:
    begin = datetime.now(UTC) - timedelta(days=2)
    return authority.issue("expired", uris=[CLIENT], not_before=begin, valid_for=timedelta(days=1))


def not_yet_valid(authority: CertificateAuthority, _: CertificateFiles, __: Path) -> CertificateFiles:
    return authority.issue("early", uris=[CLIENT], not_before=datetime.now(UTC) + timedelta(days=1))


@pytest.mark.parametrize("issue", [nothing, of_another_ca, expired, not_yet_valid])
async def test_caller_without_a_certificate_that_counts_gets_no_connection(
    issue: Issue,
    lab: Lab,
    authority: CertificateAuthority,
    server_files: CertificateFiles,
    client_files: CertificateFiles,
    dial: Dial,
    tmp_path: Path,
) -> None:
    await lab.insert(readings(lab, 3))
    async with serving_mtls(lab, server_files) as server:
        async with dial(server.port, issue(authority, client_files, tmp_path)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await Client(lab=lab, channel=channel, server=server).call("ListReadings")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        async with dial(server.port) as channel:
            page = await Client(lab=lab, channel=channel, server=server).call("ListReadings")
            assert len(page.readings) == 3


async def test_identity_that_is_not_listed_is_told_its_name_and_no_row(
    lab: Lab, authority: CertificateAuthority, server_files: CertificateFiles, dial: Dial
) -> None:
    stranger = authority.issue("stranger", uris=["spiffe://penstock.test/stranger"])
    await lab.insert(readings(lab, 3))
    async with serving_mtls(lab, server_files) as server, dial(server.port, stranger) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Client(lab=lab, channel=channel, server=server).call("ListReadings")
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "spiffe://penstock.test/stranger" in str(caught.value.details())
