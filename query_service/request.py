"""Checks a decoded request: nothing unknown in it, its own validation rules met. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from protovalidate import EvaluationError, Validator

from shared.contract.model import Method, MethodKind
from shared.errors import MOST_NAMED, FieldViolation, InvalidRequest

# Each value of an any-of filter is one ordered index scan of the query plan.
LARGEST_ANY_OF = 128
LARGEST_BATCH = 1000


def check_request(method: Method, message: Message, validator: Validator) -> None:
    """Raises InvalidRequest naming what is wrong with the request."""
    _refuse_unknown(message)
    _refuse_long(method, message)
    if method.request_has_rules:
        _check_rules(message, validator)


def _refuse_unknown(message: Message) -> None:
    """A filter this contract does not know must not be dropped: the caller would take all rows for matches."""
    if _holds_unknown(message):
        raise InvalidRequest(list(islice(_unknown(message, ""), MOST_NAMED)), reason="UNKNOWN_FIELD")


def _holds_unknown(message: Message) -> bool:
    """Whether `_unknown` has anything to tell, which of nearly all requests it has not."""
    if len(UnknownFieldSet(message)):
        return True
    for field, value in message.ListFields():
        if field.message_type is not None and any(map(_holds_unknown, value if field.is_repeated else (value,))):
            return True
    return False


def _unknown(message: Message, path: str) -> Iterator[FieldViolation]:
    """What the message holds and its descriptor does not, by field number, down through the messages inside it."""
    unknown: Any = UnknownFieldSet(message)  # iterable, which its stub does not say
    for number in sorted({field.field_number for field in islice(unknown, MOST_NAMED)}):
        description = f"{message.DESCRIPTOR.full_name} has no field of this number"
        yield FieldViolation(field=f"{path}{number}", description=description)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                yield from _unknown(inner, f"{path}{field.name}.")


def _refuse_long(method: Method, message: Message) -> None:
    """Before the rules are tried, which takes long on many values."""
    for name, most in _limits(method):
        count = len(getattr(message, name))
        if count > most:
            description = f"holds {count} values; at most {most} are accepted"
            raise InvalidRequest([FieldViolation(field=name, description=description)])


@lru_cache(maxsize=1024)
def _limits(method: Method) -> tuple[tuple[str, int], ...]:
    """How many values the repeated fields of a request may hold."""
    batches = [("requests", LARGEST_BATCH)] if method.kind is MethodKind.BATCH_GET else []
    return (*batches, *((name, LARGEST_ANY_OF) for name in method.filters if method.request_fields[name].is_repeated))


def _check_rules(message: Message, validator: Validator) -> None:
    try:
        found = validator.collect_violations(message)
    except EvaluationError as exc:
        # Rules that never work are refused with the contract: this one fails on what the caller has sent.
        description = f"a rule cannot be evaluated: {str(exc).partition(chr(10))[0]}"
        raise InvalidRequest([FieldViolation(field="", description=description)], reason="VALIDATION_FAILED") from exc
    if found:
        raise InvalidRequest([_violation(violation.proto) for violation in found], reason="VALIDATION_FAILED")


def _violation(violation: Any) -> FieldViolation:
    elements = violation.field.elements if violation.field is not None else ()
    path = ".".join(_step(element) for element in elements)
    return FieldViolation(field=path, description=f"{violation.message or violation.rule_id} ({violation.rule_id})")


def _step(element: Any) -> str:
    subscript = element.subscript
    return element.field_name if subscript is None else f"{element.field_name}[{subscript.value}]"
