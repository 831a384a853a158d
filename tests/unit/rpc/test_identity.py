"""Who a certificate names, and that nobody gets in by default."""

from __future__ import annotations

import pytest

from shared.errors import PermissionDenied, Unauthenticated
from shared.rpc.identity import Identity, Policy, read_identity


def test_spiffe_uri_comes_first_and_every_name_counts() -> None:
    identity = read_identity(
        {
            "peer_uri": [b"https://other", b"spiffe://td/a"],
            "peer_dns": [b"a.internal"],
            "x509_common_name": [b"a"],
        }
    )
    assert identity.names == ("spiffe://td/a", "https://other", "a.internal", "a")
    assert identity.principal == "spiffe://td/a"


def test_email_and_ip_names_are_no_identity() -> None:
    context = {"peer_email": [b"a@b"], "peer_ip": [b"10.0.0.1"], "x509_subject_alternative_name": [b"a.internal"]}
    assert read_identity(context).names == ()


@pytest.mark.parametrize("kind", ["peer_dns", "x509_common_name"])
def test_a_uri_counts_only_where_uris_stand(kind: str) -> None:
    assert read_identity({kind: [b"spiffe://td/admin", b"a.internal"]}).names == ("a.internal",)


def test_empty_common_name_is_no_identity() -> None:
    assert read_identity({"x509_common_name": [b""]}).names == ()


@pytest.mark.parametrize("allowed", [frozenset(), frozenset({"spiffe://td/b"}), frozenset({"spiffe://td/"})])
def test_unlisted_identity_is_denied(allowed: frozenset[str]) -> None:
    with pytest.raises(PermissionDenied, match="spiffe://td/a"):
        Policy(allowed=allowed).check(Identity(names=("spiffe://td/a",)))


def test_any_listed_name_is_enough() -> None:
    Policy(allowed=frozenset({"a.internal"})).check(Identity(names=("spiffe://td/a", "a.internal")))


def test_star_admits_every_name_but_not_a_nameless_certificate() -> None:
    policy = Policy(allowed=frozenset({"*"}))
    policy.check(Identity(names=("whoever",)))
    with pytest.raises(Unauthenticated):
        policy.check(Identity())


def test_star_in_a_certificate_is_just_a_name() -> None:
    with pytest.raises(PermissionDenied):
        Policy(allowed=frozenset({"a"})).check(Identity(names=("*",)))


def test_without_mtls_nobody_is_asked() -> None:
    Policy(allowed=frozenset(), required=False).check(Identity())
