"""Page and resume tokens: opaque text that names the last row served and the query it belongs to.

Pure. A token holds a position and no secret: forging one moves the caller inside rows it may read anyway.
Layout before base64url: format, scope (8), epoch (16), version (8), whether a key follows (1), key, CRC-32 (4).
"""

from __future__ import annotations

import binascii
import enum
import hashlib
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from shared.contract.model import Dataset
from shared.errors import FieldViolation, InvalidRequest

_FORMAT = 1
_HEADER = struct.Struct(">B8s16sQ?")
_CHECKSUM = struct.Struct(">I")
# base64url (RFC 4648) to and from the alphabet that binascii knows.
_URL_SAFE, _STANDARD = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")
# All tokens of a dataset carry one epoch, and to make a UUID takes longer than all else of a token.
_uuid = lru_cache(maxsize=1024)(lambda raw: UUID(bytes=raw))


class TokenKind(enum.Enum):
    """Which request field a token belongs in."""

    PAGE = "page_token"
    RESUME = "resume_token"


class Position(NamedTuple):
    """After which row to go on. `key` is the record encoded with its key fields and those that order the query only;
    None: before the first row. A tuple for its speed."""

    epoch: UUID
    version: int
    key: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScope:
    """The query that a token is good for: one method over one contract with one set of filters in one order."""

    kind: TokenKind
    digest: bytes


def token_scope(kind: TokenKind, method: str, dataset: Dataset, identity: Iterable[str]) -> TokenScope:
    """The scope of a query; `method` is the full name of the RPC, `identity` what tells its filters and order."""
    return _scope(kind, (method, dataset.name, dataset.fingerprint, *identity))


@lru_cache(maxsize=1024)
def _scope(kind: TokenKind, parts: tuple[str, ...]) -> TokenScope:
    text = "\0".join((kind.value, *parts))
    return TokenScope(kind=kind, digest=hashlib.blake2b(text.encode(), digest_size=8).digest())


def encode_token(scope: TokenScope, position: Position) -> str:
    """The token's text: ASCII, safe in URLs, without padding."""
    key = position.key or b""
    header = _HEADER.pack(_FORMAT, scope.digest, position.epoch.bytes, position.version, position.key is not None)
    body = header + key
    text = binascii.b2a_base64(body + _CHECKSUM.pack(zlib.crc32(body)), newline=False)
    return text.translate(_URL_SAFE, b"=").decode("ascii")


def decode_token(scope: TokenScope, text: str) -> Position:
    """The position of a token made for this scope; raises InvalidRequest (PAGE_TOKEN_INVALID, RESUME_TOKEN_INVALID)."""
    body = _checked_body(scope, text)
    version_byte, digest, epoch, version, has_key = _HEADER.unpack_from(body)
    if version_byte != _FORMAT:
        raise invalid_token(scope, "was made by another release of this service; start again without it")
    if digest != scope.digest:
        raise invalid_token(
            scope, "belongs to another method, filter, order or contract; repeat that request or send none"
        )
    key = body[_HEADER.size :] if has_key else None
    return Position(epoch=_uuid(epoch), version=version, key=key)


def _checked_body(scope: TokenScope, text: str) -> bytes:
    try:
        encoded = text.encode("ascii").translate(_STANDARD)
        raw = binascii.a2b_base64(encoded + b"=" * (-len(encoded) % 4), strict_mode=True)
    except ValueError as exc:  # of both, binascii.Error and UnicodeEncodeError, the base
        raise invalid_token(scope, "is not a token of this service") from exc
    body, checksum = raw[: -_CHECKSUM.size], raw[-_CHECKSUM.size :]
    if len(body) < _HEADER.size or checksum != _CHECKSUM.pack(zlib.crc32(body)):
        raise invalid_token(scope, "is damaged or cut short; send it exactly as it was received")
    return body


def invalid_token(scope: TokenScope, description: str) -> InvalidRequest:
    violation = FieldViolation(field=scope.kind.value, description=description)
    return InvalidRequest([violation], reason=f"{scope.kind.name}_TOKEN_INVALID")
