"""Settings: every problem at once, in words that say what to do, and no secret in any of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.settings import DatabaseSettings, EnvironReader, RpcSettings, TlsFiles

TLS = {"PENSTOCK_TLS_CA": "/tls/ca.crt", "PENSTOCK_TLS_CERT": "/tls/tls.crt", "PENSTOCK_TLS_KEY": "/tls/tls.key"}


def problems(environ: dict[str, str]) -> list[str]:
    """The lines of the error that reading both kinds of settings gives."""
    reader = EnvironReader(environ)
    RpcSettings.read(reader)
    DatabaseSettings.read(reader)
    with pytest.raises(ConfigError) as caught:
        reader.done()
    return caught.value.message.splitlines()


def test_all_problems_are_told_at_once_one_line_each() -> None:
    lines = problems({"PENSTOCK_LISTEN": "nowhere", "PENSTOCK_DRAIN_S": "soon", "PENSTOCK_POOL_SIZE": "0"})
    names = [line.split("=")[0].split(" ")[0] for line in lines]
    assert sorted(names) == sorted(
        ["PENSTOCK_LISTEN", *TLS, "PENSTOCK_DRAIN_S", "PENSTOCK_DATABASE_URL", "PENSTOCK_POOL_SIZE"]
    )


def test_missing_ca_says_what_to_set_or_how_to_do_without() -> None:
    assert (
        "PENSTOCK_TLS_CA is not set: point it at the PEM bundle of the CA that signs client certificates,"
        " or set PENSTOCK_TLS=off for a trusted network"
    ) in problems({})


def test_mtls_is_the_default_and_denies_everyone_until_told_otherwise() -> None:
    settings = RpcSettings.from_environ(TLS)
    assert settings.tls == TlsFiles(ca=Path("/tls/ca.crt"), cert=Path("/tls/tls.crt"), key=Path("/tls/tls.key"))
    assert settings.allowed_identities == frozenset()
    assert (settings.listen, settings.probe_listen, settings.drain_s) == ("0.0.0.0:50051", "0.0.0.0:50052", 30.0)


def test_plaintext_has_to_be_asked_for_by_name() -> None:
    assert RpcSettings.from_environ({"PENSTOCK_TLS": "OFF"}).tls is None
    with pytest.raises(ConfigError, match="PENSTOCK_TLS='none' is not known"):
        RpcSettings.from_environ({"PENSTOCK_TLS": "none", **TLS})


def test_identities_are_a_comma_list_of_whole_names() -> None:
    settings = RpcSettings.from_environ({**TLS, "PENSTOCK_ALLOWED_IDENTITIES": " spiffe://a/b , c.internal,, "})
    assert settings.allowed_identities == {"spiffe://a/b", "c.internal"}
    assert RpcSettings.from_environ({**TLS, "PENSTOCK_ALLOWED_IDENTITIES": "*"}).allowed_identities == {"*"}
    with pytest.raises(ConfigError, match="only a lone"):
        RpcSettings.from_environ({**TLS, "PENSTOCK_ALLOWED_IDENTITIES": "spiffe://a/*"})


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:50051", "localhost:65535"])
def test_addresses_that_grpc_takes_are_taken(address: str) -> None:
    assert RpcSettings.from_environ({**TLS, "PENSTOCK_LISTEN": address}).listen == address


@pytest.mark.parametrize("address", ["50051", ":50051", "host:", "host:port", "host:65536", "host:-1", "host:²"])
def test_other_addresses_are_problems(address: str) -> None:
    with pytest.raises(ConfigError, match="is not an address"):
        RpcSettings.from_environ({**TLS, "PENSTOCK_LISTEN": address})


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e9", "", "  "])
def test_durations_are_finite_and_in_range_and_blank_means_the_default(value: str) -> None:
    environ = {**TLS, "PENSTOCK_DRAIN_S": value}
    if value.strip():
        with pytest.raises(ConfigError, match="PENSTOCK_DRAIN_S"):
            RpcSettings.from_environ(environ)
    else:
        assert RpcSettings.from_environ(environ).drain_s == 30.0


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:s3cret@h/db",
        "postgresql://u:s3cret@h:5432",
        "postgresql://u:s3cret@h:port/db",
        "postgresql://u:s3/cret@h:5432/db",
        "u:s3cret@h/db",
    ],
)
def test_wrong_database_url_is_told_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DatabaseSettings.from_environ({"PENSTOCK_DATABASE_URL": url})
    assert "is not a Postgres URL" in caught.value.message
    assert "s3" not in caught.value.message


def test_password_is_not_in_the_repr_of_settings() -> None:
    settings = DatabaseSettings.from_environ({"PENSTOCK_DATABASE_URL": "postgresql://u:s3cret@h/db"})
    assert settings.url.endswith("/db")
    assert "s3cret" not in repr(settings)
