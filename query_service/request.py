"""Checks a decoded request: nothing unknown in it, its own validation rules met. Pure."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from protovalidate import Validator

from shared.contract.model import Method
from shared.errors import FieldViolation, InvalidRequest


def check_request(method: Method, message: Message, validator: Validator) -> None:
    """Raises InvalidRequest naming what is wrong with the request."""
    _refuse_unknown(method, message)
    if method.request_has_rules:
        _check_rules(message, validator)


def _refuse_unknown(method: Method, message: Message) -> None:
    """A filter this contract does not know must not be dropped: the caller would take all rows for matches."""
    unknown: Any = UnknownFieldSet(message)  # iterable, which its stub does not say
    if not len(unknown):
        return
    numbers = sorted({field.field_number for field in unknown})
    violations = [
        FieldViolation(field=str(number), description=f"{method.input.full_name} has no field of this number")
        for number in numbers
    ]
    raise InvalidRequest(violations, reason="UNKNOWN_FIELD")


def _check_rules(message: Message, validator: Validator) -> None:
    found = validator.collect_violations(message)
    if found:
        raise InvalidRequest([_violation(violation.proto) for violation in found], reason="VALIDATION_FAILED")


def _violation(violation: Any) -> FieldViolation:
    elements = violation.field.elements if violation.field is not None else ()
    path = ".".join(_step(element) for element in elements)
    return FieldViolation(field=path, description=f"{violation.message or violation.rule_id} ({violation.rule_id})")


def _step(element: Any) -> str:
    subscript = element.subscript
    return element.field_name if subscript is None else f"{element.field_name}[{subscript.value}]"
