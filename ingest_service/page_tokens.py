"""Tokens of ListLoads, ListRejects and WatchLoads: opaque, versioned, good for the request they came from. Pure."""

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
_PLACE_FIELDS = frozenset({"page_size", "page_token", "resume_token"})


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


def decode(request: Message, token: str, *, field: str = "page_token") -> list[str | int]:
    """The cursor of a token that `encode` made for the same request. Raises InvalidRequest for any other."""
    try:
        content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        version, binding, *cursor = content
    except (binascii.Error, UnicodeError, ValueError, TypeError, RecursionError) as exc:
        raise malformed(field) from exc
    if version != _VERSION or binding != _binding(request):
        raise _invalid(field, "belongs to another request; only page_size may change between pages")
    return list(cursor)


def malformed(field: str = "page_token") -> InvalidRequest:
    """What a token ends with that `encode` cannot have made."""
    return _invalid(field, f"is no {field} of this service; start again without one")


def _binding(request: Message) -> str:
    """What the token is good for: the request without the fields that say where to go on."""
    plain = type(request)()
    plain.CopyFrom(request)
    for name in _PLACE_FIELDS.intersection(type(request).DESCRIPTOR.fields_by_name):
        plain.ClearField(name)
    content = type(request).DESCRIPTOR.full_name.encode() + plain.SerializeToString(deterministic=True)
    return hashlib.sha256(content).hexdigest()[:16]


def _invalid(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field=field, description=problem)], reason=f"{field.upper()}_INVALID")
