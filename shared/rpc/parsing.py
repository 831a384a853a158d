"""Request bytes -> message; what is none becomes an error that says so. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from google.protobuf.message import DecodeError

from shared.errors import FieldViolation, InvalidRequest

Deserializer: TypeAlias = Callable[[bytes], Any] | None


def parsed(request: Any, parse: Deserializer) -> Any:
    """The message of a request; raises InvalidRequest (MALFORMED_REQUEST). Without `parse`, the request as it is."""
    if parse is None:
        return request
    try:
        return parse(request)
    except DecodeError as exc:
        violation = FieldViolation(field="", description="the request is not a message of the method's request type")
        raise InvalidRequest([violation], reason="MALFORMED_REQUEST") from exc


def guarded(parse: Deserializer) -> Deserializer:
    """The same as a deserializer, for each message of a stream."""
    return None if parse is None else lambda raw: parsed(raw, parse)
