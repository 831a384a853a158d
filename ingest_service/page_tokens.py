"""Page tokens of ListLoads and ListRejects: opaque, versioned, and good for the request they came from only. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence

from google.protobuf.message import Message

from shared.errors import FieldViolation, InvalidRequest

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
_VERSION = 1


def page_size(requested: int) -> int:
    """The page size to use (AIP-158): 0 is the default, too much is the maximum, negative is refused."""
    if requested < 0:
        problem = "must not be negative; 0 stands for the default"
        raise InvalidRequest([FieldViolation(field="page_size", description=problem)], reason="INVALID_PAGE_SIZE")
    return min(requested or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def encode(request: Message, cursor: Sequence[str | int]) -> str:
    """A token that continues `request` after `cursor`."""
    content = json.dumps([_VERSION, _binding(request), *cursor], separators=(",", ":"))
    return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def decode(request: Message, token: str) -> list[str | int]:
    """The cursor of a token that `encode` made for the same request. Raises InvalidRequest for any other."""
    try:
        content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        version, binding, *cursor = content
    except (binascii.Error, UnicodeError, ValueError, TypeError, RecursionError) as exc:
        raise malformed() from exc
    if version != _VERSION or binding != _binding(request):
        raise _invalid("belongs to another request; only page_size may change between pages")
    return list(cursor)


def malformed() -> InvalidRequest:
    """What a token ends with that `encode` cannot have made."""
    return _invalid("is not a page token; start again without one")


def _binding(request: Message) -> str:
    """What the token is good for: the request without its page fields."""
    plain = type(request)()
    plain.CopyFrom(request)
    plain.ClearField("page_size")
    plain.ClearField("page_token")
    content = type(request).DESCRIPTOR.full_name.encode() + plain.SerializeToString(deterministic=True)
    return hashlib.sha256(content).hexdigest()[:16]


def _invalid(problem: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field="page_token", description=problem)], reason="PAGE_TOKEN_INVALID")
