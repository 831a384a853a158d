"""Who calls, told from the peer's certificate, and whether they may. Pure; denies by default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

from shared.errors import PermissionDenied, Unauthenticated
from shared.settings import ANY_IDENTITY

# What gRPC core puts into the auth context of a verified certificate. The typed SAN lists are used, never the mixed
# `x509_subject_alternative_name`: an e-mail SAN must not pass for a DNS name.
_URI, _DNS, _COMMON_NAME = "peer_uri", "peer_dns", "x509_common_name"

# A URI has a colon (RFC 3986), a DNS name neither.
_URI_SIGNS = frozenset(":/")

ANONYMOUS = "anonymous"

# Whose call the current task serves, for what is shared out by caller. The interceptor sets it in the task of each RPC.
CALLER: ContextVar[str] = ContextVar("penstock_caller", default=ANONYMOUS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The names in a client certificate: SPIFFE (and other) URIs first, then DNS names, then the common name."""

    names: tuple[str, ...] = ()

    @property
    def principal(self) -> str:
        """The one name that logs and spans show."""
        return self.names[0] if self.names else ANONYMOUS


def read_identity(auth_context: Mapping[str, Iterable[bytes]]) -> Identity:
    """The identity in a gRPC auth context; no names for a plaintext peer. SPIFFE URIs come before other URIs.

    Allowed identities are one flat list, so a name must not pass for one of another type: whoever may choose a common
    name or a DNS name in a certificate request could write somebody's SPIFFE URI there.
    """
    return _identity(
        tuple(auth_context.get(_URI, ())), (*auth_context.get(_DNS, ()), *auth_context.get(_COMMON_NAME, ()))
    )


# Callers are few and call often.
@lru_cache(maxsize=1024)
def _identity(uris: tuple[bytes, ...], others: tuple[bytes, ...]) -> Identity:
    spiffe_first = sorted(_texts(uris), key=lambda uri: not uri.startswith("spiffe://"))
    return Identity(names=(*spiffe_first, *(name for name in _texts(others) if not _URI_SIGNS.intersection(name))))


def _texts(values: Iterable[bytes]) -> list[str]:
    return [text for text in (raw.decode("utf-8", "replace") for raw in values) if text]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Who may call. `required` False (PENSTOCK_TLS=off) lets everyone in, because nobody can be told apart."""

    allowed: frozenset[str]
    required: bool = True

    def check(self, identity: Identity) -> None:
        """Raise Unauthenticated for a peer without a name and PermissionDenied for one that is not listed."""
        if not self.required:
            return
        if not identity.names:
            raise Unauthenticated(
                "the client certificate has no URI or DNS name and no common name: issue one that names the caller",
                reason="NO_IDENTITY",
            )
        if ANY_IDENTITY not in self.allowed and self.allowed.isdisjoint(identity.names):
            raise PermissionDenied(
                f"{identity.principal} may not call this service: have it added to PENSTOCK_ALLOWED_IDENTITIES",
                reason="IDENTITY_NOT_ALLOWED",
                metadata={"identity": identity.principal},
            )
